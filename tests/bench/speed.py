#!/usr/bin/env python3
"""The measurements of the speed bench; `launch/bench.sh` makes the inputs and starts this script.

  tests/bench/speed.py --model DIR --tokens FILE --kernels FILE --out FILE [--iters 40] [--repeats 2] [--blocks 3]
                       [--json]
  tests/bench/speed.py --device cuda --kernels FILE [--nccl FILE] --out FILE [--memory-peak GB/S]
                       [--matrix-peak TFLOP/S] [--json]

Roundtable and auto-round tune the same first blocks of a model in turns, on two threads in all. The report has the
seconds per step of each, their ratio, and how far Roundtable is from the time of a step's matrix products alone
(gemm_limit.py), which is measured in the same rounds. Then it shows where a step goes, 1, 2 and 4 ranks of one thread,
and the kernels of fake quantization compared with a copy (kernels_bench.cc). With --device cuda no tool is run. The
report then has the kernels, the matrix products of a step (gemm_limit.py) and the sum of the gradients over all GPUs of
this node (nccl_bench.cc), with percent of the peak of the GPU's data sheet, by its name (gpu_peaks.py) or by
--memory-peak and --matrix-peak.

The seconds of a step are those of the tuner over its iterations, for both tools, in the median of the blocks after the
first. The first block holds auto-round's compilation, and both tools touch their memory for the first time in it.
Writes --out (JSON) and next to it a plot (.svg). The report goes to stdout. With --json it goes to stderr, and stdout
has one JSON object and nothing else.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import torch

import gemm_limit
import gpu_peaks
import speed_report
from both_tools import BINARY, MPIRUN, Task, ToolFailed, cut_model, last_json, run, run_ours, run_peer, token_shape

# (ranks, threads per rank). The first is the subject of the report: one rank per core, as in demo.sh.
COMPARED = ((2, 1), (1, 2))
SCALING = ((1, 1), (2, 1), (4, 1))
PEER = "auto-round"
THREADS = 2  # of the peer: as many as each layout of COMPARED has
OF_STEP = "fake_quantize,sign_step"  # the kernels that a step runs
CUDA_SHAPES = "4096x4096,14336x4096,4096x14336"  # Llama-3.1-8B's: far larger than a GPU's cache
DATA_TYPES = ("int", "mx_fp", "nv_fp")  # each has its own instructions
CUDA_LOAD = (8, 2048)  # samples and tokens of a step's products: the defaults of tuning and calibration


def layout_name(layout):
    ranks, threads = layout
    return f"{ranks} rank{'s' * (ranks > 1)} x {threads} thread{'s' * (threads > 1)}"


def say(text):
    print(text, file=sys.stderr, flush=True)


# --- measuring ---------------------------------------------------------------------------------------------------

def a_step(seconds, iters):
    """{step, block, waiting} of a run's {tuning, whole, waiting}: without the first block."""
    middle = {span: statistics.median(seconds[span][1:]) for span in ("tuning", "whole", "waiting") if span in seconds}
    found = {"step": middle["tuning"] / iters, "block": middle["whole"]}
    return found | ({"waiting": middle["waiting"] / iters} if "waiting" in middle else {})


def turns():
    """The order of a round: the peer between the two layouts that it is compared with."""
    return [COMPARED[0], PEER, *COMPARED[1:], *(layout for layout in SCALING if layout not in COMPARED)]


def run_turn(turn, task, logs, number):
    name = turn if turn == PEER else layout_name(turn)
    out = task.model.parent / f"{number}-{name.replace(' ', '-')}"
    log = logs / f"{out.name}.log"
    found = run_peer(task, out, THREADS, log) if turn == PEER else run_ours(task, out, *turn, log)
    seconds = a_step(found, task.iters)
    say(f"round {number}  {name:20} {seconds['step']:.4f} s per step, {seconds['block']:.1f} s per block")
    return name, {"said": found} | seconds


