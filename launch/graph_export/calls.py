"""How a model calls a block, and a block as a function of its inputs alone."""

import torch
import transformers
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_unflatten


def register_shared_state():
    """transformers' dictionary of keys and values that blocks share (gemma3n, gemma4), as a tree that can be taken apart."""
    shared = getattr(transformers.cache_utils, "KVSharingDict", None)
    if shared is not None and shared not in pytree.SUPPORTED_NODES:
        pytree.register_pytree_node(
            shared, lambda d: (list(d.values()), list(d)), lambda values, keys: shared(dict(zip(keys, values))),
            flatten_with_keys_fn=lambda d: ([(pytree.MappingKey(k), v) for k, v in d.items()], list(d)),
            serialized_type_name="transformers.KVSharingDict")


register_shared_state()


def flatten(tree):
    """[(path, leaf)] and what tree_unflatten needs."""
    pairs, spec = tree_flatten_with_path(tree)
    return [(keystr(path), leaf) for path, leaf in pairs], spec


class Call:
    """The arguments of one call of a block, leaf by leaf, and later its output."""

    def __init__(self, args, kwargs):
        pairs, self.spec = flatten((args, kwargs))
        self.paths = [path for path, _ in pairs]
        self.leaves = [None if isinstance(leaf, transformers.Cache) else leaf for _, leaf in pairs]
        self.out = None       # the output as it was
        self.after = None     # the arguments after the call, which may hold more (a dict that blocks share)
        self.labels = {}      # path -> what it depends on (provenance.py), at that time
        self.values = {}      # path or place -> a copy: a model may write into a tensor later

    def tensors(self):
        return [(path, leaf) for path, leaf in zip(self.paths, self.leaves) if isinstance(leaf, torch.Tensor)]

    def leaf(self, path):
        return self.leaves[self.paths.index(path)]

    def finish(self, args, kwargs, out):
        self.out = flatten(out)
        self.after, self.after_spec = flatten((args, kwargs))
        self.values.update((place, leaf.clone()) for place, leaf in self.results())

    def keep_values(self):
        self.values.update((path, leaf.clone()) for path, leaf in self.tensors())

    def value(self, path):
        """What the argument or result was at that time."""
        return self.values[path]

    def results(self):
        """[(place, tensor)] of everything that the block gave: ("out", path), or ("after", path) for changed arguments."""
        before = {path: leaf for path, leaf in zip(self.paths, self.leaves)}
        found = [(("out", path), leaf) for path, leaf in self.out[0] if isinstance(leaf, torch.Tensor)]
        return found + [(("after", path), leaf) for path, leaf in self.after
                        if isinstance(leaf, torch.Tensor) and before.get(path) is not leaf]


def hidden_path(call):
    """The argument that is the hidden state: the one of that name, or the first with three dimensions."""
    def fits(leaf):
        return isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dim() >= 3
    named = [path for path, leaf in call.tensors() if path.endswith("['hidden_states']") and fits(leaf)]
    others = [path for path, leaf in call.tensors() if fits(leaf)]
    return (named + others + [None])[0]


def hidden_place(call, path):
    """Where the next hidden state is in the output: the first tensor of the same shape."""
    shape = call.leaf(path).shape
    for place, leaf in call.results():
        if place[0] == "out" and leaf.shape == shape and leaf.is_floating_point():
            return place
    return None


class BlockFunction(nn.Module):
    """A block whose other arguments are bound: inputs in the order of `inputs` (paths) -> tensors at `places`; the first
    of each are hidden states, ordered as probe.Block says.

    `grow`: path -> dimension, of bound tensors that the model makes larger with the batch."""

    def __init__(self, layer, call, block, inputs, places, grow=None):
        super().__init__()
        self.layer, self.block = layer, block
        self.spec, self.paths = call.spec, call.paths
        self.inputs, self.places, self.grow = inputs, places, grow or {}
        self.rest = {}
        for number, (path, leaf) in enumerate(zip(call.paths, call.leaves)):
            if path in inputs:
                continue
            if isinstance(leaf, torch.Tensor):
                self.register_buffer(f"bound_{number}", leaf.detach(), persistent=False)
            else:
                self.rest[number] = leaf

    def forward(self, *inputs):
        batch = inputs[0].shape[0]
        given = dict(zip(self.inputs, (self.block.back(inputs[0]), *inputs[1:])))
        leaves = []
        for number, path in enumerate(self.paths):
            if path in given:
                leaf = given[path]
            elif number in self.rest:
                leaf = self.rest[number]
            else:
                leaf = getattr(self, f"bound_{number}")
                if path in self.grow:
                    leaf = leaf.repeat([batch if d == self.grow[path] else 1 for d in range(leaf.dim())])
            leaves.append(leaf)
        args, kwargs = tree_unflatten(leaves, self.spec)
        out = self.layer(*args, **kwargs)
        found = {"out": dict(flatten(out)[0])}
        if any(place[0] == "after" for place in self.places):
            found["after"] = dict(flatten((args, kwargs))[0])
        hidden, *others = (found[kind][path] for kind, path in self.places)
        return self.block.ordered(hidden), *others


class Recorder:
    """Hooks on blocks: what each is called with. With `provenance`, blocks are marked while they run."""

    def __init__(self, layers, provenance=None):
        self.calls = [[] for _ in layers]
        self._hooks = []
        for index, layer in enumerate(layers):
            self._hooks += [layer.register_forward_pre_hook(self._before(index, provenance), with_kwargs=True),
                            layer.register_forward_hook(self._after(index, provenance), with_kwargs=True)]

    def _before(self, index, provenance):
        def hook(module, args, kwargs):
            call = Call(args, kwargs)
            self.calls[index].append(call)
            if provenance is not None:
                call.labels = {path: provenance.of(leaf) for path, leaf in call.tensors()}
                provenance.block = index
            call.keep_values()
        return hook

    def _after(self, index, provenance):
        def hook(module, args, kwargs, out):
            self.calls[index][-1].finish(args, kwargs, out)
            if provenance is not None:
                provenance.block = None
        return hook

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for hook in self._hooks:
            hook.remove()


def run_model(model, tokens):
    """Logits."""
    try:
        out = model(input_ids=tokens, use_cache=False)
    except TypeError:
        out = model(input_ids=tokens)
    return out[0] if isinstance(out, tuple) else out.logits


def find_layers(model, run):
    """The path of the list of blocks: outermost, every member called, with the most parameters."""
    called = set()
    hooks = [module.register_forward_pre_hook(lambda module, args, name=name: called.add(name))
             for name, module in model.named_modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    lists = [(name, module) for name, module in model.named_modules()
             if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 0 and name not in called
             and all(f"{name}.{i}" in called for i in range(len(module)))]
    outer = [entry for entry in lists if not any(entry[0].startswith(f"{other}.") for other, _ in lists)]
    return max(outer, key=lambda entry: sum(p.numel() for p in entry[1].parameters()))[0] if outer else None
