"""Computes once what depends on constants alone, and says a causal mask in two flags."""

import torch

from . import operators
from .lower import attribute, is_view, remove_dead, writes

MOST_ELEMENTS = 64 << 20  # of a folded tensor
RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "normal")


def constant_of(module, inputs, node):
    if node.op == "placeholder":
        return inputs[node.name].tensor if inputs[node.name].kind == "constant" else None
    if node.op == "get_attr":
        value = attribute(module, node.target)
        return value if isinstance(value, torch.Tensor) else None
    return None


def written_values(graph):
    """Nodes that some operator writes into, and all that share memory with them."""
    written = set()
    for node in graph.nodes:
        if writes(node):
            for value, argument in zip(node.args, node.target._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, torch.fx.Node):
                    written.add(value)
            written.add(node)
    grew = True
    while grew:
        before = len(written)
        for node in graph.nodes:
            if is_view(node):
                if node in written:
                    written.update(node.all_input_nodes)
                elif any(value in written for value in node.all_input_nodes):
                    written.add(node)
        grew = len(written) > before
    return written


def depends_on_batch(node):
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    return any(isinstance(v, torch.Tensor) and any(not isinstance(size, int) for size in v.shape) for v in values)


def compute(node, known):
    """The node's value, or None if it cannot be told."""
    def look_up(argument):
        return torch.fx.map_arg(argument, lambda n: known[n])
    try:
        with torch.no_grad():
            value = node.target(*look_up(node.args), **look_up(node.kwargs))
    except Exception:  # an operator on values that only exist at run time
        return None
    return None if isinstance(value, torch.Tensor) and value.numel() > MOST_ELEMENTS else value


def fold(module, inputs):
    """Replaces nodes whose arguments are all constant. Their values become buffers of the module."""
    written = written_values(module.graph)
    known = {}
    for node in module.graph.nodes:
        if node in written:
            continue
        if node.op in ("placeholder", "get_attr"):
            value = constant_of(module, inputs, node)
        elif node.op == "call_function" and all(a in known for a in node.all_input_nodes) and not depends_on_batch(node) \
                and not any(word in str(node.target) for word in RANDOM):
            value = compute(node, known)
        else:
            continue
        if value is not None:
            known[node] = value
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node not in known:
            continue
        value = known[node]
        if isinstance(value, torch.Tensor):
            if any(user not in known for user in node.users):
                replace_by_buffer(module, node, value)
        elif isinstance(value, (int, float, bool)) and not isinstance(value, torch.SymInt):
            for user in list(node.users):
                user.args = torch.fx.map_arg(user.args, lambda n: value if n is node else n)
                user.kwargs = torch.fx.map_arg(user.kwargs, lambda n: value if n is node else n)
    remove_dead(module)


def replace_by_buffer(module, node, value):
    name = f"_folded_{node.name}"
    module.register_buffer(name, value.detach())
    with module.graph.inserting_before(node):
        buffer = module.graph.get_attr(name)
    buffer.meta = dict(node.meta)
    node.replace_all_uses_with(buffer)


def flag_masks(module, inputs):
    """rt::attention with a constant mask that is causal, or causal with a window."""
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target is not torch.ops.rt.attention.default:
            continue
        if not isinstance(node.args[3], torch.fx.Node):
            continue
        mask = constant_of(module, inputs, node.args[3])
        window = operators.causal_window(mask) if mask is not None else None
        if window is not None:
            arguments = list(node.args)
            arguments[3], arguments[6], arguments[7] = None, True, window
            node.args = tuple(arguments)
    remove_dead(module)
