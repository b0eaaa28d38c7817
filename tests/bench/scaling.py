#!/usr/bin/env python3
"""Strong scaling of quantize over ranks of one thread, compared with that of the machine's own matrix products.

  tests/bench/scaling.py --model DIR --tokens FILE [--ranks 1,2,4] [--rounds 2] [--blocks 2] [--iters 30]
  tests/bench/scaling.py --shape llama-8b [--ranks 1,2,4] [--rounds 2] [--blocks 1] [--iters 3]
  tests/bench/scaling.py --shape llama-70b

The first two tune the same blocks on each number of ranks: the first blocks of a model, on 64 samples of 512 tokens; or
random blocks of Llama-3.1-8B's shape, on 16 samples of 256. Before and after each run the products of its steps are
made alone, by as many processes (gemm_limit.py): what the machine's cores give at that moment. --shape llama-70b tunes
one random block of Llama-3.1-70B's shape on one rank, one sample per pass, and compares the peak of its memory with
20 GiB and with the forecast of `plan`, without and with tuning.low_gpu_mem_usage.

Run it in the environment of launch/setup.sh, on an idle machine. A number of ranks that needs more memory than is free
is left out. How the figures are taken: README.md, "Scaling". The last line of stdout is a JSON object: shape, settings,
cores and
  rows    one per number of ranks: seconds, speedup, efficiency {phase}; machine {seconds, speedup, efficiency};
          over_machine {phase: our speed-up over the machine's}; reduced_bytes_a_step, hidden_share (null on one rank),
          save_seconds_a_block, peak_bytes; medians over the rounds, ratios those of one round
  rounds  [{ranks: what was measured}], and left_out [{ranks, why}]
With llama-70b: rows of low_gpu_mem_usage, peak_bytes, forecast_bytes, forecast_ratio, limit_bytes, below_limit.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile

import torch

import gemm_limit
from both_tools import ToolFailed, cut_model, plan, quantize

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "e2e"), str(HERE.parent.parent / "launch")]
from machine_rates import available_bytes

VOCAB = 1024
SHAPES = {
    "llama-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8},
    "llama-70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8},
}
STEPS = "steps of tune"  # in addition to the phases: what the tuner itself takes
LIMIT_BYTES = 20 << 30


@dataclasses.dataclass(frozen=True)
class Load:
    blocks: int
    samples: int
    seqlen: int
    batch_size: int
    iters: int
    group_size: int
    micro_batch: int = 0
    warm_up: int = 1   # rounds of products that do not count
    products: int = 1  # rounds that do


LOADS = {
    None: Load(blocks=2, samples=64, seqlen=512, batch_size=8, iters=30, group_size=64, warm_up=2, products=6),
    "llama-8b": Load(blocks=1, samples=16, seqlen=256, batch_size=8, iters=3, group_size=128),
    "llama-70b": Load(blocks=1, samples=8, seqlen=256, batch_size=4, iters=2, group_size=128, micro_batch=1),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


# --- inputs ------------------------------------------------------------------------------------------------------

def make_inputs(a, load, folder):
    """(model, tokens)"""
    model = folder / "model"
    if not a.shape:
        cut_model(a.model, model, load.blocks)
        return model, a.tokens
    # Imported here, because every process of gemm_limit.py reads this file and would load transformers.
    from tiny_model import make_model, make_tokens
    say(f"making {load.blocks} block(s) of {a.shape}'s shape")
    make_model(model, dtype=torch.bfloat16, num_hidden_layers=load.blocks, vocab_size=VOCAB, **SHAPES[a.shape])
    make_tokens(folder / "tokens.safetensors", rows=load.samples, seqlen=load.seqlen, vocab=VOCAB)
    return model, folder / "tokens.safetensors"


def settings(inputs, load, out, ranks, threads, **tuning):
    model, tokens = inputs
    return {"model": {"path": str(model)},
            "calibration": {"tokens": str(tokens), "n_samples": load.samples, "seqlen": load.seqlen},
            "quantization": {"bits": 4, "group_size": load.group_size},
            "tuning": {"iters": load.iters, "batch_size": load.batch_size, "micro_batch": load.micro_batch} | tuning,
            "parallel": {"shards": ranks, "threads": threads, "backend": "mpi"}, "output": {"path": str(out)}}


def why_not(planned, ranks):
    """Why this machine cannot hold a run; empty if it can."""
    needed, free = planned["bytes_a_rank"] * ranks, available_bytes()
    return f"{needed / 1e9:.1f} GB are needed, but {free / 1e9:.1f} GB are free" if needed > free else ""


# --- a run -------------------------------------------------------------------------------------------------------

def figures_of(summary, events, iters):
    """The figures of one run, from its summary and events."""
    blocks = [event for event in events if event["event"] == "block"]
    sums = [block["reduction"] for block in blocks if "reduction" in block]
    under_way = sum(one["seconds_under_way"] for one in sums)
    waiting = sum(one["seconds_waiting"] for one in sums)
    return {"seconds": summary["seconds"] | {STEPS: sum(block["seconds"] for block in blocks)},
            "reduced_bytes_a_step": sum(one["bytes"] for one in sums) / (len(blocks) * iters),
            "hidden_share": 1 - waiting / under_way if under_way > 0 else None,
            "save_seconds_a_block": statistics.median(block["save_seconds"] for block in blocks),
            "peak_bytes": max(summary["peak_bytes"]["tune"])}


def products_alone(block, load, ranks):
    """Seconds of a step's matrix products on `ranks` processes of one thread."""
    parts = gemm_limit.measure(block, ranks, 1, load.batch_size, load.seqlen, load.products, load.warm_up)
    return sum(parts.values())


