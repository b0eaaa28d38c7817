"""A traced graph without regions, checks and nodes that change nothing, and where each of its inputs comes from."""

import dataclasses
import operator

import torch

from .errors import BadInput

CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size", "_assert_async")
FRESH = ("lift_fresh", "lift_fresh_copy")


@dataclasses.dataclass
class Input:
    kind: str           # "input", "parameter" or "constant"
    name: str           # of a parameter, below the function; of an input, its number
    tensor: torch.Tensor = None


def schema_of(node):
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def short_name(node):
    schema = schema_of(node)
    return schema.name.split("::")[-1] if schema is not None else ""


def writes(node):
    schema = schema_of(node)
    return schema is not None and any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)


def is_view(node):
    schema = schema_of(node)
    return schema is not None and any(r.alias_info is not None for r in schema.returns)


def attribute(module, target):
    for part in target.split("."):
        module = getattr(module, part)
    return module


def copy_live(module):
    """Gives the module a graph of the nodes that matter. What export() of torch 2.13 leaves may hold dead nodes that take
    nodes that are gone, and its own pass over such a graph fails."""
    present = set(module.graph.nodes)
    live = set()
    for node in reversed(list(module.graph.nodes)):
        inputs = node.all_input_nodes
        if node.op in ("placeholder", "output") or node in live or (writes(node) and all(n in present for n in inputs)):
            live.add(node)
            live.update(inputs)
    new, copies = torch.fx.Graph(module), {}
    for node in module.graph.nodes:
        if node in live:
            copies[node] = new.node_copy(node, lambda n: copies[n])
    module.graph = new


