"""One pass of the model in which no block runs: what every block is called with, and which blocks are of one kind."""

import hashlib
import json

import torch

from .calls import Call, run_model
from .ends import fill_state, output_like, replaced, stand_ins_of
from .errors import BadInput, reason
from .provenance import Forbidden



class Done(Exception):
    """The last block was called."""


INDEX_NAMES = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx", "block_id", "idx", "index")


def capture(model, probe, tokens, where, unknown=None):
    """The call of every block. unknown: storage -> what to say if it is read (provenance.Forbidden)."""
    layers = model.get_submodule(probe.layers)
    calls = [None] * len(layers)

    def stand_in(index, args, kwargs):
        call = calls[index] = Call(args, kwargs)
        if index == len(layers) - 1:
            raise Done
        block = probe.blocks[index]
        fill_state(probe, index, args, kwargs)
        return output_like(probe.calls[index], block.hidden_out, call.leaf(block.hidden_in), stand_ins_of(probe, index))
    if len(layers) != len(probe.blocks):
        raise BadInput(f"{where}: the model has {len(layers)} blocks and its small sibling {len(probe.blocks)}")
    try:
        with torch.no_grad(), replaced(layers, stand_in), Forbidden(unknown or {}):
            run_model(model, tokens)
    except Done:
        pass
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{where}: the part before the blocks does not run: {reason(error)}")
    missing = [i for i, call in enumerate(calls) if call is None]
    if missing:
        raise BadInput(f"{where}: block {missing[0]} is not called")
    return calls


class Digests:
    """Hashes of tensors, each computed once."""

    def __init__(self):
        self._known = {}

    def of(self, tensor):
        key = (id(tensor), tensor._version)
        if key not in self._known:
            self._known[key] = (digest(tensor), tensor)  # the tensor is kept, so that its id is not given to another
        return self._known[key][0]


def digest(tensor):
    tensor = tensor.detach().cpu().contiguous()
    head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.sha256(head + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def describe(value, digests):
    if isinstance(value, torch.Tensor):
        return digests.of(value)
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [describe(part, digests) for part in value]
    return getattr(value, "__name__", type(value).__name__)


def signature(layer, call, block, digests):
    """Equal for blocks that compute the same: classes, attributes, shapes, and everything that is bound."""
    found = [[name, list(p.shape), str(p.dtype)] for name, p in layer.named_parameters()]
    stored = set(layer.state_dict(keep_vars=True))
    for name, buffer in layer.named_buffers():
        found.append([name, list(buffer.shape), None if name in stored else digests.of(buffer)])
    for name, module in layer.named_modules():
        found.append([name, type(module).__name__])
        for key, value in sorted(vars(module).items()):
            if key in INDEX_NAMES or key == "training" or key.startswith("_"):
                continue
            if isinstance(value, (int, float, str, bool, type(None), torch.Tensor, tuple, list)) or callable(value) and not \
                    isinstance(value, torch.nn.Module):
                found.append([name, key, describe(value, digests)])
    inputs = {block.hidden_in, *block.tokens, *block.takes, *block.unknown}
    for path, leaf in zip(call.paths, call.leaves):
        if path not in inputs and not any(f"'{name}'" in path for name in INDEX_NAMES):
            found.append([path, describe(leaf, digests)])
    found.append([sorted(inputs), block.hidden_out, sorted(map(list, block.gives))])
    return hashlib.sha256(json.dumps(found, default=str).encode()).hexdigest()


def kinds_of(layers, calls, blocks):
    """The kind of every block, and for each kind its first block."""
    digests, known, kinds = Digests(), {}, []
    for layer, call, block in zip(layers, calls, blocks):
        kinds.append(known.setdefault(signature(layer, call, block, digests), len(known)))
    return kinds, [kinds.index(kind) for kind in range(len(known))]
