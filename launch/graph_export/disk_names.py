"""Which tensor on disk is which part of which parameter.

transformers converts checkpoints while it loads them (experts one by one on disk are one tensor in the module) and knows
the way back: revert_weight_conversion(). That way is run on tensors without data, where a copy that would only change the
layout is left out. So what comes out is a view, and its offset and strides are the answer for tensors of any size."""

import re

import torch
from torch.overrides import TorchFunctionMode
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from .errors import BadInput, reason

# model_type -> (expression, replacement) for names that come back other than they are published, because the way back renames
# more than the way there. Kimi K2.5 (transformers 5.23, conversion_mapping.py): "blocks" of the vision part is read as
# "layers", so "layers" of the text part is written as "blocks". Published: vLLM, models/kimi_k25.py, load_weights().
PUBLISHED = {"kimi_k25": ((r"^language_model\.model\.blocks\.", "language_model.model.layers."),
                          (r"^vision_tower\.encoder\.patch_embed\.", "vision_tower.patch_embed."),
                          (r"^model\.mm_projector\.", "mm_projector."))}
COPIES = (torch.Tensor.contiguous, torch.Tensor.clone)


class KeepViews(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return args[0] if function in COPIES else function(*args, **(kwargs or {}))


class Slice:
    """A tensor on disk: elements of one parameter. `parameter` is None if it is another form of parameters that no graph
    uses, which are copied from file to file."""

    def __init__(self, name, parameter, tensor):
        self.name, self.parameter = name, parameter
        self.offset, self.shape, self.stride = tensor.storage_offset(), list(tensor.shape), list(tensor.stride())


def slices_of(model, shapes, where, used=None):
    """[Slice] of the tensors on disk that hold the named parameters. shapes: name in the module -> shape. used: those that a
    graph takes, which must be slices; all if None."""
    sources = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    owners = {t.untyped_storage()._cdata: name for name, t in sources.items()}
    try:
        with KeepViews():
            on_disk = revert_weight_conversion(model, dict(sources))
    except Exception as error:
        raise BadInput(f"{where}: transformers cannot say how its tensors are named on disk: {reason(error)}")
    found = [Slice(published(model, name), owners.get(tensor.untyped_storage()._cdata), tensor)
             for name, tensor in on_disk.items()]
    odd = [piece.name for piece in found if piece.parameter is None]
    try:
        check_cover(found, shapes if used is None else {name: shapes[name] for name in used if name in shapes}, where)
    except BadInput:
        if not odd:
            raise
        raise BadInput(f"{where}: the tensor {odd[0]} on disk is no slice of one parameter of the model (fused or interleaved)")
    return found


def published(model, name):
    for expression, replacement in PUBLISHED.get(model.config.model_type, ()):
        name = re.sub(expression, replacement, name)
    return name


def check_cover(slices, shapes, where):
    """Every element of every parameter lies in exactly one tensor on disk (counted; strides of slices do not overlap)."""
    counts = {}
    for piece in slices:
        size = 1
        for extent in piece.shape:
            size *= extent
        counts[piece.parameter] = counts.get(piece.parameter, 0) + size
    for name, shape in shapes.items():
        size = 1
        for extent in shape:
            size *= extent
        if counts.get(name, 0) != size:
            raise BadInput(f"{where}: the tensors on disk hold {counts.get(name, 0)} of the {size} elements of {name}")


def block_prefix(names, index, where):
    """What the names on disk of a block's tensors begin with: up to its number."""
    if not names:
        return f"{index}."
    first = names[0]
    for match in re.finditer(rf"(?:^|\.){index}\.", first):
        prefix = first[:match.end()]
        if all(name.startswith(prefix) for name in names):
            return prefix
    raise BadInput(f"{where}: the names on disk of the tensors of block {index} do not begin alike up to its number "
                   f"({names[0]}, {names[-1]})")


def expert_number(name):
    """mlp.experts.3.up_proj.weight -> 3"""
    match = re.search(r"(?:^|\.)(?:local_)?experts\.(\d+)\.", name)
    return int(match.group(1)) if match else None


def linear_layers(block):
    """Names of a block's modules that are linear layers."""
    return {name for name, module in block.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))}


def tied_names(model):
    """name -> the name under which its tensor is stored, for parameters that the model holds twice."""
    first, found = {}, {}
    stored = set(model.state_dict(keep_vars=True))
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in stored:
            key = id(parameter)
            if key not in first or first[key] in tied and name not in tied:
                first[key] = name
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in stored:
            found[name] = first[id(parameter)]
    return found
