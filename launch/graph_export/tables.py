"""The tables of model.json: blocks, tensors on disk, and what no graph uses."""

import re

from . import disk_names
from .errors import BadInput
from .roles import Roles


def shapes_below(model, prefix):
    return {name: t.shape for name, t in model.state_dict(keep_vars=True).items() if name.startswith(prefix)}


def entries(part, slices, roles, name_of, disk_of):
    """Rows of a part's `tensors`. name_of: a slice's parameter -> name in the part, or None; disk_of: name on disk -> name in
    the table."""
    rows = []
    for piece in slices:
        name = name_of(piece.parameter)
        if name is None:
            continue
        row = {"disk": disk_of(piece.name), "param": name, "offset": piece.offset, "shape": piece.shape, "stride": piece.stride,
               "use": roles.use[name]}
        in_out = roles.in_out.get(name)
        if in_out is not None and turned(piece, part.json["parameters"][name]["shape"]):
            in_out = not in_out
        if in_out:
            row["in_out"] = True
        expert = disk_names.expert_number(piece.name)
        if expert is not None:
            row["expert"] = expert
        rows.append(row)
    return rows


def turned(piece, shape):
    """Whether the tensor on disk has the last two dimensions of its parameter exchanged."""
    return len(piece.shape) >= 2 and piece.stride[-1] != 1 and piece.stride[-2] == 1 and shape[-1] != 1


def kind_tables(model, layers, first_blocks, kinds, parts, where):
    """Fills `tensors` of the parts of kinds. -> prefixes of all blocks, and names on disk that no graph uses."""
    prefixes, unused = [None] * len(kinds), []
    for kind, first in enumerate(first_blocks):
        members = [i for i, k in enumerate(kinds) if k == kind]
        part, tables = parts[kind], []
        roles = Roles(part.json, disk_names.linear_layers(model.get_submodule(f"{layers}.{first}")))
        for index in sorted({first, members[-1]}):
            slices = disk_names.slices_of(model, shapes_below(model, f"{layers}.{index}."), where)
            prefix = disk_names.block_prefix([piece.name for piece in slices], index, where)
            start = len(f"{layers}.{index}.")
            rows = entries(part, slices, roles, lambda name: name[start:] if name[start:] in part.parameters else None,
                           lambda name: name[len(prefix):])
            rest = sorted(p.name[len(prefix):] for p in slices if p.parameter[start:] not in part.parameters)
            tables.append((prefix, rows, rest))
        if tables[0][1:] != tables[-1][1:]:
            raise BadInput(f"{where}: blocks {first} and {members[-1]} are alike, but their tensors on disk are not")
        part.json["tensors"] = tables[0][1]
        for index in members:
            prefixes[index] = numbered(tables[0][0], first, index)
            unused += [prefixes[index] + name for name in tables[0][2]]
        if prefixes[members[-1]] != tables[-1][0]:
            raise BadInput(f"{where}: block {members[-1]} lies at {tables[-1][0]} on disk, not at {prefixes[members[-1]]}")
        missing = set(part.parameters) - {row["param"] for row in part.json["tensors"]}
        if missing:
            raise BadInput(f"{where}: no tensor on disk holds {sorted(missing)[0]} of block {first}")
    return prefixes, unused


def numbered(prefix, old, new):
    return re.sub(rf"{old}\.$", f"{new}.", prefix)


def end_tables(model, layers, ends, where):
    """Fills `tensors` of embed and head. -> names on disk outside the blocks that neither uses."""
    state = model.state_dict(keep_vars=True)
    outside = {name: t.shape for name, t in state.items() if not name.startswith(f"{layers}.")}
    tied = disk_names.tied_names(model)
    stored = {name: shape for name, shape in outside.items() if tied.get(name, name) == name}
    taken = {tied.get(name, name) for part in ends for name in part.parameters}
    slices = disk_names.slices_of(model, stored, where, taken)
    outputs = output_names(model)
    for part in ends:
        roles = Roles(part.json)
        rows = []
        for name in part.parameters:
            source = tied.get(name, name)
            if source.startswith(f"{layers}."):
                raise BadInput(f"{where}: {name} is a tensor of a block too; tensors that both hold cannot be tuned")
            rows += entries(part, [p for p in slices if p.parameter == source], roles, lambda _: name, lambda disk: disk)
            if not any(row["param"] == name for row in rows):
                raise BadInput(f"{where}: no tensor on disk holds {name}")
        for row in rows:
            if row["use"] == "linear" and not (part is ends[1] and row["param"] in outputs):
                row["use"] = "kept"  # projections between embeddings and hidden states (OPT-350m)
        part.json["tensors"] = rows
    return [piece.name for piece in slices if piece.parameter not in taken]


def output_names(model):
    """Names of the weight of the output head, which may be held twice."""
    layer = model.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is weight}


def untied_head(model, embed, head, where):
    """The name that the output head's weight would have on disk if it were not the embedding's; "" if it is not."""
    embedded = {row["disk"] for row in embed.json["tensors"]}
    shared = [row for row in head.json["tensors"] if row["use"] == "linear" and row["disk"] in embedded]
    layer = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is layer]
    if not shared or not names:
        return ""
    name = f"{names[0]}.weight"
    pieces = disk_names.slices_of(model, {name: tuple(shared[0]["shape"])}, where)
    return pieces[0].name if len(pieces) == 1 and pieces[0].name not in embedded else ""


def boundary_and_blocks(probe, kinds, prefixes, parts, embed, dtype_name):
    """`boundary` and `blocks`. Tensors that no graph reads are left out, and outputs that nobody takes."""
    taken = set()
    for index, kind in enumerate(kinds):
        listed = {i["name"] for i in parts[kind].json["inputs"] if i["kind"] == "carried"}
        taken |= {name for path, name in probe.blocks[index].takes.items() if path in listed}
    boundary = {"hidden": described(parts[kinds[0]].outputs[0], dtype_name)}
    drop_outputs(embed.json, taken)
    for name, output in zip(probe.embed_gives, embed.outputs[1:]):
        if name in taken:
            boundary[name] = described(output, dtype_name)
    blocks = []
    for index, kind in enumerate(kinds):
        part, block = parts[kind], probe.blocks[index]
        listed = {i["name"] for i in part.json["inputs"] if i["kind"] == "carried"}
        gives = {" ".join(place): name for place, name in block.gives.items() if name in taken}
        for place, output in zip(block.gives, part.outputs[1:]):
            if block.gives[place] in taken:
                boundary[block.gives[place]] = described(output, dtype_name)
        blocks.append({"prefix": prefixes[index], "kind": kind,
                       "takes": {path: name for path, name in block.takes.items() if path in listed}, "gives": gives})
    return boundary, blocks


def described(output, dtype_name):
    shape, dtype = output
    return {"shape": [int(size) for size in shape], "dtype": dtype_name(dtype)}


def drop_outputs(part, taken):
    part["outputs"] = [o for o in part["outputs"] if o["kind"] != "carried" or o["name"] in taken]