def measure(inputs, block, load, ranks, out):
    before = products_alone(block, load, ranks)
    figures = figures_of(*quantize(settings(inputs, load, out, ranks, 1), ranks), load.iters)
    after = products_alone(block, load, ranks)
    say(f"{out.name}: tune {figures['seconds']['tune']:.1f} s; a step's products alone {before:.3f} s before it, "
        f"{after:.3f} s after")
    return figures | {"machine_seconds": (before + after) / 2, "machine_before": before, "machine_after": after}


def run_rounds(a, inputs, block, load, counts, folder):
    """[{ranks: figures}]. Every other round goes backwards: no number of ranks is always last on a warm machine."""
    rounds = []
    for number in range(a.rounds):
        order = counts if number % 2 == 0 else counts[::-1]
        rounds.append({ranks: measure(inputs, block, load, ranks, folder / f"round-{number + 1}-ranks-{ranks}")
                       for ranks in order})
    return rounds


# --- putting together --------------------------------------------------------------------------------------------

def row_of(rounds, ranks):
    """Medians over the rounds; a speed-up is over one rank in the same round."""
    def median(pick):
        values = [pick(one[ranks], one[1]) for one in rounds]
        return None if None in values else statistics.median(values)

    def machine(mine, one):
        return one["machine_seconds"] / mine["machine_seconds"]

    def speedup(phase):
        return lambda mine, one: one["seconds"][phase] / mine["seconds"][phase]

    def over_machine(phase):
        return lambda mine, one: speedup(phase)(mine, one) / machine(mine, one)

    phases = list(rounds[0][ranks]["seconds"])
    speedups = {phase: median(speedup(phase)) for phase in phases}
    kept = ("reduced_bytes_a_step", "hidden_share", "save_seconds_a_block", "peak_bytes")
    return {"ranks": ranks, "seconds": {phase: median(lambda mine, _: mine["seconds"][phase]) for phase in phases},
            "speedup": speedups, "efficiency": {phase: value / ranks for phase, value in speedups.items()},
            "machine": {"seconds": median(lambda mine, _: mine["machine_seconds"]), "speedup": median(machine),
                        "efficiency": median(machine) / ranks},
            "over_machine": {phase: median(over_machine(phase)) for phase in phases},
            } | {key: median(lambda mine, _: mine[key]) for key in kept}


def text_of(rows):
    """One line per figure, one column per number of ranks."""
    def line(name, show):
        return f"{name:42}" + "".join(f"{show(row):>18}" for row in rows)

    lines = [line("ranks of one thread", lambda row: str(row["ranks"]))]
    for phase in rows[0]["seconds"]:
        lines += [line(f"{phase}, s", lambda row: f"{row['seconds'][phase]:.2f}"),
                  line("  speed-up, efficiency",
                       lambda row: f"{row['speedup'][phase]:.2f}, {100 * row['efficiency'][phase]:.0f} %")]
    lines += [line("the machine's products, s per step", lambda row: f"{row['machine']['seconds']:.3f}"),
              line("  speed-up, efficiency",
                   lambda row: f"{row['machine']['speedup']:.2f}, {100 * row['machine']['efficiency']:.0f} %")]
    for phase in ("tune", STEPS):
        lines.append(line(f"{phase}: our speed-up / the machine's", lambda row: f"{row['over_machine'][phase]:.2f}"))
    lines += [line("reduced, MB per step", lambda row: f"{row['reduced_bytes_a_step'] / 1e6:.1f}"),
              line("reduction hidden by overlap", lambda row: "-" if row["hidden_share"] is None else
                   f"{100 * row['hidden_share']:.0f} %"),
              line("saved and proven, s per block", lambda row: f"{row['save_seconds_a_block']:.2f}"),
              line("peak of a rank in tune, MB", lambda row: f"{row['peak_bytes'] / 1e6:.0f}")]
    return "\n".join(lines)


