"""What a node costs for one sample: new memory of its results, and FLOPs of its products."""

import math

import torch


def at_one(size):
    """A size that may depend on the batch, for a batch of one."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: 1 for symbol in expression.free_symbols}))


def shape_of(node):
    return [at_one(size) for size in node.meta["val"].shape]


def tensors_of(value):
    return [v for v in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(v, torch.Tensor)]


def count_bytes(node, seen):
    """`seen` holds the storages met so far, and is added to: a view has no memory of its own."""
    total = 0
    for tensor in tensors_of(node.meta.get("val")):
        key = tensor.untyped_storage()._cdata
        if key not in seen:
            seen.add(key)
            total += math.prod(at_one(size) for size in tensor.shape) * tensor.element_size()
    return total


def count_flops(node, name):
    """`name` is namespace::name."""
    args = node.args
    if name in ("aten::linear", "aten::mm", "aten::matmul", "aten::bmm", "aten::_grouped_mm", "aten::mv", "aten::dot"):
        shared = shape_of(args[0])[-1]
        return 2 * math.prod(shape_of(node)) * shared
    if name in ("aten::addmm", "aten::baddbmm", "aten::addbmm"):
        return 2 * math.prod(shape_of(node)) * shape_of(args[1])[-1]
    if name == "rt::expert_linear":
        return 2 * math.prod(shape_of(node)) * shape_of(args[0])[-1]
    if name in ("rt::attention", "aten::scaled_dot_product_attention"):
        batch, heads, rows, width = shape_of(args[0])
        return 2 * batch * heads * rows * shape_of(args[1])[-2] * (width + shape_of(args[2])[-1])
    if name == "rt::selective_scan":
        # Per state: the exponent and its power, what comes in, a product and a sum with it, a product and a sum with C.
        return 7 * math.prod(shape_of(args[0])) * shape_of(args[2])[-1]
    if name in ("aten::conv1d", "aten::conv2d", "aten::convolution"):
        return 2 * math.prod(shape_of(node)) * math.prod(shape_of(args[1])[1:])
    return 0
