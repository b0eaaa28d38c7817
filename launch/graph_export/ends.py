"""What lies before the first block and behind the last, as functions: the model with its blocks taken out."""

import contextlib
from collections.abc import MutableMapping

import torch
from torch import nn
from torch.utils._pytree import tree_unflatten

from .calls import Call, run_model


@contextlib.contextmanager
def replaced(layers, stand_in):
    """Every block calls stand_in(index, args, kwargs) while this lasts."""
    def forward_of(index):
        return lambda *args, **kwargs: stand_in(index, args, kwargs)
    for index, layer in enumerate(layers):
        layer.forward = forward_of(index)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextlib.contextmanager
def without_parameters(layers):
    """Blocks without parameters while this lasts: the trace of an end would carry them all, half of an export's time."""
    modules = [module for layer in layers for module in layer.modules()]
    kept = [(module._parameters, module._buffers) for module in modules]
    for module in modules:
        module._parameters, module._buffers = {}, {}
    try:
        yield
    finally:
        for module, (parameters, buffers) in zip(modules, kept):
            module._parameters, module._buffers = parameters, buffers


def output_like(call, place, hidden, others=None):
    """The output of a block as the model expects it: `hidden` at its place; `others`: path -> tensor; None elsewhere."""
    pairs, spec = call.out
    leaves = []
    for path, leaf in pairs:
        if ("out", path) == place:
            leaf = hidden
        elif others and path in others:
            leaf = others[path]
        elif isinstance(leaf, torch.Tensor):
            leaf = None
        leaves.append(leaf)
    return tree_unflatten(leaves, spec)


class Embed(nn.Module):
    """tokens -> hidden, and what else depends on the tokens alone. `probe` is of the small sibling."""

    def __init__(self, model, probe):
        super().__init__()
        self.model, self.probe = model, probe

    def forward(self, *inputs):
        tokens, = inputs
        probe, calls = self.probe, {}

        def stand_in(index, args, kwargs):
            calls[index] = call = Call(args, kwargs)
            fill_state(probe, index, args, kwargs)
            block = probe.blocks[index]
            return output_like(probe.calls[index], block.hidden_out, call.leaf(block.hidden_in), stand_ins_of(probe, index))
        with replaced(self.model.get_submodule(probe.layers), stand_in):
            run_model(self.model, tokens)
        first = probe.blocks[0]
        return (first.ordered(calls[0].leaf(first.hidden_in)), *(calls[i].leaf(path) for i, path in probe.embed_gives.values()))


class Head(nn.Module):
    """hidden -> logits."""

    def __init__(self, model, probe, tokens):
        super().__init__()
        self.model, self.probe = model, probe
        self.register_buffer("tokens", tokens[:1], persistent=False)

    def forward(self, *inputs):
        hidden, = inputs
        probe = self.probe

        def stand_in(index, args, kwargs):
            block = probe.blocks[index]
            fill_state(probe, index, args, kwargs)
            given = block.back(hidden) if index == len(probe.blocks) - 1 else Call(args, kwargs).leaf(block.hidden_in)
            return output_like(probe.calls[index], block.hidden_out, given, stand_ins_of(probe, index))
        with replaced(self.model.get_submodule(probe.layers), stand_in):
            return (run_model(self.model, self.tokens.expand(hidden.shape[0], -1)),)


def fill_state(probe, index, args, kwargs):
    """Puts zeros where the block would put what it gives into a dictionary among its arguments. probe: of the small
    sibling; what the zeros are for is the inputs of a block, so their sizes do not matter."""
    call = probe.calls[index]
    if not any(kind == "after" for kind, _ in probe.blocks[index].gives):
        return
    zeros = [torch.zeros_like(leaf) if isinstance(leaf, torch.Tensor) else leaf for _, leaf in call.after]
    state = tree_unflatten(zeros, call.after_spec)[1]
    for name, value in kwargs.items():
        if isinstance(value, MutableMapping):
            for key, part in state[name].items():
                value.setdefault(key, part)


def stand_ins_of(probe, index):
    """path -> zeros, of what the block gives to later ones: their contents do not matter, the model only hands them on."""
    return {path: torch.zeros_like(probe.shapes[name]) for (kind, path), name in probe.blocks[index].gives.items() if kind == "out"}