# --- the two benches ---------------------------------------------------------------------------------------------

def bench_scaling(a, load, folder):
    inputs = make_inputs(a, load, folder)
    block = gemm_limit.read_block(inputs[0])
    reasons = {ranks: why_not(plan(settings(inputs, load, folder / "planned", ranks, 1), ranks), ranks)
               for ranks in a.ranks}
    left_out = [{"ranks": ranks, "why": why} for ranks, why in reasons.items() if why]
    for one in left_out:
        say(f"{one['ranks']} rank(s) left out: {one['why']}")
    if reasons[1]:
        raise ToolFailed(f"one rank, with which all others are compared, does not fit: {reasons[1]}")
    counts = [ranks for ranks, why in reasons.items() if not why]
    rounds = run_rounds(a, inputs, block, load, counts, folder)
    rows = [row_of(rounds, ranks) for ranks in counts]
    print(text_of(rows))
    return {"rows": rows, "rounds": rounds, "left_out": left_out}


def memory_row(low, peak, planned):
    return {"low_gpu_mem_usage": low, "peak_bytes": peak, "forecast_bytes": planned, "forecast_ratio": planned / peak,
            "limit_bytes": LIMIT_BYTES, "below_limit": peak < LIMIT_BYTES}


def memory_text(row):
    peak, planned, limit = (row[key] / 2**30 for key in ("peak_bytes", "forecast_bytes", "limit_bytes"))
    return (f"low_gpu_mem_usage {str(row['low_gpu_mem_usage']).lower():5}  peak in tune {peak:.2f} GiB, "
            f"{'below' if row['below_limit'] else 'NOT below'} {limit:.0f}; plan forecasts {planned:.2f} "
            f"(ratio {row['forecast_ratio']:.2f})")


def bench_memory(a, load, folder):
    inputs = make_inputs(a, load, folder)
    rows = []
    for low in (False, True):
        chosen = settings(inputs, load, folder / f"out-{low}", 1, 0, low_gpu_mem_usage=low)
        planned = plan(chosen, 1)
        if why := why_not(planned, 1):
            raise ToolFailed(why)
        summary, _ = quantize(chosen, 1)
        rows.append(memory_row(low, max(summary["peak_bytes"]["tune"]), planned["bytes_a_rank"]))
        print(memory_text(rows[-1]), flush=True)
        rows[-1]["seconds"] = summary["seconds"]
    return {"rows": rows}


def read_counts(text):
    counts = [int(word) for word in text.split(",") if word.isdecimal()]
    if ",".join(map(str, counts)) != text or 1 not in counts or len(set(counts)) != len(counts):
        raise argparse.ArgumentTypeError(f"takes numbers of ranks, 1 among them, as 1,2,4 and not '{text}'")
    return counts


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), help="random blocks of this shape; without it --model's")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--tokens", type=pathlib.Path)
    parser.add_argument("--ranks", type=read_counts, default=[1, 2, 4], help="as 1,2,4; llama-70b runs on one")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all numbers of ranks in turns")
    parser.add_argument("--blocks", type=int, help="the first blocks of the model (2; 1 with --shape)")
    parser.add_argument("--iters", type=int, help="steps per block (30; 3 and 2 with --shape)")
    a = parser.parse_args()
    if not a.shape and not (a.model and a.tokens):
        parser.error("--model and --tokens are needed, or --shape")
    given = {key: getattr(a, key) for key in ("blocks", "iters") if getattr(a, key) is not None}
    if min([a.rounds, *given.values()]) < 1:
        parser.error("--rounds, --blocks and --iters take whole numbers from 1")
    load = dataclasses.replace(LOADS[a.shape], **given)
    if any(load.batch_size % ranks for ranks in a.ranks):
        parser.error(f"--ranks: each must divide the batch of {load.batch_size}")
    return a, load


def main():
    a, load = read_arguments()
    bench = bench_memory if a.shape == "llama-70b" else bench_scaling
    with tempfile.TemporaryDirectory(prefix="roundtable-bench-") as name:
        found = bench(a, load, pathlib.Path(name))
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({"shape": a.shape, "settings": dataclasses.asdict(load), "cores": cores} | found))


if __name__ == "__main__":
    try:
        main()
    except ToolFailed as error:
        sys.exit(f"error: {error}")
