"""Follows, operator by operator, which tensors of a run depend on the tokens, and on what a block computed.

Comparing values is not enough: a table that is still zeros hides that a block reads the tokens."""

import functools

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import BadInput

TOKENS = "tokens"
# Only the shape of their argument enters.
SHAPE_ONLY = ("ones_like", "zeros_like", "empty_like", "full_like", "new_ones", "new_zeros", "new_empty", "new_full",
              "new_empty_strided", "sym_size", "sym_numel")


def storage(tensor):
    return tensor.untyped_storage()._cdata


def tensors_in(value):
    """Tensors in an operator's arguments or results, which are lists at most."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)


@functools.lru_cache(maxsize=None)
def habits(function):
    """Whether only shapes enter, and the numbers of the arguments that are written into."""
    written = [i for i, a in enumerate(function._schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    return function._schema.name.split("::")[-1] in SHAPE_ONLY, written


class Provenance(TorchDispatchMode):
    """`block` is the number of the block that runs, or None. of(t) is a set of TOKENS and of numbers of blocks."""

    def __init__(self):
        super().__init__()
        self.block = None
        self._labels = {}
        self._alive = []  # a storage that is freed could come back under the same address

    def mark(self, tensor, labels):
        key = storage(tensor)
        self._alive.append(tensor)
        self._labels[key] = self._labels.get(key, frozenset()) | frozenset(labels)

    def of(self, tensor):
        return self._labels.get(storage(tensor), frozenset())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        shape_only, written = habits(function)
        if shape_only:
            return result
        labels = frozenset()
        for tensor in tensors_in((*args, *kwargs.values())):
            labels |= self.of(tensor)
        if labels:
            if self.block is not None:
                labels |= {self.block}
            for tensor in tensors_in((result, *(args[i] for i in written if i < len(args)))):
                self.mark(tensor, labels)
        return result


class Forbidden(TorchDispatchMode):
    """Fails when an operator takes one of these tensors. names: storage -> what to say."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.names:
            for tensor in tensors_in((*args, *(kwargs or {}).values())):
                if storage(tensor) in self.names:
                    raise BadInput(self.names[storage(tensor)])
        return function(*args, **(kwargs or {}))
