"""What tests/graph/graph_check.cc compares a graph folder with: for the embedding part, the head and one block of each
kind what enters it, and what transformers makes of it; for blocks the gradients too."""

import torch
from graph_export import check
from graph_export.parts import block_function


class TooLarge(Exception):
    """The tiny config is so large that its graphs were checked on another model, whose tensors do not fit."""


def samples_of(exporter, model):
    """name -> tensor, by the names of graph_check.cc. exporter: an export.Exporter after its run; model: model.json."""
    probe, sibling, found = exporter.probe, exporter.sibling, {}
    size = model["batch"] or None
    calls, blocks = probe.calls, probe.blocks
    first = [blocks[0].ordered(calls[0].value(blocks[0].hidden_in)), *(calls[i].value(path) for i, path in probe.embed_gives.values())]
    add(found, "embed", model["embed"], sibling, (None, probe.tokens[:size], {}), [x[:size] for x in first])
    last = blocks[-1].ordered(calls[-1].value(blocks[-1].hidden_out))[:size]
    add(found, "head", model["head"], sibling, (last, None, {}), [probe.logits[:size]])
    layers = sibling.get_submodule(probe.layers)
    for kind, index in enumerate(exporter.first_blocks):
        inputs, layer = check.Inputs(probe), layers[index]
        entered = inputs.of(index, size)
        add(found, f"kinds.{kind}", model["kinds"][kind], layer, entered, inputs.wanted(index, size))
        # The arguments that are bound have the batch of their call.
        call = calls[index] if size is None else exporter.sibling_calls[index]
        add_gradients(found, f"kinds.{kind}", layer, call, blocks[index], entered)
    return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}


def add(found, place, part, module, entered, wanted):
    hidden, tokens, carried = entered
    own = dict(module.named_parameters(remove_duplicate=False))
    own.update(module.named_buffers(remove_duplicate=False))
    for name, spec in part["parameters"].items():
        if list(own[name].shape) != spec["shape"]:
            raise TooLarge(f"{place}: {name} has the shape {spec['shape']}, and {list(own[name].shape)} in its small sibling")
        found[f"{place}/parameters/{name}"] = own[name]
    for entry in part["inputs"]:
        if entry["kind"] == "hidden":
            found[f"{place}/hidden"] = hidden
        elif entry["kind"] == "tokens":
            found[f"{place}/tokens"] = tokens
        elif entry["kind"] == "carried":
            found[f"{place}/carried/{entry['name']}"] = carried[entry["name"]]
    for entry, tensor in zip(part["outputs"], wanted, strict=True):
        found[f"{place}/outputs/{entry['name']}" if entry["kind"] == "carried" else f"{place}/output"] = tensor


def add_gradients(found, place, layer, call, block, entered):
    hidden, tokens, carried = entered
    function = block_function(layer, call, block)
    others = [tokens for _ in block.tokens] + [carried[path] for path in block.takes]
    rest = [call.leaf(path) for path in block.unknown]
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(4))
    found[f"{place}/upstream"] = upstream
    for name, gradient in check.gradients(lambda h: function(h, *others, *rest)[0], layer, hidden, upstream).items():
        if name == "(input)":
            found[f"{place}/gradients/hidden"] = gradient
        elif f"{place}/parameters/{name}" in found:
            found[f"{place}/gradients/parameters/{name}"] = gradient
