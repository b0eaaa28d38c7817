"""A model of two random blocks in the shape of Llama-3.1-70B's, with a small vocabulary, and what a step of one computes."""

import dataclasses
import json

import torch
from safetensors.torch import save_file


@dataclasses.dataclass(frozen=True)
class Shape:
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int = 1024
    blocks: int = 2
    samples: int = 32
    seqlen: int = 2048
    iters: int = 20
    batch: int = 8


LLAMA_70B = Shape(8192, 28672, 64, 8)  # tests/data/models/llama-3.1-70b/config.json
SMALL = Shape(64, 128, 4, 2, vocabulary=128, seqlen=32)


def layers(shape):
    h, f, kv = shape.hidden, shape.intermediate, shape.hidden // shape.heads * shape.kv_heads
    return {"self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h), "self_attn.o_proj": (h, h),
            "mlp.gate_proj": (f, h), "mlp.up_proj": (f, h), "mlp.down_proj": (h, f)}


def operations(shape):
    """Of a step's products: forward, the weights' gradients, and the inputs' but for q, k and v, whose input needs none.
    Attention's own products are not counted."""
    tokens = shape.batch * shape.seqlen
    sizes = {name: out * into for name, (out, into) in layers(shape).items()}
    first = sum(sizes[f"self_attn.{name}_proj"] for name in "qkv")
    return 2 * tokens * (3 * sum(sizes.values()) - first)


def random_weight(shape, generator, noise):
    """`noise` over and over, from another place each time: random numbers of gigabytes take minutes on a CPU."""
    count = shape[0] * shape[1]
    begin = int(torch.randint(len(noise), (1,), generator=generator))
    repeated = noise.roll(-begin).repeat(count // len(noise) + 1)[:count]
    return (repeated * shape[1] ** -0.5).to(torch.bfloat16).reshape(shape)


def make(folder, shape):
    """Writes the model and its token set to the folder, and returns the settings of a run."""
    (folder / "model").mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(8_388_593, generator=generator)  # a prime: rows are not alike
    ones = torch.ones(shape.hidden, dtype=torch.bfloat16)
    tensors = {"model.embed_tokens.weight": random_weight((shape.vocabulary, shape.hidden), generator, noise) * shape.hidden ** 0.5,
               "lm_head.weight": random_weight((shape.vocabulary, shape.hidden), generator, noise), "model.norm.weight": ones.clone()}
    for block in range(shape.blocks):
        prefix = f"model.layers.{block}."
        tensors |= {f"{prefix}{name}.weight": random_weight(size, generator, noise) for name, size in layers(shape).items()}
        tensors |= {f"{prefix}{name}.weight": ones.clone() for name in ("input_layernorm", "post_attention_layernorm")}
    save_file(tensors, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": shape.hidden,
              "intermediate_size": shape.intermediate, "num_hidden_layers": shape.blocks, "num_attention_heads": shape.heads,
              "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocabulary, "rms_norm_eps": 1e-5, "hidden_act": "silu",
              "max_position_embeddings": 8192, "rope_theta": 500000.0, "tie_word_embeddings": False, "dtype": "bfloat16"}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    ids = torch.randint(shape.vocabulary, (shape.samples, shape.seqlen), generator=generator, dtype=torch.int32)
    save_file({"input_ids": ids}, folder / "tokens.safetensors", metadata={"format": "roundtable.tokens", "version": "1"})
    return {"model.path": str(folder / "model"), "calibration.tokens": str(folder / "tokens.safetensors"),
            "calibration.n_samples": shape.samples, "calibration.seqlen": shape.seqlen,
            "quantization.group_size": 128 if shape.hidden >= 128 else 32, "tuning.batch_size": shape.batch,
            "tuning.iters": shape.iters}