def run_round(task, block, logs, number):
    """{runs: {name: {step, block, waiting, and the numbers of the tool}}, limits: {layout: {part: seconds}}}"""
    runs = dict(run_turn(turn, task, logs, number) for turn in turns())
    limits = {}
    for layout in COMPARED:
        parts = gemm_limit.measure(block, *layout, task.batch_size, token_shape(task.tokens)[1])
        limits[layout_name(layout)] = parts
        say(f"round {number}  matrix products alone, {layout_name(layout)}: {sum(parts.values()):.4f} s per step")
    return {"runs": runs, "limits": limits}


def run_kernels(binary, arguments, copies=1):
    """The kernels' measurements, a list for each of `copies` processes that run at the same time."""
    command = [binary, *arguments, "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(copies)]
    ended = [(process, *process.communicate()) for process in started]
    for process, _, errors in ended:
        if process.returncode != 0:
            why = (errors.strip().splitlines() or ["it gave no reason"])[-1]
            raise ToolFailed(f"kernels_bench ended with {process.returncode}: {why.removeprefix('error: ')}")
    return [json.loads(said.strip().splitlines()[-1])["kernels"] for _, said, _ in ended]


def kernel_seconds(copies, shapes):
    """{kernel: seconds} of one step in the slowest copy; `shapes` has one for each layer of the block."""
    def of_copy(measured):
        seconds = {}
        for m in measured:
            times = shapes.count(f"{m['rows']}x{m['columns']}")
            seconds[m["kernel"]] = seconds.get(m["kernel"], 0) + times * m["seconds"]
        return seconds

    return max(map(of_copy, copies), key=lambda seconds: sum(seconds.values()))


# --- putting together --------------------------------------------------------------------------------------------

def over(rounds, pick):
    """Median, least and most of a number of each round."""
    values = [pick(r) for r in rounds]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def shares_of_step(rounds, name, kernels):
    """Rows {part, seconds, share} of a layout's step: what was timed alone, the waiting, and what is left."""
    def median(pick):
        return over(rounds, pick)["median"]

    step = median(lambda r: r["runs"][name]["step"])
    parts = {part: median(lambda r: r["limits"][name][part]) for part in gemm_limit.PARTS} | kernels
    if "waiting" in rounds[0]["runs"][name]:
        parts["waiting for the sum"] = median(lambda r: r["runs"][name]["waiting"])
    parts["the rest"] = step - sum(parts.values())
    return [{"part": part, "seconds": seconds, "share": seconds / step} for part, seconds in parts.items()]


def scaling_rows(rounds):
    """Rows {ranks, step, speedup, efficiency} over the rounds, against one rank of one thread in the same round."""
    def step(r, layout):
        return r["runs"][layout_name(layout)]["step"]

    return [{"ranks": layout[0], "step": over(rounds, lambda r: step(r, layout)),
             "speedup": over(rounds, lambda r: step(r, SCALING[0]) / step(r, layout)),
             "efficiency": over(rounds, lambda r: step(r, SCALING[0]) / step(r, layout) / layout[0])}
            for layout in SCALING]


def layout_row(rounds, name):
    """The step of one layout, compared with the peer's of the same round and with its own products alone."""
    return {"step": over(rounds, lambda r: r["runs"][name]["step"]),
            "block": over(rounds, lambda r: r["runs"][name]["block"]),
            "ratio": over(rounds, lambda r: r["runs"][PEER]["step"] / r["runs"][name]["step"]),
            "block_ratio": over(rounds, lambda r: r["runs"][PEER]["block"] / r["runs"][name]["block"]),
            "limit": over(rounds, lambda r: sum(r["limits"][name].values())),
            "limit_ratio": over(rounds, lambda r: r["runs"][name]["step"] / sum(r["limits"][name].values()))}


def summarize(rounds, kernels_of_step):
    """The results of all rounds; `kernels_of_step` {kernel: seconds} belongs to the first of COMPARED."""
    first = layout_name(COMPARED[0])
    layouts = {layout_name(layout): layout_row(rounds, layout_name(layout)) for layout in COMPARED}
    peer = {span: over(rounds, lambda r: r["runs"][PEER][span]) for span in ("step", "block")}
    one_rank = layout_name(COMPARED[1])  # the peer's layout, too
    peer["limit_ratio"] = over(rounds, lambda r: r["runs"][PEER]["step"] / sum(r["limits"][one_rank].values()))
    peer |= {key: rounds[0]["runs"][PEER]["said"][key] for key in ("version", "compiled")}
    scaling = scaling_rows(rounds)
    ours = layouts[first]
    return {"seconds_per_step": {"roundtable": ours["step"]["median"], PEER: peer["step"]["median"]},
            "ratio": ours["ratio"]["median"], "ratio_range": [ours["ratio"]["min"], ours["ratio"]["max"]],
            "limit_ratio": ours["limit_ratio"]["median"], "limit_seconds_per_step": ours["limit"]["median"],
            "scaling_2_ranks": next(row["speedup"]["median"] for row in scaling if row["ranks"] == 2),
            "layout": first, "layouts": layouts, PEER: peer, "scaling": scaling,
            "shares": shares_of_step(rounds, first, kernels_of_step)}


# --- the machine -------------------------------------------------------------------------------------------------

def first_line_of(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0]


def cpu_model():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def busy_share(seconds=1.0):
    """Of all cores' time in the coming second. Not the load average, which still remembers the build."""
    def read():
        ticks = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return sum(ticks), sum(ticks[3:5])  # all, and idle or waiting for a disk: proc(5)

    before = read()
    time.sleep(seconds)
    total, idle = (after - first for after, first in zip(read(), before))
    return 1 - idle / max(total, 1)


def describe_machine():
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)), "busy_before": round(busy_share(), 3),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(), "python": platform.python_version(), "torch": torch.__version__,
            "roundtable": first_line_of([BINARY, "--version"]), "mpi": first_line_of([MPIRUN[0], "--version"])}


