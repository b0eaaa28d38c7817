"""A quantized checkpoint as plain floats, computed here from its integers, for transformers to read: so names, biases,
transpositions and the order of fused projections are those that readers expect."""

import json
import pathlib
import re

import torch
from safetensors.torch import load_file, save_file

PARTS = ("qweight", "qzeros", "scales")


def load_all(directory):
    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def layers_of(tensors):
    return [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]


def unpack(tensor, bits=4):
    """[n, m] int32 -> [n * 32 / bits, m], the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return ((tensor.unsqueeze(1) >> shifts.view(1, -1, 1)) & (2 ** bits - 1)).flatten(0, 1)


def dequantized(qweight, qzeros, scales):
    """The weight [in, out] of a layer in auto_round:auto_gptq."""
    q = unpack(qweight)
    zeros = unpack(qzeros.t()).t() + 1
    group = q.shape[0] // scales.shape[0]
    return ((q - zeros.repeat_interleave(group, 0)) * scales.float().repeat_interleave(group, 0)).float()


# What a stack of experts is called, and the single layers that it is written as, one below the other.
STACKS = {"experts.gate_up_proj": ("experts", "gate_proj", "up_proj"), "experts.down_proj": ("experts", "down_proj"),
          "block_sparse_moe.input_linear": ("block_sparse_moe.experts", "w1", "w3"),
          "block_sparse_moe.output_linear": ("block_sparse_moe.experts", "w2")}


def put_back(plain, source):
    """Puts experts and their biases that are one tensor in `source` together again: weights as [experts, out, in] or
    [experts, in, out]."""
    for name, tensor in source.items():
        is_bias = name.endswith("_bias")
        stack = name.removesuffix("_bias" if is_bias else ".weight")
        entry = next((entry for entry in STACKS if f".{stack}".endswith(f".{entry}")), None)
        if entry is None or name in plain:
            continue
        experts, *parts = STACKS[entry]
        before, kind = stack.removesuffix(entry), "bias" if is_bias else "weight"
        whole = torch.stack([torch.cat([plain.pop(f"{before}{experts}.{i}.{part}.{kind}") for part in parts])
                             for i in range(tensor.shape[0])])
        assert is_bias or tensor.shape[1] != tensor.shape[2], f"{name} is square: the shape does not say how it lies"
        plain[name] = whole if whole.shape == tensor.shape else whole.transpose(1, 2).contiguous()


def multiply_out(directory, target, source, conv1d=False):
    """Writes `directory` with its quantized layers as plain floats to `target`; `source` are the tensors of the model that
    was quantized; `conv1d`: its layers lie as [in, out]. -> names of the quantized layers."""
    tensors = load_all(directory)
    layers = layers_of(tensors)
    plain = {name: tensor for name, tensor in tensors.items() if name.rsplit(".", 1)[-1] not in PARTS}
    for layer in layers:
        weight = dequantized(*(tensors[f"{layer}.{part}"] for part in PARTS))
        plain[f"{layer}.weight"] = weight if conv1d else weight.t().contiguous()
    put_back(plain, source)
    target.mkdir()
    save_file(plain, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    del config["quantization_config"]
    (target / "config.json").write_text(json.dumps(config))
    return layers


def kinds_of_layers(layers):
    """Names without the numbers of blocks and experts, and without what comes before the block's number."""
    return {re.sub(r"\.\d+(?=\.)", "", re.sub(r"^.*?\.(\d+)\.", "", layer, count=1)) for layer in layers}
