"""The selective scan of Mamba 1 in our operator. As models write it, it is a loop over tokens, which tracing unrolls: nine
nodes per token, 18 000 at 2048 tokens, and minutes of tracing.

Such a loop is found by the signature of mamba_ssm's selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus,
return_last_state), whatever the function and the model are called. transformers 5.23 has it in mamba, falcon_mamba, jamba and
zamba (mamba_selective_scan), and a model's own code often brings a copy. The trap: a loop that is written into the forward of a
module is not seen, and is unrolled, right and slow. The check of the small sibling compares what is seen with the code that it
replaces."""

import contextlib
import inspect
import sys

import torch
from torch.nn import functional

from . import operators  # noqa: F401: it registers them

FIRST = ("A", "B", "C")  # behind the input and delta, which have several names
OTHERS = {"D", "z", "delta_bias", "delta_softplus", "return_last_state"}


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, **others):
    """mamba_selective_scan (transformers 5.23, models/mamba/modeling_mamba.py), but for the loop."""
    if return_last_state:
        raise NotImplementedError("a scan that gives its last state")
    if delta_bias is not None:
        delta = delta + delta_bias.to(delta.dtype)[..., None]
    if delta_softplus:
        delta = functional.softplus(delta)
    y = torch.ops.rt.selective_scan(u, delta, A, B, C)
    if D is not None:
        y = y + u * D[None, :, None]
    return y if z is None else y * functional.silu(z)


def is_scan(value):
    if not inspect.isfunction(value):
        return False
    names = list(inspect.signature(value).parameters)
    return tuple(names[2:5]) == FIRST and OTHERS <= set(names)


@contextlib.contextmanager
def in_use(model):
    """The functions are replaced where the model's code looks them up: in the modules of its classes."""
    files = {type(module).__module__ for module in model.modules()}
    saved = [(vars(sys.modules[file]), name, value) for file in files if file in sys.modules
             for name, value in vars(sys.modules[file]).items() if is_scan(value)]
    for names, name, _ in saved:
        names[name] = selective_scan
    try:
        yield
    finally:
        for names, name, value in saved:
            names[name] = value
