"""Tiny random configs of every causal language model and every model for text and images of transformers, with every
variety of layer that its defaults have."""

import os
import sys

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
                                                    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launch"))
from graph_export.shrink import smaller_values  # noqa: E402

SEQLEN = 32
LAYERS, MOST_LAYERS = 4, 6
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers", "num_blocks")
DROP = "drop"  # leave the key out: the config computes it

# Defaults say little of these, or a small model needs another ratio.
BOTH = {"num_dense_layers": 1, "first_k_dense_replace": 1}
DECODER = {"is_decoder": True}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SECTIONS = {"rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]}}
LLAMA4 = {"num_hidden_layers": 4, "layer_types": DROP, "interleave_moe_layer_step": 2, "moe_layers": DROP, "no_rope_layers": [1, 1, 1, 0]}
SPARSE_QWEN = {"indexer_n_heads": 8, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8, "indexer_compress_ratio": 4}
# Widths that are multiples of 32, so that every format can hold all layers.
MLA = {"kv_lora_rank": 32, "qk_rope_head_dim": 32, "head_dim": 32, "qk_head_dim": 48}
MAMBA = {"mamba_n_heads": 32, "mamba_d_head": 4}
SHARING = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
# In the place of vision parts that come from the Python package timm.
SOME_VISION = transformers.SiglipVisionConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
                                              image_size=16, patch_size=4, model_args={"embed_dim": 64})
CHANGES = {
    **dict.fromkeys(("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta",
                     "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "whisper"), DECODER),
    "big_bird": {**DECODER, "attention_type": "original_full"}, "xmod": {**DECODER, "default_language": "en_XX"},
    "xlm": {"emb_dim": 64, "causal": True}, "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "topk_method": "group_limited_greedy"},
    "zaya": {"num_experts_per_tok": 1}, "zamba2": {"attention_head_dim": 32, "attention_hidden_size": 128},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "dots1": {"n_routed_experts": 8, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots3_note_text": {"num_key_value_heads": 4}, "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "moe_topk": 2, "num_experts": 8, "num_shared_expert": 1}, "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16}, "qwen4_exp_text": SPARSE_QWEN, "qwen4_exp": {"text_config": SPARSE_QWEN},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    **dict.fromkeys(("lfm2", "lfm2_moe"), {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "qwen3_next", "flint"), {"mlp_only_layers": [0]}),
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 0},
    "llama4_text": LLAMA4, "llama4": {"text_config": LLAMA4},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 4}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4, "attention_layers": DROP},
    "reformer": {**DECODER, "axial_pos_shape": [4, 8], "axial_pos_embds_dim": [16, 48], "attn_layers": ["local", "lsh", "local", "lsh"],
                 "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "num_buckets": 4, "feed_forward_size": 96, "attention_head_size": 16},
    "blt": {"encoder_config": {"hidden_size_global": 64}, "decoder_config": {"hidden_size_global": 64}},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2,
              "attention_hidden_size": 128, "attention_head_dim": 32, "num_key_value_heads": 4},
    **dict.fromkeys(("qwen2", "qwen3"), {"use_sliding_window": True, "max_window_layers": 2, "layer_types": DROP}),
    "bamba": {"attn_layer_indices": [1, 3], "layer_types": DROP, "layers_block_type": DROP},
    **dict.fromkeys(("deepseek_v3", "kimi_linear"), MLA), "deepseek_v32": {**MLA, "index_head_dim": 32}, "falcon_h1": MAMBA,
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention", "mamba", "attention"], "layers_block_type": DROP},
    "gemma4_text@large": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "enable_moe_block": True, "num_experts": 8,
                          "top_k_experts": 2, "moe_intermediate_size": 96},
    "gemma4_text@e2b": SHARING, "gemma3n_text": SHARING, "gemma3n": {"text_config": SHARING}, "glm_moe_dsa@shared": {"indexer_types": ["full", "shared", "full", "shared"]},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]}, "granitemoeshared": {"shared_intermediate_size": 32},
    "granitemoe_swa": {"shared_intermediate_size": 32}, "qwen2_vl": {"text_config": SECTIONS}, "qwen2_5_vl": {"text_config": SECTIONS},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": {**ROPE, "mrope_section": [3, 3, 2]}}},
    **dict.fromkeys(("glm4v", "glm46v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_5_omni_thinker"), {"text_config": SECTIONS}),
    "glm4v_moe": {"text_config": {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}}},
    "chameleon": {"vocabulary_map": {"<image>": 2, "IMGIMGAZ": 3, "IMGIMGBZ": 4}},
    "hunyuan_vl": {"text_config": {"head_dim": 16, "rope_parameters": {**ROPE, "mrope_section": [2, 2, 2, 2]}}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": ROPE}}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_experts_per_tok": 2}},
    "granite4_vision": {"deepstack_layer_map": [], "downsample_rate": "1/2"},
    "molmo2": {"adapter_config": {"vision_feature_layer": [3, 1]}},
    **dict.fromkeys(("fast_vlm", "perception_lm"), {"vision_config": SOME_VISION}),
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "step3p7": {"text_config": {"sliding_window": 8}},
    "dots3_note": {"text_config": {"num_key_value_heads": 4}},
    "gpt_neox@in_sequence": {"use_parallel_residual": False, "hidden_act": "gelu_fast"},
    "opt@350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 32},
    # Samples are longer than what the model was first trained for, so the long factors count.
    "phi3@longrope": {"max_position_embeddings": 256, "original_max_position_embeddings": 16, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0 + 0.1 * i for i in range(8)],
        "long_factor": [1.0 + i for i in range(8)], "original_max_position_embeddings": 16}},
}
VARIETIES = ("gemma4_text@large", "gemma4_text@e2b", "glm_moe_dsa@shared")

