"""Tiny random models with a tokenizer, and random token sets: the inputs of the end-to-end tests.

    make_model(path, "llama", dtype=torch.float32, seed=1)   a Hugging Face model directory
    make_tokens(path, rows=16, seqlen=32, seed=2)            a token set as launch/prepare_calibration.py writes it
    make_inputs(folder, rows=16, seqlen=32, ...)             both, and the settings that tune the one on the other
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

transformers.utils.logging.disable_progress_bar()

VOCAB = 512
N_BLOCKS = 4
WORDS = ["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(3, VOCAB)]

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}

FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {"sliding_window": 16}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
}

EXPERTS = {"num_experts_per_tok": 2, "router_jitter_noise": 0.0}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 12, "tie_word_embeddings": True}
# The rest of what the program knows; tests of the layout that is written need not go through all of them.
ALL_FAMILIES = FAMILIES | {
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM,
              {"head_dim": 32, "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM, {"sliding_window": 20}),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM,
               GEMMA | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 12.0}),
    "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM, GEMMA | {
        "sliding_window_pattern": 2,
        "rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}),
    "opt": (transformers.OPTConfig, transformers.OPTForCausalLM, {"ffn_dim": 96}),
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel, {"n_inner": 96}),
    "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM, {"rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}),
    "mixtral": (transformers.MixtralConfig, transformers.MixtralForCausalLM, EXPERTS | {"num_local_experts": 4}),
    "qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM,
                  EXPERTS | {"num_experts": 4, "moe_intermediate_size": 64}),
}


def new_model(family="llama", seed=1, **changes):
    """A random model in fp32, with weights large enough that attention and the activation bend what flows through."""
    make_config, make, own = ALL_FAMILIES[family]
    settings = SHAPE | {"intermediate_size": 96, "tie_word_embeddings": False} | own | changes
    torch.manual_seed(seed)
    model = make(make_config(**settings)).eval()
    randomize(model)
    return model


def randomize(model):
    """Gives every parameter such weights."""
    gpt2 = model.config.model_type == "gpt2"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name.endswith(".weight"):  # norms
                parameter.uniform_(0.5, 1.5)
            elif name.endswith(".bias"):
                parameter.normal_(0, 0.5)
            elif any(word in name for word in ("embed_", ".wte.", ".wpe.")):
                parameter.normal_(0, 1)
            else:
                inputs = parameter.shape[0 if gpt2 and ".c_" in name else -1]
                parameter.normal_(0, 1.5 / inputs ** 0.5)


def save_tokenizer(path):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(path)


def save_byte_tokenizer(path):
    """One that GGUF can hold, in place of the other: bytes, no merges."""
    words = ["<s>", "</s>"] + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(path)


def make_model(path, family="llama", dtype=torch.float32, seed=1, shard_size="50GB", **changes):
    """Writes a model directory and returns its path. `changes` go to the family's config."""
    model = new_model(family, seed, **changes).to(dtype)
    model.save_pretrained(path, max_shard_size=shard_size)
    save_tokenizer(path)
    return path


def make_tokens(path, rows=16, seqlen=32, seed=2, vocab=VOCAB, ids=None, **metadata):
    """Writes a token set of random ids, or of `ids`, and returns them as int32 [rows, seqlen]."""
    if ids is None:
        ids = numpy.random.default_rng(seed).integers(0, vocab, (rows, seqlen))
    ids = numpy.ascontiguousarray(ids, dtype=numpy.int32)
    save_file({"input_ids": ids}, path, metadata={"format": "roundtable.tokens", "version": "1"} | metadata)
    return ids


def make_inputs(folder, rows=16, seqlen=32, **model):
    """Writes `folder`/model (`model` goes to make_model) and `folder`/tokens.safetensors, and returns the settings that
    every run on them has: all rows, groups that divide the model's sizes, one thread a rank."""
    make_model(folder / "model", **model)
    make_tokens(folder / "tokens.safetensors", rows=rows, seqlen=seqlen)
    return {
        "model.path": str(folder / "model"),
        "calibration.tokens": str(folder / "tokens.safetensors"),
        "calibration.n_samples": rows,
        "calibration.seqlen": seqlen,
        "quantization.group_size": 32,
        "tuning.batch_size": 4,
        "parallel.threads": 1,
    }
