"""A small sibling of a config: the same model code takes the same ways on it, in a moment.

Widths, the number of experts, windows and vocabularies become small; the number of layers, every switch and every list
that says something per layer stay, so that layer i of the sibling is layer i of the model."""

import copy

import transformers

WIDTH = 64
HEADS = 4
HEAD = 16
SMALL_SEQLEN = 32

# key -> the most that the sibling has.
MOST = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "embedding_size", "word_embed_proj_dim", "emb_dim",
                     "lru_width", "attention_hidden_size", "backbone_hidden_size", "out_hidden_size",
                     "adapter_in_dim", "adapter_out_dim", "adapter_input_size",
                     "text_hidden_size", "projector_hidden_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "dff", "dim_ff",
                     "ffn_hidden_size", "d_ff", "intermediate_size_mlp", "dense_intermediate_size", "feed_forward_size"), 96),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads",
                     "attention_heads", "swa_num_attention_heads"), HEADS),
    **dict.fromkeys(("head_dim", "dim_head", "d_kv", "kv_channels", "swa_head_dim", "swa_v_head_dim", "attention_head_dim",
                     "query_pre_attn_scalar", "attention_head_size"), HEAD),
    "vocab_size": 128, "vocab_size_per_layer_input": 128,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    "max_length": 64, "original_max_position_embeddings": 64,
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_head_dim": 24,
    "o_lora_rank": 16, "o_groups": 2,
    **dict.fromkeys(("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "num_expert_group"), 2), **dict.fromkeys(("topk_group", "num_limited_groups"), 1),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size", "shared_intermediate_size",
                     "moe_shared_expert_intermediate_size", "shared_experts_intermediate_size", "share_expert_dim"), 32),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1), "zero_expert_num": 2,
    **dict.fromkeys(("sliding_window", "window_size", "sliding_window_size", "attention_window_size", "attention_chunk_size",
                     "local_attn_chunk_length", "lsh_attn_chunk_length"), 8),
    **dict.fromkeys(("mamba_d_state", "mamba_d_head", "mamba_head_dim", "state_size", "ssm_state_size"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_chunk_size", "chunk_size", "mamba_dt_rank", "time_step_rank"), 8),
    "mamba_d_ssm": 128, "n_mamba_heads": 2, "n_groups": 2, "mamba_n_groups": 2,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_head_dim": 16, "linear_num_heads": 4,
    "index_head_dim": 16, "index_n_heads": 2, "index_topk": 8, "index_kpool": 4, "laurel_rank": 8, "hidden_size_per_layer_input": 16,
    "hc_lowrank": 8, "d_rel": 8, "rel_extent": 16, "rotary_dim": 8, "block_size": 8, "gated_norm_rank": 8,
    "num_nextn_predict_layers": 0, "num_mtp_layers": 0,
    "patch_size": 4, "image_size": 16, "num_position_embeddings": 16, "conf_num_hidden_layers": 1,
}
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "sep_token_id", "cls_token_id",
                  "mask_token_id")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads")
QUERY_HEADS = {"swa_num_key_value_heads": "swa_num_attention_heads"}
ROTATIONS = ("rope_parameters", "rope_scaling")


# Widths that keep their ratio to the hidden size, and heads of their own kind of attention.
RATIOS = ("attention_hidden_size", "lru_width", "mamba_d_ssm")


def heads_of_keys(key, values):
    """Equal to those of queries if they were (no groups), one if it was one, else 2."""
    queries = values.get(QUERY_HEADS.get(key, ""), values.get("num_attention_heads", values.get("n_heads", values.get("n_head"))))
    if values[key] == queries or isinstance(values.get("kv_lora_rank"), int):
        return min(HEADS, values[key])
    return min(2, values[key])


