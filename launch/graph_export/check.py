"""Compares transformers with the graphs on the small sibling, with random weights: every block's output, and for one block
of each kind the gradients of its input and its parameters; embedding and head too.

Tracing without an error proves little: a mask that is silently left out, a detached tensor or a branch that is taken only
while exporting give a clean graph of another function."""

import torch

from . import interpret, trace
from .errors import BadInput, reason
from .parts import block_function

FEW = 8  # inputs of an output, as depthwise convolutions have: small weights would make what follows vanish
OUTPUT, GRADIENT = 1e-4, 1e-3  # largest relative differences in fp32
NOISE = 1e-4  # gradients below this share of the block's largest are noise (the bias of a key has none)


def difference(a, b):
    if a.shape != b.shape or not bool(torch.isfinite(a.float()).eq(torch.isfinite(b.float())).all()):
        return float("inf")
    a, b = a.float(), b.float()
    return ((a - b).abs().max() / (b.abs().max() + 1e-12)).item() if a.numel() else 0.0


def random_weights(model):
    """Weights large enough that every part of the model matters."""
    generator = torch.Generator().manual_seed(2)

    def noise(tensor, scale):
        return torch.randn(tensor.shape, generator=generator) * scale
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() >= 2:
                parameter.copy_(noise(parameter, 0.5 if parameter[0].numel() <= FEW else 0.08))
            elif not any(word in name for word in ("A_log", "dt_bias", ".D")):
                parameter.add_(noise(parameter, 0.05))
        stored = set(model.state_dict(keep_vars=True))
        for name, buffer in model.named_buffers():
            if name in stored and buffer.is_floating_point():
                buffer.add_(noise(buffer, 0.05))


class Inputs:
    """What the blocks took in the probe's run, with other tokens than those that constants were taken from."""

    def __init__(self, probe):
        self.probe = probe

    def of(self, index, samples=None):
        """hidden, then the other inputs by name of a kind's input."""
        block, call = self.probe.blocks[index], self.probe.calls[index]
        cut = slice(None) if samples is None else slice(0, samples)
        return (block.ordered(call.value(block.hidden_in))[cut], self.probe.tokens[cut] if block.tokens else None,
                {path: call.value(path)[cut] for path in block.takes})

    def wanted(self, index, samples=None):
        block, call = self.probe.blocks[index], self.probe.calls[index]
        cut = slice(None) if samples is None else slice(0, samples)
        return [block.ordered(call.value(block.hidden_out))[cut], *(call.value(place)[cut] for place in block.gives)]


def run_part(part, layer, hidden, tokens, carried):
    own = dict(layer.named_parameters(remove_duplicate=False))
    own.update(layer.named_buffers(remove_duplicate=False))
    tensors = {**part.constants, **{name: own[name] for name in part.parameters}}
    return interpret.run(part.json, tensors, hidden, tokens, carried)


def check_outputs(part, layer, probe, index, alone=False):
    """Largest difference of a block's outputs from what transformers computed in the probe's run; `alone`: of one sample
    too, though tracing may have promised two or more."""
    samples = 1 if part.batch == trace.FIXED else None
    inputs = Inputs(probe)
    with torch.no_grad():
        got = run_part(part, layer, *inputs.of(index, samples))
        worst = max(difference(a, b) for a, b in zip(got, inputs.wanted(index, samples)))
        if samples is None and alone:
            got = run_part(part, layer, *inputs.of(index, 1))
            worst = max(worst, max(difference(a, b) for a, b in zip(got, inputs.wanted(index, 1))))
    return worst


def gradients(run, layer, hidden, direction):
    parameters = {name: p for name, p in layer.named_parameters() if p.is_floating_point()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    hidden = hidden.detach().clone().requires_grad_(True)
    run(hidden.clone()).backward(direction)  # a model may write into its hidden state, but not into a leaf
    found = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None
    return {"(input)": hidden.grad, **found} if hidden.grad is not None else found


def check_gradients(part, layer, call, probe, index):
    """Largest difference of gradients from transformers' own, and the name of the tensor. `call`: the block's call at a
    batch of one, from which constants were taken."""
    samples = 1 if part.batch == trace.FIXED else None
    hidden, tokens, carried = Inputs(probe).of(index, samples)
    block = probe.blocks[index]
    function = block_function(layer, call, block, part.grow)
    others = [tokens for _ in block.tokens] + [carried[path] for path in block.takes]
    rest = [probe.calls[index].value(path)[:samples] for path in block.unknown]
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    want = gradients(lambda h: function(h, *others, *rest)[0], layer, hidden, direction)
    got = gradients(lambda h: run_part(part, layer, h, tokens, carried)[0], layer, hidden, direction)
    largest = max((g.abs().max().item() for g in want.values()), default=0.0)
    worst, name = 0.0, ""
    for key, gradient in want.items():
        if key not in got:
            if gradient.abs().max().item() > NOISE * largest:
                return float("inf"), key
            continue
        scale = max(gradient.abs().max().item(), NOISE * largest) + 1e-20
        found = ((got[key] - gradient).abs().max() / scale).item()
        if not found <= worst:
            worst, name = found, key
    return worst, name


def check_ends(embed, head, model, probe):
    """Largest difference of what embedding and head give."""
    def samples_of(part):
        return 1 if part.batch == trace.FIXED else None
    with torch.no_grad():
        cut = slice(0, samples_of(embed))
        got = run_part(embed, model, None, probe.tokens[cut], {})
        calls, blocks = probe.calls, probe.blocks
        want = [blocks[0].ordered(calls[0].value(blocks[0].hidden_in)), *(calls[i].value(path) for i, path in probe.embed_gives.values())]
        first = max(difference(a, b[cut]) for a, b in zip(got, want))
        cut = slice(0, samples_of(head))
        hidden = blocks[-1].ordered(calls[-1].value(blocks[-1].hidden_out))
        last = difference(run_part(head, model, hidden[cut], None, {})[0], probe.logits[cut])
    return first, last


def require(found, limit, where, what):
    if not found <= limit:
        raise BadInput(f"{where}: {what} differs from transformers by {found:.2g} (relative); at most {limit:g} is allowed. "
                       "The graph would compute another function, so it is not written")


def guarded(action, where, what):
    try:
        return action()
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{where}: {what} cannot be run from its graph: {reason(error)}")
