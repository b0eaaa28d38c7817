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


def put_back(plain, source):
    """Puts experts that are one tensor in `source` together again, as [experts, out, in] or [experts, in, out]."""
    for name, tensor in source.items():
        if tensor.dim() != 3 or name in plain:
            continue
        parent, last = name.removesuffix(".weight").rsplit(".", 1)
        experts = torch.stack([plain.pop(f"{parent}.{i}.{last}.weight") for i in range(tensor.shape[0])])
        assert tensor.shape[1] != tensor.shape[2], f"{name} is square: the shape does not say how it lies"
        plain[name] = experts if experts.shape == tensor.shape else experts.transpose(1, 2).contiguous()


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
