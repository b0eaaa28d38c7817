#!/usr/bin/env python3
"""Seconds a block, Roundtable and auto-round, one after the other on the same machine and the same samples.

  tests/bench/block_speed.py --model DIR --tokens FILE [--blocks 2] [--iters 200] [--batch-size 8] [--bits 4]
                             [--group-size 64] [--ranks 1,2] [--order ours,peer,ours]

The model is cut to its first blocks in a temporary folder, so that both tools do nothing else. Run it in the environment
of launch/setup.sh --peer, on an idle machine; OMP_NUM_THREADS holds for auto-round, Roundtable shares the cores
among its ranks. auto-round's first block holds its compilation, so the blocks are printed one by one.
The last line of stdout is a JSON object: runs [{tool, ranks, seconds a block}].
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

from safetensors import safe_open
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
BINARY = os.environ.get("ROUNDTABLE_BINARY", HERE.parent.parent / "build/src/roundtable")
MPIRUN = shlex.split(os.environ.get("ROUNDTABLE_MPIRUN", "mpirun --oversubscribe --bind-to none"))


def cut_model(source, target, blocks):
    """The model directory with its first `blocks` decoder layers alone."""
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


def run_peer(a, model, out):
    done = subprocess.run(
        [sys.executable, HERE / "peer_autoround.py", "--model", model, "--tokens", a.tokens, "--out", out, "--bits",
         str(a.bits), "--iters", str(a.iters), "--group-size", str(a.group_size), "--batch-size", str(a.batch_size),
         "--blocks", str(a.blocks)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])["seconds_per_block"]


def run_ours(a, ranks, model, out):
    rows, seqlen = token_shape(a.tokens)
    settings = {"model": {"path": str(model)}, "calibration": {"tokens": a.tokens, "n_samples": rows, "seqlen": seqlen},
                "quantization": {"bits": a.bits, "group_size": a.group_size},
                "tuning": {"iters": a.iters, "batch_size": a.batch_size}, "parallel": {"shards": ranks},
                "output": {"path": str(out)}}
    config = out.with_suffix(".yaml")
    config.write_text(json.dumps(settings))  # JSON is YAML
    subprocess.run(MPIRUN + ["-n", str(ranks), BINARY, "quantize", config], stdout=subprocess.DEVNULL, check=True)
    events = [json.loads(line) for line in open(f"{out}.run/events.jsonl")]
    return [round(e["seconds"], 2) for e in events if e["event"] == "block"]


def token_shape(path):
    with safe_open(path, "pt") as file:
        return file.get_slice("input_ids").get_shape()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--ranks", default="1,2", help="Roundtable is run at each of these numbers of ranks")
    parser.add_argument("--order", default="ours,peer,ours", help="ours and peer, in the order they are run")
    a = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory(prefix="roundtable-bench-") as name:
        folder = pathlib.Path(name)
        cut_model(a.model, folder / "model", a.blocks)
        for tool in a.order.split(","):
            for ranks in map(int, a.ranks.split(",")) if tool == "ours" else [1]:
                out = folder / f"out-{len(runs)}"
                seconds = run_peer(a, folder / "model", out) if tool == "peer" else run_ours(a, ranks, folder / "model", out)
                runs.append({"tool": "roundtable" if tool == "ours" else "auto-round", "ranks": ranks, "seconds": seconds})
                print(f"{runs[-1]['tool']:11} {ranks} rank(s): {seconds} s a block", flush=True)
    print(json.dumps({"runs": runs, "iters": a.iters, "batch_size": a.batch_size, "tokens": token_shape(a.tokens)}))


if __name__ == "__main__":
    main()
