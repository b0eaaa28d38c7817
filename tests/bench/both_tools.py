"""Starts Roundtable and auto-round on the same model, token set and settings, and reads how long they took.

plan() and quantize() start Roundtable on any settings. run_ours() and run_peer() take a Task and return lists of
seconds, one number per block:
  tuning   inside the tuner: making its parameters, all steps, putting the best of them in place
  whole    from the end of the block before to the block's own end: besides tuning, the float outputs and the quantized
           outputs of the block before; with Roundtable also writing the block, reading it back and comparing it
  waiting  Roundtable only, a part of tuning: waiting for the sum of the gradients; missing if its events do not tell
auto-round's first block holds its compilation. No GPU is used: auto-round runs on CPUs here, and so does Roundtable.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

from safetensors import safe_open
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
BINARY = os.environ.get("ROUNDTABLE_BINARY", HERE.parent.parent / "build/src/roundtable")
MPIRUN = shlex.split(os.environ.get("ROUNDTABLE_MPIRUN", "mpirun --oversubscribe --bind-to none"))


class ToolFailed(Exception):
    """A tool ended with an error; the text is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What both tools are told."""
    model: pathlib.Path
    tokens: pathlib.Path
    blocks: int
    iters: int
    batch_size: int = 8
    bits: int = 4
    group_size: int = 64


def cut_model(source, target, blocks):
    """Writes the model directory with only its first `blocks` decoder layers."""
    target.mkdir()
    tensors = {}
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                parts = name.split(".")
                if "layers" not in parts or int(parts[parts.index("layers") + 1]) < blocks:
                    tensors[name] = file.get_tensor(name)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for path in source.iterdir():
        if path.suffix in (".json", ".txt", ".model") and not path.name.endswith(".index.json"):
            shutil.copy(path, target)
    config = json.loads((target / "config.json").read_text())
    config["num_hidden_layers"] = blocks
    (target / "config.json").write_text(json.dumps(config))


def token_shape(path):
    with safe_open(path, "pt") as file:
        return file.get_slice("input_ids").get_shape()


def run(name, command, log, env=None):
    """Runs a command and returns its stdout. Its stderr goes to the file `log`, or where ours goes without one."""
    with open(log, "w", encoding="utf-8") if log else contextlib.nullcontext() as stream:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stream, text=True, env=env)
    if done.returncode != 0:
        raise ToolFailed(f"{name} ended with {done.returncode}" + (f"; its output is in {log}" if log else ""))
    return done.stdout


def last_json(said):
    """The object that a program's stdout ends with."""
    return json.loads(said.strip().splitlines()[-1])


def write_config(settings):
    """Writes `settings` {section: {key: value}} to a file next to the output that they name."""
    path = pathlib.Path(settings["output"]["path"] + ".yaml")
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def plan(settings, ranks, *options):
    """What `roundtable plan` says of these settings on `ranks` ranks of this machine."""
    return last_json(run("roundtable plan", [*MPIRUN, "-n", str(ranks), BINARY, "plan", write_config(settings),
                                             *options, "--json"], None))


def quantize(settings, ranks, log=None):
    """(summary, events) of a run on `ranks` ranks."""
    said = run("roundtable", [*MPIRUN, "-n", str(ranks), BINARY, "quantize", write_config(settings), "--json"], log)
    with open(f"{settings['output']['path']}.run/events.jsonl", encoding="utf-8") as lines:
        return last_json(said), [json.loads(line) for line in lines]


def seconds_of_blocks(events):
    """{tuning, whole, waiting} of the events of a run of one stage."""
    blocks = [e for e in events if e["event"] == "block"]
    ends = [e["time"] for e in events if e["event"] == "stage_start"] + [e["time"] for e in blocks]
    waiting = [e["reduction"]["seconds_waiting"] for e in blocks if e.get("reduction")]  # null on one rank
    return {"tuning": [e["seconds"] for e in blocks], "whole": [b - a for a, b in itertools.pairwise(ends)]} | (
        {"waiting": waiting} if waiting else {})


def run_ours(task, out, ranks, threads=0, log=None):
    """Roundtable on `ranks` ranks of `threads` threads (0: their share of the cores): {tuning, whole, waiting}."""
    rows, seqlen = token_shape(task.tokens)
    settings = {"model": {"path": str(task.model)},
                "calibration": {"tokens": str(task.tokens), "n_samples": rows, "seqlen": seqlen},
                "quantization": {"bits": task.bits, "group_size": task.group_size},
                "tuning": {"iters": task.iters, "batch_size": task.batch_size, "init_scale": "one"},
                "parallel": {"shards": ranks, "threads": threads, "backend": "mpi"}, "output": {"path": str(out)}}
    return seconds_of_blocks(quantize(settings, ranks, log)[1])


def run_peer(task, out, threads=0, log=None):
    """auto-round on `threads` threads (0: its own choice): {tuning, whole, version, compiled}."""
    env = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    said = run("auto-round", [
        sys.executable, HERE / "peer_autoround.py", "--model", task.model, "--tokens", task.tokens, "--out", out,
        "--bits", str(task.bits), "--iters", str(task.iters), "--group-size", str(task.group_size),
        "--batch-size", str(task.batch_size), "--blocks", str(task.blocks)], log, env)
    result = last_json(said)
    if threads and result["threads"] != threads:
        raise ToolFailed(f"auto-round took {result['threads']} threads, but {threads} were asked for")
    return {"tuning": result["tuning_seconds"], "whole": result["seconds_per_block"], "version": result["auto_round"],
            "compiled": result["torch_compile"]}
