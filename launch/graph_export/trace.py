"""torch.export of a function of the batch, as the model computes when it is not exported."""

import contextlib
import io
import warnings

import torch
from transformers import masking_utils

ANY_BATCH, FROM_TWO, FIXED = 1, 2, 0
MOST_SAMPLES = 65536


@contextlib.contextmanager
def as_if_not_exporting():
    """About 30 places of transformers take another way while exporting: Qwen3-Next unrolls a triangular solve into 63
    steps, Mamba takes another scan, masks are built where none are needed."""
    names = ("is_exporting", "is_compiling")
    saved = [getattr(torch.compiler, name) for name in names]
    for name in names:
        setattr(torch.compiler, name, lambda: False)
    try:
        yield
    finally:
        for name, function in zip(names, saved):
            setattr(torch.compiler, name, function)


@contextlib.contextmanager
def masks_by_broadcasting():
    """transformers calls a model's own function of positions by vmap (5.23, masking_utils.py, sdpa_mask), which cannot be
    traced. On indices that are broadcast the function gives the same."""
    def expansion(function):
        def mask(*indices):
            seen = function(*masking_utils._non_vmap_expansion_sdpa(*indices))
            return seen.expand([len(index) for index in indices])
        return mask
    saved = masking_utils._vmap_expansion_sdpa
    masking_utils._vmap_expansion_sdpa = expansion
    try:
        yield
    finally:
        masking_utils._vmap_expansion_sdpa = saved


@contextlib.contextmanager
def frequencies_as_they_are(model):
    """RoPE of type dynamic and longrope looks at the positions to choose its frequencies, which no graph can. They were chosen
    when the model ran on this number of tokens, and stay so."""
    saved = []
    for module in model.modules():
        types = getattr(module, "rope_type", None)
        if isinstance(types, (str, dict)):
            saved.append((module, types))
            module.rope_type = "default" if isinstance(types, str) else dict.fromkeys(types, "default")
    try:
        yield
    finally:
        for module, types in saved:
            module.rope_type = types


def trace(function, inputs, batch):
    """An ExportedProgram. batch: ANY_BATCH, FROM_TWO (what tracing may promise; check.py looks at a batch of one), or FIXED
    to that of the inputs."""
    sizes = {0: torch.export.Dim("batch", min=batch, max=MOST_SAMPLES)} if batch != FIXED else None
    silent = io.StringIO()  # torch prints the graph of what it cannot trace
    with as_if_not_exporting(), masks_by_broadcasting(), warnings.catch_warnings(), contextlib.redirect_stdout(silent), \
            contextlib.redirect_stderr(silent):
        warnings.simplefilter("ignore")
        return torch.export.export(function, tuple(inputs), dynamic_shapes=(tuple(sizes for _ in inputs),) if sizes else None,
                                   strict=False)
