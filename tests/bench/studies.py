#!/usr/bin/env python3
"""Quality per second: perplexity after a run, and the time that its tuning took, setting by setting.

  tests/bench/studies.py --model DIR --tokens FILE --heldout FILE [--bits 3] [--seeds 42] [--runs NAME ...] [--ranks 2]

After launch/demo.sh: --model demo/model --tokens demo/calibration.safetensors --heldout demo/heldout.safetensors. It
makes the runs that --runs names, by default all, once per seed. The machine must be idle. All have groups of 64, batch
4 and 50 iterations, unless the name says otherwise. `estimated` runs start from the checkpoint of `sweep`, which is
made before them; its seconds are added to theirs. Prints one row per run. The last line of stdout is a JSON object:
bits, runs [{name, seed, seconds, perplexity, losses}]; losses is the mean over the blocks of the best loss over the
first one.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

from both_tools import ToolFailed, quantize, token_shape

STAGES = 30  # one per block of the model
RUNS = {
    "scales from 1": {"tuning": {"init_scale": "one"}},
    "scales from 1, 200": {"tuning": {"init_scale": "one", "iters": 200}},
    "searched": {},
    "searched, factors up to 1": {"tuning": {"minmax_scale_bound": 1}},
    "searched, outliers left out": {"tuning": {"outlier_suppressed_loss": "below_4_bits"}},
    "SignRoundV2": {"tuning": {"init_scale": "search", "minmax_scale_bound": 2,
                               "outlier_suppressed_loss": "below_4_bits"}},
    "asym, scales from 1": {"quantization": {"scheme": "asym"}, "tuning": {"init_scale": "one"}},
    "asym, searched": {"quantization": {"scheme": "asym"}},
    "searched, 25": {"tuning": {"iters": 25}},
    "searched, 100": {"tuning": {"iters": 100}},
    "searched, 200": {"tuning": {"iters": 200}},
    "rate 1.5 times": {"tuning": {"lr": 0.03}},
    "rate 0.7 times": {"tuning": {"lr": 0.014}},
    "cosine": {"tuning": {"lr_scheduler": "cosine"}},
    "momentum 0.9": {"tuning": {"momentum": 0.9}},
    "last iterate": {"tuning": {"not_use_mse": True}},
    "stop after 10 without a lower loss": {"tuning": {"dynamic_max_gap": 10}},
    "8 samples per step, 25": {"tuning": {"batch_size": 8, "iters": 25}},
    "sweep": {"tuning": {"iters": 20}, "parallel": {"stages": STAGES}},
    "one block per stage": {"parallel": {"stages": STAGES}},
    "one block per stage, estimated": {"parallel": {"stages": STAGES}},
    "8 blocks per stage": {"parallel": {"stages": 4}},
    "8 blocks per stage, estimated": {"parallel": {"stages": 4}},
}


def settings(a, name, seed, out, estimate):
    rows, seqlen = token_shape(a.tokens)
    whole = {"model": {"path": str(a.model)},
             "calibration": {"tokens": str(a.tokens), "n_samples": rows, "seqlen": seqlen},
             "quantization": {"bits": a.bits, "group_size": 64}, "tuning": {"iters": 50, "batch_size": 4, "seed": seed},
             "parallel": {}, "output": {"path": str(out)}, "run": {"eval_tokens": str(a.heldout)}}
    for section, keys in RUNS[name].items():
        whole[section] |= keys
    if "estimated" in name:
        whole["calibration"]["estimate"] = str(estimate)
    return whole


def make_run(a, name, seed, folder):
    """{name, seed, seconds, perplexity, losses}, and where its checkpoint is."""
    out = folder / f"{list(RUNS).index(name)}-{seed}"
    sweep, estimate = None, None
    if "estimated" in name:
        sweep, estimate = make_run(a, "sweep", seed, folder / "sweeps")
    summary, events = quantize(settings(a, name, seed, out, estimate), a.ranks, out.with_suffix(".log"))
    blocks = [e for e in events if e["event"] == "block"]
    return {"name": name, "seed": seed, "seconds": summary["seconds"]["tune"] + (sweep["seconds"] if sweep else 0),
            "perplexity": summary["perplexity"]["quantized"],
            "losses": statistics.mean(b["best_loss"] / b["first_loss"] for b in blocks)}, out


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "tokens", "heldout"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--bits", type=int, default=3, choices=(2, 3, 4, 8))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME",
                        help=f"of: {'; '.join(RUNS)}")
    return parser.parse_args()


def main():
    a = arguments()
    runs = []
    print(f"| W{a.bits} | seed | tuning, s | perplexity | best loss / first |\n|---|---|---|---|---|", flush=True)
    for name in a.runs:
        for seed in a.seeds:
            with tempfile.TemporaryDirectory() as folder:
                (pathlib.Path(folder) / "sweeps").mkdir()
                run, _ = make_run(a, name, seed, pathlib.Path(folder))
            runs.append(run)
            print(f"| {name} | {seed} | {run['seconds']:.1f} | {run['perplexity']:.2f} | {run['losses']:.3f} |", flush=True)
    print(json.dumps({"bits": a.bits, "runs": runs}))


if __name__ == "__main__":
    try:
        main()
    except ToolFailed as error:
        sys.exit(f"error: {error}")