def rotation(entry, longer):
    """RoPE's parameters for heads of HEAD dimensions. `longer`: the samples are longer than the positions that the model
    was first trained for (longrope then takes other factors)."""
    entry = dict(entry)
    for name, value in entry.items():
        if isinstance(value, dict):
            entry[name] = rotation(value, longer)
    half = int(HEAD // 2 * (entry.get("partial_rotary_factor") or 1.0))
    if isinstance(entry.get("mrope_section"), (list, tuple)):
        whole = sum(entry["mrope_section"])
        first = [max(1, half * part // whole) for part in entry["mrope_section"]]
        entry["mrope_section"] = [half - sum(first[1:]), *first[1:]]
    for name in ("short_factor", "long_factor"):
        if isinstance(entry.get(name), (list, tuple)):
            entry[name] = list(entry[name])[:half]
    if isinstance(entry.get("original_max_position_embeddings"), int):
        entry["original_max_position_embeddings"] = 16 if longer else 64
    return entry


def smaller_values(values, seqlen):
    """key -> value, for the keys of one config that change."""
    original = values.get("original_max_position_embeddings")
    for name in ROTATIONS:
        if original is None and isinstance(values.get(name), dict):
            original = values[name].get("original_max_position_embeddings")
    longer = isinstance(original, int) and seqlen > original
    changed = {}
    for key, value in values.items():
        if isinstance(value, bool):
            continue
        if key in KEY_HEADS and isinstance(value, int):
            changed[key] = heads_of_keys(key, values)
        elif key in SPECIAL_TOKENS and value is not None:
            changed[key] = small_token(key, value)
        elif key in ROTATIONS and isinstance(value, dict):
            changed[key] = rotation(value, longer)
        elif key == "original_max_position_embeddings" and isinstance(value, int):
            changed[key] = min(value, 16 if longer else 64)
        elif key in MOST and isinstance(value, (int, float)) and value > MOST[key]:
            changed[key] = MOST[key]
        elif key in MOST and isinstance(value, (list, tuple)) and value and all(type(x) is int for x in value):
            changed[key] = [min(x, MOST[key]) for x in value]
        elif isinstance(value, float) and ("dropout" in key or "pdrop" in key or "layerdrop" in key):
            changed[key] = 0.0
    hidden = values.get("hidden_size")
    inner = values["expand"] * hidden if isinstance(values.get("expand"), int) and isinstance(hidden, int) else 0
    if inner and isinstance(values.get("num_heads"), int) and values["num_heads"] * (values.get("head_dim") or 0) == inner:
        changed["num_heads"] = values["expand"] * min(hidden, WIDTH) // min(values["head_dim"], HEAD)  # Mamba 2
    for key in RATIOS:
        if isinstance(values.get(key), int) and isinstance(hidden, int) and values[key] % hidden == 0:
            changed[key] = min(hidden, WIDTH) * (values[key] // hidden)
            if key == "attention_hidden_size" and "attention_head_dim" in changed:
                changed["attention_head_dim"] = changed[key] // changed.get("num_attention_heads", values["num_attention_heads"])
    if isinstance(values.get("kv_lora_rank"), int) and isinstance(values.get("head_dim"), int):
        whole = values["head_dim"] == values.get("qk_nope_head_dim", 0) + values.get("qk_rope_head_dim", 0)
        changed["head_dim"] = min(values["head_dim"], 24 if whole else 8)
    rotate_part_of_heads(values, changed)
    return changed


def rotate_part_of_heads(values, changed):
    """mistral4 says which part of a head is rotated, and the two parts of a head shrink by different ratios."""
    def part(source):
        rotated, rest = (source.get(key, values.get(key)) for key in ("qk_rope_head_dim", "qk_nope_head_dim"))
        return rotated / (rotated + rest) if type(rotated) is int and type(rest) is int and rotated else None
    for name in ROTATIONS:
        entry = changed.get(name)
        if isinstance(entry, dict) and part(values) is not None and entry.get("partial_rotary_factor") == part(values):
            changed[name] = {**entry, "partial_rotary_factor": part(changed)}


def small_token(key, value):
    if isinstance(value, (list, tuple)):
        return [min(v, 2 + i) for i, v in enumerate(value)][:4]
    return min(value, SPECIAL_TOKENS.index(key)) if isinstance(value, int) else value


def shrink(config, seqlen):
    """A copy of `config`, and of the configs in it, that describes the small sibling for samples of SMALL_SEQLEN tokens."""
    def convert(part):
        values = part.to_dict()
        small = smaller_values({k: values.get(k, v) for k, v in vars(part).items() if not k.startswith("_")}, seqlen)
        for name, value in vars(part).items():
            if isinstance(value, transformers.PretrainedConfig):
                convert(value)
        for key, value in small.items():
            setattr(part, key, value)
    result = copy.deepcopy(config)
    convert(result)
    return result