# --- the two benches ---------------------------------------------------------------------------------------------

def kernels_of_block(a, task, block):
    """(the measurements of the kernels on all threads, {kernel: seconds} of a step in the first layout)"""
    layers = [f"{out}x{into}" for _, out, into in block.linears]
    arguments = ["--kernels", OF_STEP, "--shapes", ",".join(dict.fromkeys(layers)), "--bits", str(task.bits),
                 "--group-size", str(task.group_size)]
    ranks, threads = COMPARED[0]
    of_ranks = run_kernels(a.kernels, [*arguments, "--threads", str(threads)], ranks)
    alone, = run_kernels(a.kernels, [*arguments, "--threads", str(THREADS)])
    return alone, kernel_seconds(of_ranks, layers)


def bench_cpu(a):
    samples, seqlen = token_shape(a.tokens)
    logs = a.out.parent / "logs"
    logs.mkdir(exist_ok=True)
    block = gemm_limit.read_block(a.model)
    with tempfile.TemporaryDirectory(prefix="roundtable-bench-") as name:
        task = Task(pathlib.Path(name) / "model", a.tokens, a.blocks, a.iters)
        cut_model(a.model, task.model, a.blocks)
        rounds = [run_round(task, block, logs, number) for number in range(1, a.repeats + 1)]
    kernels, of_step = kernels_of_block(a, task, block)
    settings = {"blocks": a.blocks, "iters": a.iters, "repeats": a.repeats, "batch_size": task.batch_size,
                "seqlen": seqlen, "samples": samples, "bits": task.bits, "group_size": task.group_size,
                "threads": THREADS}
    return summarize(rounds, of_step) | {"flops_per_step": gemm_limit.flops_of_step(block, task.batch_size, seqlen),
                                         "kernels": kernels, "settings": settings, "rounds": rounds}


