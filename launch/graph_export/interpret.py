"""Runs a part of model.json in Python: what the C++ program does, with nothing of transformers in it."""

import contextlib

import torch

from .encode import values_in
from .operators import COMPUTE

INT = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "floordiv": lambda a, b: a // b,
       "mod": lambda a, b: a % b, "min": min, "max": max, "neg": lambda a: -a}


def operator_of(name):
    namespace, rest = name.split("::")
    plain, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), plain), overload or "default")


def value_of(argument, values):
    if isinstance(argument, list):
        return [value_of(part, values) for part in argument]
    if not isinstance(argument, dict):
        return argument
    (key, value), = argument.items()
    if key == "v":
        return values[value]
    if key == "float":
        return float(value)
    return torch.device("cpu") if key == "device" else getattr(torch, value)


def call(node, values):
    arguments = [value_of(argument, values) for argument in node["args"]]
    namespace, rest = node["op"].split("::")
    if namespace == "int":
        return INT[rest](*arguments)
    if node["op"] in COMPUTE:
        return COMPUTE[node["op"]](*arguments)
    function = operator_of(node["op"])
    schema = function._schema.arguments
    positional = [a for a, s in zip(arguments, schema) if not s.kwarg_only]
    named = {s.name: a for a, s in zip(arguments, schema) if s.kwarg_only}
    return function(*positional, **named)


def run(part, tensors, hidden=None, tokens=None, carried=None):
    """-> the outputs in their order. `tensors`: name -> parameter or constant; `carried`: name -> tensor."""
    values = [None] * part["values"]
    for entry in part["inputs"]:
        kind = entry["kind"]
        if kind == "constant" or kind == "parameter":
            values[entry["value"]] = tensors[entry["name"]]
        else:
            values[entry["value"]] = {"hidden": hidden, "tokens": tokens}.get(kind, (carried or {}).get(entry.get("name")))
    last = {number: i for i, node in enumerate(part["nodes"]) for number in values_in(node["args"])}
    kept = {entry["value"] for entry in part["outputs"]}
    for i, node in enumerate(part["nodes"]):
        with torch.no_grad() if node.get("no_grad") else contextlib.nullcontext():
            result = call(node, values)
        results = result if isinstance(result, (tuple, list)) else [result]
        for number, value in zip(node["out"], results):
            if number is not None:
                values[number] = value
        for number in set(values_in(node["args"])):
            if last[number] == i and number not in kept:
                values[number] = None
    return [values[entry["value"]] for entry in part["outputs"]]