def remove_dead(module):
    for node in reversed(list(module.graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users and not writes(node):
            module.graph.erase_node(node)


def inline_regions(module):
    """Puts the bodies of wrap_with_set_grad_enabled and wrap_with_autocast in their place. Nodes of a region without
    gradients are marked: detaching its results would be wrong, since x.to(dtype) in there may be x itself, and the model
    uses x outside too."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        name = node.target.__name__
        at = next((i for i, a in enumerate(node.args) if isinstance(a, torch.fx.Node) and a.op == "get_attr"), None)
        if at is None or not ("set_grad_enabled" in name or "autocast" in name):
            raise BadInput(f"its graph holds {name}, which no program of plain operators can run")
        with_gradients = node.args[0] if "set_grad_enabled" in name else True
        body = module.get_submodule(node.args[at].target)
        inline_regions(body)
        results = copy_body(module, node, body, node.args[at + 1:], with_gradients)
        for user in list(node.users):
            if user.target is operator.getitem:
                user.replace_all_uses_with(results[user.args[1]])
                module.graph.erase_node(user)
        if node.users:
            node.replace_all_uses_with(results[0])
        module.graph.erase_node(node)


def copy_body(module, node, body, operands, with_gradients):
    copies, given = {}, iter(operands)
    with module.graph.inserting_before(node):
        for inner in body.graph.nodes:
            if inner.op == "placeholder":
                copies[inner] = next(given)
            elif inner.op == "output":
                results = torch.fx.map_arg(inner.args[0], lambda n: copies[n])
            elif inner.op == "get_attr":
                name = f"_region_{len(module.graph.nodes)}_{inner.name}"
                setattr(module, name, attribute(body, inner.target))
                copies[inner] = module.graph.get_attr(name)
                copies[inner].meta = dict(inner.meta)
            else:
                copies[inner] = module.graph.node_copy(inner, lambda n: copies[n])
                if not with_gradients:
                    copies[inner].meta["no_grad"] = True
    return list(results) if isinstance(results, (tuple, list)) else [results]


def sources(program, prefix):
    """placeholder's name -> Input. Persistent buffers below `prefix` are parameters too: a checkpoint holds them."""
    found, count = {}, 0
    for spec in program.graph_signature.input_specs:
        kind, name = spec.kind.name, spec.arg.name
        if kind == "USER_INPUT":
            found[name] = Input("input", str(count))
            count += 1
        elif kind == "PARAMETER":
            found[name] = Input("parameter", spec.target, program.state_dict[spec.target])
        elif kind == "BUFFER":
            tensor = program.state_dict.get(spec.target, program.constants.get(spec.target))
            kept = spec.persistent and spec.target.startswith(prefix)
            found[name] = Input("parameter" if kept else "constant", spec.target, tensor)
        elif kind == "CONSTANT_TENSOR":
            found[name] = Input("constant", spec.target, program.constants[spec.target])
        else:
            raise BadInput(f"its graph takes {kind.lower()} {spec.target}, which cannot be written")
    return found


def drop_idle(module, inputs):
    """Checks of shapes, and nodes that give what they took."""
    for node in reversed(list(module.graph.nodes)):
        if node.op != "call_function":
            continue
        name = short_name(node)
        if name in CHECKS and not node.users:
            module.graph.erase_node(node)
        elif name == "alias" or same_dtype(node, name) or idle_dropout(node, name) or fresh_constant(node, name, inputs):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def same_dtype(node, name):
    """x.to(dtype) of an x that has it is x itself."""
    if name != "to" or node.target is not torch.ops.aten.to.dtype:
        return False
    before = node.args[0].meta.get("val")
    copies = (node.args[3] if len(node.args) > 3 else node.kwargs.get("copy", False))
    return before is not None and before.dtype == node.args[1] and not copies


def idle_dropout(node, name):
    return name == "dropout" and (node.args[2] is False or node.args[1] == 0.0)


def fresh_constant(node, name, inputs):
    """torch.tensor(5.0) in a model's code is a constant that is copied and detached; nobody else has that copy."""
    source = node.args[0] if node.args else None
    while name == "detach_" and isinstance(source, torch.fx.Node) and short_name(source) in FRESH:
        source = source.args[0]
    if name not in (*FRESH, "detach_") or not isinstance(source, torch.fx.Node):
        return False
    return source.op == "get_attr" or source.op == "placeholder" and inputs[source.name].kind == "constant"


def direct_weights(module, inputs):
    """x @ weight.T of a two-dimensional parameter becomes the linear layer that it is."""
    for node in list(module.graph.nodes):
        if short_name(node) not in ("matmul", "mm") or len(node.args) < 2:
            continue
        turned = node.args[1]
        if not isinstance(turned, torch.fx.Node) or short_name(turned) not in ("t", "transpose", "numpy_T", "permute"):
            continue
        weight = turned.args[0]
        if weight.op != "placeholder" or inputs[weight.name].kind != "parameter" or weight.meta["val"].dim() != 2:
            continue
        if short_name(turned) == "permute" and list(turned.args[1]) != [1, 0]:
            continue
        with module.graph.inserting_before(node):
            new = module.graph.call_function(torch.ops.aten.linear.default, (node.args[0], weight))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)


def ask_first_input(module, inputs):
    """Tracing may take the size of the batch from any input that has it, also from one that is not read otherwise."""
    first = next((n for n in module.graph.nodes if n.op == "placeholder" and inputs[n.name] == Input("input", "0")), None)
    size = first.meta["val"].shape[0] if first is not None else 0
    for node in module.graph.nodes:
        if short_name(node) == "sym_size" and not isinstance(size, int) and node.meta["val"].node.expr == size.node.expr:
            node.args = (first, 0)


def copy_written_inputs(module):
    """An input that the model writes into (x += y on its hidden state) is copied first, so that a caller's tensor stays."""
    def storages(value):
        return {t.untyped_storage()._cdata for t in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(t, torch.Tensor)}
    written = set()
    for node in module.graph.nodes:
        if writes(node):
            for value, argument in zip(node.args, schema_of(node).arguments):
                if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, torch.fx.Node):
                    written |= storages(value.meta.get("val"))
    last = [node for node in module.graph.nodes if node.op == "placeholder"][-1:]
    for node in list(module.graph.nodes):
        if node.op not in ("placeholder", "get_attr") or not storages(node.meta.get("val")) & written:
            continue
        with module.graph.inserting_after(last[0] if node.op == "placeholder" else node):
            copy = module.graph.call_function(torch.ops.aten.clone.default, (node,))
        copy.meta = {**node.meta, "val": node.meta["val"].clone()}
        node.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)


def lower(program, prefix):
    """-> (module, placeholder's name -> Input)"""
    module = program.graph_module
    copy_live(module)
    inline_regions(module)
    inputs = sources(program, prefix)
    drop_idle(module, inputs)
    direct_weights(module, inputs)
    ask_first_input(module, inputs)
    copy_written_inputs(module)
    remove_dead(module)
    return module, inputs