def kernels_on_gpu(binary, peak):
    """All kernels, as integers and as both floats of 4 bits, with their share of the memory's bandwidth."""
    rows = []
    for data_type in DATA_TYPES:
        measured, = run_kernels(binary, ["--device", "cuda", "--shapes", CUDA_SHAPES, "--data-type", data_type])
        rows += [row | {"share_of_peak": gpu_peaks.share(row["gb_per_s"] * 1e9, peak)} for row in measured]
    return rows


def sums_on_gpus(binary):
    """What nccl_bench says of a rank on each GPU of this node: {ranks, reductions}; None without the program."""
    ranks = str(torch.cuda.device_count())
    return last_json(run("nccl_bench", [*MPIRUN, "-n", ranks, binary, "--json"], None)) if binary else None


def bench_cuda(a, name):
    """No tool is run: what is compared with auto-round is not measured, and is null."""
    peak = gpu_peaks.peak_of(name, a.memory_peak, a.matrix_peak)
    batch_size, seqlen = CUDA_LOAD
    return dict.fromkeys(("seconds_per_step", "ratio", "limit_ratio", "scaling_2_ranks")) | {
        "kernels": kernels_on_gpu(a.kernels, peak.memory),
        "products": gemm_limit.measure_on_gpu(gemm_limit.LLAMA_8B, batch_size, seqlen, peak.matrix),
        "sums": sums_on_gpus(a.nccl), "settings": {"batch_size": batch_size, "seqlen": seqlen},
        "peaks": {"memory_gb_per_s": peak.memory and peak.memory / 1e9,
                  "matrix_tflops": peak.matrix and peak.matrix / 1e12}}


def positive(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"takes a number above 0, not '{text}'")
    return value


def whole_from(least):
    def whole(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"takes a whole number from {least}, not '{text}'")
        return int(text)
    return whole


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--tokens", type=pathlib.Path)
    parser.add_argument("--kernels", required=True, type=pathlib.Path, help="the program kernels_bench")
    parser.add_argument("--nccl", type=pathlib.Path, help="the program nccl_bench")
    parser.add_argument("--memory-peak", type=positive, help="GB/s of the GPU's data sheet")
    parser.add_argument("--matrix-peak", type=positive, help="dense bf16 TFLOP/s of the GPU's data sheet")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the JSON file")
    parser.add_argument("--iters", type=whole_from(1), default=40, help="steps per block")
    parser.add_argument("--repeats", type=whole_from(1), default=2, help="rounds of both tools in turns")
    parser.add_argument("--blocks", type=whole_from(2), default=3, help="the first blocks of the model")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, all other text on stderr")
    a = parser.parse_args()
    if a.device == "cpu" and not (a.model and a.tokens):
        parser.error("--model and --tokens are needed")
    return a


def main():
    a = read_arguments()
    machine = describe_machine()
    if a.device == "cpu" and machine["cores"] < THREADS:
        raise ToolFailed(f"this machine has {machine['cores']} core(s), and the bench needs {THREADS}")
    if machine["busy_before"] > 0.1:
        say(f"warning: others use {100 * machine['busy_before']:.0f} % of this machine: the figures will be wrong")
    a.out.parent.mkdir(parents=True, exist_ok=True)
    measured = bench_cuda(a, machine["gpu"]) if a.device == "cuda" else bench_cpu(a)
    results = measured | {"device": a.device, "machine": machine}
    a.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    plot = a.out.with_suffix(".svg")
    speed_report.draw(results, plot)
    print(speed_report.text(results), f"written: {a.out}, {plot}", sep="\n", file=sys.stderr if a.json else sys.stdout)
    if a.json:
        print(json.dumps(results))


if __name__ == "__main__":
    try:
        main()
    except ToolFailed as error:
        sys.exit(f"error: {error}")