# Why a model does not count.
NEEDS_IMAGE = "it does not run on text alone: each pass needs an image"
OTHER_STATES = "it is a draft model: its blocks need the states of another model"
ENCODER = "it is an encoder and a decoder: the decoder needs what the encoder makes"
SOUNDS = "its tokens are codes of sound in several rows, and no text"
LEFT_OUT = {
    **dict.fromkeys(("blip", "blip-2", "idefics", "kosmos-2", "instructblip", "instructblipvideo"), NEEDS_IMAGE),
    "evolla": "it needs a protein", "pi0": "it computes the movements of a robot, and no text",
    "diffusion_gemma": "its attention sees later tokens: it writes blocks of text by diffusion",
    "xlnet": "its attention is that of a permutation of the tokens, with two streams",
    "prophetnet": "it has several streams, each for a later token",
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), OTHER_STATES),
    **dict.fromkeys(("florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop", "vision-encoder-decoder"), ENCODER),
    **dict.fromkeys(("musicgen", "musicgen_melody"), SOUNDS),
}


def all_names():
    """Causal language models, models for text and images (of which the text part is exported), and more varieties."""
    return list(dict.fromkeys([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *VARIETIES]))


def chosen_layers(values):
    """Layers that show every combination of what the lists say per layer, at least LAYERS; and these lists."""
    count = next((values[key] for key in COUNTS if isinstance(values.get(key), int)), None)
    lists = {key: value for key, value in values.items() if isinstance(value, (list, tuple)) and count and len(value) == count > 2}
    if not lists:
        return None, {}
    picked, seen = [], set()
    for i in range(count):
        combination = tuple(str(entry[i]) for entry in lists.values())
        if combination not in seen:
            seen.add(combination)
            picked.append(i)
    picked += [i for i in range(count) if i not in picked][:max(0, LAYERS - len(picked))]
    picked = sorted(picked)[:MOST_LAYERS]
    return len(picked), {key: [entry[i] for i in picked] for key, entry in lists.items()}


def tiny(cls, changes, depth=0):
    base = cls()
    values = {key: value for key, value in vars(base).items() if not key.startswith("_")}
    made = smaller_values(values, SEQLEN)
    count, lists = chosen_layers({**values, **made})
    made.update(lists)
    for key in COUNTS:
        if isinstance(values.get(key), int):
            made[key] = count or min(LAYERS, values[key])
    for key in BOTH:
        if values.get(key):
            made[key] = BOTH[key]
    for key, value in values.items():
        inner = changes.get(key, {})
        if isinstance(value, transformers.PretrainedConfig) and isinstance(inner, dict) and depth < 3:
            made[key] = tiny(type(value), inner, depth + 1)
    for key, value in changes.items():
        if not isinstance(value, dict) or not isinstance(values.get(key), transformers.PretrainedConfig):
            made[key] = value
    return cls(**{key: value for key, value in made.items() if not (isinstance(value, str) and value == DROP)})


def config_of(name):
    """name: a model_type, or model_type@variety."""
    return tiny(CONFIG_MAPPING[name.split("@")[0]], CHANGES.get(name, {}))
