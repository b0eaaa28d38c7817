"""Writes a graph folder: model.json and constants.safetensors appear together, in one rename."""

import json
import os
import shutil
import tempfile

import torch
from safetensors.torch import save_file

from .capture import digest
from .errors import BadInput

FILES = ("model.json", "constants.safetensors")


def check_target(out):
    """A folder that is there may only be a graph folder, or empty."""
    if os.path.exists(out) and not os.path.isdir(out):
        raise BadInput(f"{out}: exists and is not a folder; choose another --out")
    others = [name for name in (os.listdir(out) if os.path.isdir(out) else []) if name not in FILES]
    if others:
        raise BadInput(f"{out}: holds {sorted(others)[0]}, which is no part of a graph; choose another --out")


def share_constants(parts):
    """Gives each different constant one name in all parts. -> name -> tensor"""
    names, tensors = {}, {}
    for part in parts:
        for entry in part.json["inputs"]:
            if entry["kind"] != "constant":
                continue
            tensor = part.constants[entry["name"]].detach()
            stored = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
            key = digest(stored)
            if key not in names:
                names[key] = f"c{len(names)}"
                tensors[names[key]] = stored.contiguous().clone()
            entry["name"] = names[key]
    return tensors


def dump(model):
    """JSON with a line per node, block and tensor, so that people and diff can read it."""
    text = json.dumps(model, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    for start in ('{"op"', '{"disk"', '{"prefix"', '{"inputs"', '"embed"', '"head"', '"kinds"', '"blocks"', '"untouched"'):
        text = text.replace(f"{start}", f"\n{start}")
    return text + "\n"


def write(out, model, constants):
    out = os.path.abspath(out)
    check_target(out)
    os.makedirs(os.path.dirname(out), exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=os.path.basename(out) + ".tmp.", dir=os.path.dirname(out))
    try:
        if constants:
            save_file(constants, os.path.join(temporary, "constants.safetensors"))
        with open(os.path.join(temporary, "model.json"), "w", encoding="utf-8") as file:
            file.write(dump(model))
        os.chmod(temporary, 0o755)
        for name in os.listdir(temporary):
            path = os.path.join(temporary, name)
            os.chmod(path, 0o644)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        if os.path.isdir(out):
            shutil.rmtree(out)
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sum(os.path.getsize(os.path.join(out, name)) for name in os.listdir(out))
