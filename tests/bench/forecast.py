#!/usr/bin/env python3
"""Holds plan's forecast against real runs of three sizes on this machine: memory, disk and time.

  tests/bench/forecast.py --model DIR --tokens FILE [--cluster configs/clusters/cpu-2-cores.yaml] [--ranks 2]

The sizes: the model's first two blocks at 64 samples of 256 tokens; its first six at 128; and two random blocks of
hidden size 1536 and 24 million weights. Run it in the environment of launch/setup.sh, on an idle machine. Prints a line a
figure: forecast, measured, ratio. The last line of stdout is a JSON object.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

from both_tools import BINARY, MPIRUN, cut_model

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

import torch
from tiny_model import make_model, make_tokens


def settings(model, tokens, n_samples, seqlen, iters, out, ranks):
    return {"model": {"path": str(model)}, "calibration": {"tokens": str(tokens), "n_samples": n_samples, "seqlen": seqlen},
            "quantization": {"bits": 4, "group_size": 64}, "tuning": {"iters": iters, "batch_size": 8},
            "parallel": {"shards": ranks, "backend": "mpi"}, "output": {"path": str(out)},
            "run": {"keep_boundaries": True}}


def last_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(name, config, cluster, ranks):
    path = pathlib.Path(config["output"]["path"]).with_suffix(".yaml")
    path.write_text(json.dumps(config))  # JSON is YAML
    plan = last_json([BINARY, "plan", path, "--cluster", cluster, "--set", f"cluster.devices_a_node={ranks}", "--json"])
    run = last_json(MPIRUN + ["-n", str(ranks), BINARY, "quantize", path, "--json"])
    out = pathlib.Path(config["output"]["path"])
    boundaries = sum(p.stat().st_size for p in pathlib.Path(f"{out}.run").rglob("*.h5"))
    shards = sum(p.stat().st_size for p in out.glob("*.safetensors"))
    peak = max(max(peaks) for peaks in run["peak_bytes"].values())
    figures = {"memory": (plan["bytes_a_rank"], peak), "boundaries": (plan["disk"]["boundaries"], boundaries),
               "checkpoint": (plan["disk"]["checkpoint"], shards),
               "tune": (plan["seconds"]["tune"], run["seconds"]["tune"])}
    for what, (forecast, measured) in figures.items():
        print(f"{name:24} {what:12} forecast {forecast:15.1f}  measured {measured:15.1f}  ratio {forecast / measured:.2f}",
              flush=True)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--tokens", required=True, type=pathlib.Path)
    parser.add_argument("--cluster", default=HERE.parent.parent / "configs/clusters/cpu-2-cores.yaml")
    parser.add_argument("--ranks", type=int, default=2)
    a = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="roundtable-bench-") as name:
        folder = pathlib.Path(name)
        cut_model(a.model, folder / "two", 2)
        cut_model(a.model, folder / "six", 6)
        make_model(folder / "wide", dtype=torch.bfloat16, num_hidden_layers=2, hidden_size=1536, intermediate_size=4096,
                   num_attention_heads=16, num_key_value_heads=4)
        make_tokens(folder / "random.safetensors", rows=32, seqlen=256)
        for name, model, tokens, n, seqlen, iters in (
                ("2 blocks, 64 samples", "two", a.tokens, 64, 256, 60),
                ("6 blocks, 128 samples", "six", a.tokens, 128, 256, 30),
                ("2 wide blocks", "wide", folder / "random.safetensors", 32, 256, 12)):
            config = settings(folder / model, tokens, n, seqlen, iters, folder / f"out-{model}", a.ranks)
            results[name] = measure(name, config, a.cluster, a.ranks)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
