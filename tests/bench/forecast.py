#!/usr/bin/env python3
"""Compares the forecast of `plan` with real runs of three sizes on this machine: memory, disk and time.

  tests/bench/forecast.py --model DIR --tokens FILE [--cluster measured|FILE] [--ranks 2] [--repeats 3]

The sizes: the model's first two blocks at 64 samples of 256 tokens; its first six at 128; and two random blocks of
hidden size 1536 and 24 million weights. With --cluster measured, the default, launch/describe_machine.py measures this
machine before and after the runs of each size, with the products of that size's blocks, and the mean is taken: forecast
and runs are of the same minutes. With --cluster configs/clusters/cpu-2-cores.yaml the figures of that file are taken.
Each size is run --repeats times. Run it in the environment of launch/setup.sh, on an idle machine. Prints one line per
figure: forecast, median of what was measured, ratio. The last line of stdout is a JSON object: sizes {name: {cluster
{key: figure}, figures {what: {forecast, measured, least, most, ratio}}}}.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile

import yaml

from both_tools import ToolFailed, cut_model, plan, quantize, run

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

import torch
from tiny_model import make_model, make_tokens

MEASURED = "measured"
DESCRIBE = HERE.parent.parent / "launch" / "describe_machine.py"
SEQLEN, BATCH_SIZE = 256, 8


@dataclasses.dataclass(frozen=True)
class Size:
    name: str
    model: pathlib.Path
    tokens: pathlib.Path
    samples: int
    iters: int


def make_sizes(a, folder):
    cut_model(a.model, folder / "two", 2)
    cut_model(a.model, folder / "six", 6)
    make_model(folder / "wide", dtype=torch.bfloat16, num_hidden_layers=2, hidden_size=1536, intermediate_size=4096,
               num_attention_heads=16, num_key_value_heads=4)
    make_tokens(folder / "random.safetensors", rows=32, seqlen=SEQLEN)
    return (Size("2 blocks, 64 samples", folder / "two", a.tokens, 64, 60),
            Size("6 blocks, 128 samples", folder / "six", a.tokens, 128, 30),
            Size("2 wide blocks", folder / "wide", folder / "random.safetensors", 32, 12))


def settings(size, out, ranks):
    return {"model": {"path": str(size.model)},
            "calibration": {"tokens": str(size.tokens), "n_samples": size.samples, "seqlen": SEQLEN},
            "quantization": {"bits": 4, "group_size": 64}, "tuning": {"iters": size.iters, "batch_size": BATCH_SIZE},
            "parallel": {"shards": ranks, "backend": "mpi"}, "output": {"path": str(out)},
            "run": {"keep_boundaries": True}}


def read_cluster(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))["cluster"]


def describe_cluster(a, size, folder):
    """The machine as it is now, or as the file that was given describes it."""
    if a.cluster != MEASURED:
        return read_cluster(pathlib.Path(a.cluster))
    path = folder / "now.yaml"
    run("describe_machine.py", [sys.executable, DESCRIBE, "--device", "cpu", "--ranks", str(a.ranks), "--model",
                                size.model, "--seqlen", str(SEQLEN), "--samples", str(max(1, BATCH_SIZE // a.ranks)),
                                "--directory", folder, "--out", path], None)
    return read_cluster(path)


def mean_of(clusters):
    return {key: value if isinstance(value, int) else statistics.mean(one[key] for one in clusters)
            for key, value in clusters[0].items()}


def bytes_below(directory, pattern):
    return sum(path.stat().st_size for path in directory.rglob(pattern))


def measure(size, out, ranks):
    """One run: {what: figure}, with the same names as forecast_of()."""
    summary, _ = quantize(settings(size, out, ranks), ranks)
    return {"memory": max(max(peaks) for peaks in summary["peak_bytes"].values()),
            "boundaries": bytes_below(pathlib.Path(f"{out}.run"), "*.h5"),
            "checkpoint": bytes_below(out, "*.safetensors"), "tune": summary["seconds"]["tune"]}


def forecast_of(planned):
    return {"memory": planned["bytes_a_rank"], "boundaries": planned["disk"]["boundaries"],
            "checkpoint": planned["disk"]["checkpoint"], "tune": planned["seconds"]["tune"]}


def compare(forecast, runs):
    """{what: {forecast, measured, least, most, ratio}}; what is measured is the median of the runs."""
    figures = {}
    for what, expected in forecast.items():
        values = [one[what] for one in runs]
        median = statistics.median(values)
        figures[what] = {"forecast": expected, "measured": median, "least": min(values), "most": max(values),
                         "ratio": expected / median}
    return figures


def bench(a, size, folder):
    outs = [folder / f"out-{size.model.name}-{number}" for number in range(a.repeats)]
    clusters = [describe_cluster(a, size, folder)]
    runs = [measure(size, out, a.ranks) for out in outs]
    clusters.append(describe_cluster(a, size, folder))
    cluster = mean_of(clusters)
    path = folder / "cluster.yaml"
    path.write_text(json.dumps({"cluster": cluster}), encoding="utf-8")  # JSON is YAML
    planned = plan(settings(size, outs[0], a.ranks), 1, "--cluster", path, "--set", f"cluster.devices_a_node={a.ranks}")
    print(f"{size.name:24} cluster      " + ", ".join(f"{key} {value:g}" for key, value in cluster.items()), flush=True)
    figures = compare(forecast_of(planned), runs)
    for what, f in figures.items():
        print(f"{size.name:24} {what:12} forecast {f['forecast']:15.1f}  measured {f['measured']:15.1f} "
              f"({f['least']:.1f}..{f['most']:.1f})  ratio {f['ratio']:.2f}", flush=True)
    return {"cluster": cluster, "figures": figures}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--tokens", required=True, type=pathlib.Path)
    parser.add_argument("--cluster", default=MEASURED, help="measured, or a file like those in configs/clusters/")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each size")
    a = parser.parse_args()
    if a.ranks < 1 or a.repeats < 1:
        parser.error("--ranks and --repeats take whole numbers from 1")
    with tempfile.TemporaryDirectory(prefix="roundtable-bench-") as name:
        folder = pathlib.Path(name)
        results = {size.name: bench(a, size, folder) for size in make_sizes(a, folder)}
    print(json.dumps({"sizes": results, "cluster": a.cluster, "ranks": a.ranks, "repeats": a.repeats}))


if __name__ == "__main__":
    try:
        main()
    except ToolFailed as error:
        sys.exit(f"error: {error}")
