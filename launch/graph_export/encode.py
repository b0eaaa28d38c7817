"""A lowered graph as the JSON of src/graph/FORMAT.md."""

import math
import operator

import torch

from . import cost
from .capture import digest
from .errors import BadInput
from .lower import attribute, schema_of, writes

INT_OPERATORS = {
    operator.add: "add", operator.sub: "sub", operator.mul: "mul", operator.floordiv: "floordiv", operator.mod: "mod",
    operator.neg: "neg", min: "min", max: "max", torch.sym_min: "min", torch.sym_max: "max"}
# In fp32 transformers calls an operator of its own in place of PyTorch's, whose shape function takes bf16 alone while its
# kernel takes both.
SAME_AS = {"transformers::grouped_mm_fallback": "aten::_grouped_mm"}


class Encoder:
    """`result()` after `run()`: the part's inputs, nodes, outputs and values; `constants`: name -> tensor;
    `parameters`: name -> tensor."""

    def __init__(self, module, inputs, input_names, output_names):
        """input_names, output_names: for each input and output of the function, ("hidden",), ("tokens",), ("logits",) or
        ("carried", name)."""
        self.module, self.sources = module, inputs
        self.input_names, self.output_names = input_names, output_names
        self.ids, self.count = {}, 0
        self.lists = {}            # node that makes a list -> ids of its elements
        self.nodes, self.inputs, self.outputs = [], [], []
        self.constants, self.parameters, self.operators = {}, {}, {}
        self.same = {}             # digest of a constant -> id
        self.odd = {}              # id -> what cannot be written; an error if a node takes it
        self.storages = set()

    def new_id(self, node):
        self.ids[node] = self.count
        self.count += 1
        return self.ids[node]

    def argument(self, value, depth=0):
        if isinstance(value, torch.fx.Node):
            if value not in self.ids:
                raise BadInput(f"its graph takes the result of {value.target} as a whole")
            return {"v": self.ids[value]}
        if isinstance(value, (list, tuple)):
            return [self.argument(part, depth + 1) for part in value]
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (int, float)):
            return value if not isinstance(value, float) or math.isfinite(value) else {"float": str(value)}
        if isinstance(value, torch.dtype):
            return {"dtype": dtype_name(value)}
        if isinstance(value, torch.device):
            return {"device": True}
        if isinstance(value, torch.layout):
            return {"layout": str(value).split(".")[1]}
        if isinstance(value, torch.memory_format):
            return {"memory_format": str(value).split(".")[1]}
        raise BadInput(f"its graph holds an argument of type {type(value).__name__}, which cannot be written")

    def run(self):
        for node in self.module.graph.nodes:
            getattr(self, f"do_{node.op}", self.do_other)(node)
        self.keep_what_is_used()
        return self

    def do_other(self, node):
        raise BadInput(f"its graph holds a {node.op}, which cannot be written")

    def do_placeholder(self, node):
        source = self.sources[node.name]
        for tensor in cost.tensors_of(node.meta.get("val")):
            self.storages.add(tensor.untyped_storage()._cdata)
        if source.kind == "input":
            self.inputs.append({"value": self.new_id(node), **role(self.input_names[int(source.name)])})
        elif source.kind == "parameter":
            self.inputs.append({"value": self.new_id(node), "kind": "parameter", "name": source.name})
            self.parameters[source.name] = source.tensor
        else:
            self.add_constant(node, node.name, source.tensor)

    def do_get_attr(self, node):
        value = attribute(self.module, node.target)
        if isinstance(value, torch.Tensor):
            for tensor in cost.tensors_of(node.meta.get("val")):
                self.storages.add(tensor.untyped_storage()._cdata)
            self.add_constant(node, node.target.replace(".", "_"), value)
        else:
            self.odd[self.new_id(node)] = f"an attribute of type {type(value).__name__}"

    def add_constant(self, node, name, tensor):
        """A part takes each constant once, also if the model holds it in two places."""
        key = digest(torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor), tensor.is_complex()
        if key in self.same:
            self.ids[node] = self.same[key]
            return
        number = self.same[key] = self.new_id(node)
        self.inputs.append({"value": number, "kind": "constant", "name": name,
                            **({"complex": True} if tensor.is_complex() else {})})
        self.constants[name] = tensor

    def do_call_function(self, node):
        target = node.target
        if target is operator.getitem:
            self.take_element(node)
        elif target in INT_OPERATORS:
            name = f"int::{INT_OPERATORS[target]}"
            self.add(node, name, "", [self.argument(a) for a in node.args])
        elif isinstance(target, torch._ops.OpOverload):
            self.add_operator(node)
        else:
            self.odd[self.new_id(node)] = getattr(target, "__name__", str(target))

    def take_element(self, node):
        source, index = node.args
        if source not in self.lists:
            raise BadInput(f"its graph takes element {index} of {source.target}, which is no list of a known length")
        ids = self.lists[source]
        if ids[index] is None:
            ids[index] = self.new_id(node)
        self.ids[node] = ids[index]

    def add_operator(self, node):
        schema = schema_of(node)
        arguments, positional, named = [], list(node.args), dict(node.kwargs)
        for i, argument in enumerate(schema.arguments):
            if i < len(positional) and not argument.kwarg_only:
                value = positional[i]
            elif argument.name in named:
                value = named[argument.name]
            elif argument.has_default_value():
                value = argument.default_value
                if isinstance(value, int) and not isinstance(value, bool) and "dtype" in argument.name:
                    value = None
            else:
                raise BadInput(f"its graph calls {schema.name} without {argument.name}")
            arguments.append((value, argument))
        while arguments and arguments[-1][1].has_default_value() and arguments[-1][0] is arguments[-1][1].default_value:
            arguments.pop()
        name = SAME_AS.get(schema.name, schema.name)
        if name != schema.name:
            schema = torch._C._get_schema(name, "")
        full = f"{name}.{schema.overload_name}" if schema.overload_name else name
        self.add(node, full, str(schema), [self.argument(value) for value, _ in arguments], len(schema.returns))

    def add(self, node, name, schema, arguments, returns=1):
        self.operators[name] = schema
        plain = name.split(".")[0]
        value = node.meta.get("val")
        if returns == 0:
            out = []
        elif isinstance(value, (tuple, list)):
            out = self.lists[node] = [None] * len(value)
        else:
            out = [self.new_id(node)]
        entry = {"op": name, "args": arguments, "out": out, "bytes": cost.count_bytes(node, self.storages),
                 "flops": cost.count_flops(node, plain)}
        if node.meta.get("no_grad"):
            entry["no_grad"] = True
        self.nodes.append((entry, writes(node)))

    def do_output(self, node):
        for value, name in zip(node.args[0], self.output_names):
            if not isinstance(value, torch.fx.Node):
                raise BadInput(f"its {name[0]} is no tensor that the graph makes")
            self.outputs.append({"value": self.ids[value], **role(name)})

    def keep_what_is_used(self):
        alive, kept = {output["value"] for output in self.outputs}, []
        for entry, always in reversed(self.nodes):
            if always or any(number in alive for number in entry["out"]):
                alive.update(values_in(entry["args"]))
                kept.append(entry)
        self.nodes = kept[::-1]
        for number, what in self.odd.items():
            if number in alive:
                raise BadInput(f"its graph holds {what}, which no program of plain operators can run")
        self.inputs = [i for i in self.inputs if i["value"] in alive or i["kind"] == "hidden"]
        for entry in self.nodes:
            entry["out"] = [number if number in alive or len(entry["out"]) == 1 else None for number in entry["out"]]
        names = {i["name"] for i in self.inputs if "name" in i}
        self.constants = {name: t for name, t in self.constants.items() if name in names}
        self.parameters = {name: t for name, t in self.parameters.items() if name in names}
        self.operators = {entry["op"]: self.operators[entry["op"]] for entry in self.nodes}
        self.renumber()

    def renumber(self):
        """Ids without gaps, in the order in which values appear."""
        numbers = {}

        def new(old):
            return numbers.setdefault(old, len(numbers))

        def replace(value):
            if isinstance(value, list):
                return [replace(part) for part in value]
            return {"v": numbers[value["v"]]} if isinstance(value, dict) and "v" in value else value

        for entry in self.inputs:
            entry["value"] = new(entry["value"])
        for entry in self.nodes:
            entry["args"] = replace(entry["args"])
            entry["out"] = [None if number is None else new(number) for number in entry["out"]]
        for entry in self.outputs:
            entry["value"] = numbers[entry["value"]]
        self.count = len(numbers)

    def result(self):
        return {"inputs": self.inputs, "nodes": self.nodes, "outputs": self.outputs, "values": self.count,
                "parameters": {name: {"shape": list(t.shape), "dtype": dtype_name(t.dtype)} for name, t in self.parameters.items()}}


def role(name):
    return {"kind": name[0], **({"name": name[1]} if len(name) > 1 else {})}


def dtype_name(dtype):
    return str(dtype).split(".")[1]


def values_in(argument):
    """Ids of the values in an encoded argument."""
    if isinstance(argument, dict):
        if "v" in argument:
            yield argument["v"]
    elif isinstance(argument, list):
        for part in argument:
            yield from values_in(part)
