#!/usr/bin/env python3
"""Measures this machine and prints the `cluster` section that `roundtable plan --cluster FILE` takes, in half a minute.

  launch/describe_machine.py [--ranks N] [--threads T] [--out FILE] [--device cpu|cuda] [--directory DIR]
                             [--network-bandwidth GB/s] [--model DIR] [--seqlen N] [--samples N] [--quick]

Run it in the environment of launch/setup.sh, on an idle machine, with the ranks and threads that the run will have:
processes that work at the same time share caches and memory bandwidth, so they are measured at the same time. Each rank
has one device: its threads of a CPU, or a GPU. The matrix products are those of one pass of a Llama-like block: that of
--model (config.json is enough), on --samples of --seqlen tokens. --directory is on the file system of the output.
Only one machine is measured. For several nodes, write yourself: nodes, network_bandwidth, and the bandwidth of the file
system to all nodes.
"""

import argparse
import dataclasses
import os
import pathlib
import platform
import sys

import torch

import machine_rates as rates
from exit_codes import Failure, run
from machine_rates import Block, DeviceWork, Effort
from output_file import check_replaceable, start_of


MADE_BY = "measured by launch/describe_machine.py"
FULL = Effort(seconds=3, copy_bytes=256 << 20, caches=2, piece_bytes=16 << 20, pieces=16, trips=2000,
              file_bytes=256 << 20, chunk_bytes=32 << 20)
# Only to see that the script works: its figures mean nothing.
QUICK = Effort(seconds=0.02, copy_bytes=1 << 20, caches=0, piece_bytes=1 << 16, pieces=4, trips=20, file_bytes=1 << 20,
               chunk_bytes=1 << 18)
BLOCKS = {"cpu": Block(1024, 2816, 16, 4, 64), "cuda": Block(4096, 14336, 32, 8, 128), "quick": Block(64, 96, 4, 2, 16)}
SEQLENS = {"cpu": 512, "cuda": 2048, "quick": 32}
FLOPS_OF_A_ROUND = {"cpu": 2e11, "cuda": 3e13, "quick": 0}  # about a second of a core, and less of a GPU


@dataclasses.dataclass(frozen=True)
class Figure:
    key: str  # src/config/config.h has its unit
    value: float
    how: str


def many(count, thing):
    return f"{count} {thing}{'s' * (count != 1)}"


def device_figures(work, ranks, shape):
    processes = 1 if work.device == "cuda" else ranks
    multiplied, copied = rates.measure_device(work, processes)
    if work.device == "cuda":
        who = "on the first GPU"
    else:
        who = f"ranks of {many(work.threads, 'thread')}: {processes}" + " at once, the slowest" * (processes > 1)
    return [Figure("matrix_rate", multiplied / 1e12, f"TFLOP/s of bf16 products of a block's pass, {shape}; {who}"),
            Figure("memory_bandwidth", copied / 1e9,
                   f"GB/s read and written by a copy of {work.copy_bytes >> 20} MiB; {who}")]


def link_figures(device, ranks, network, effort):
    sent, trip = rates.measure_link(effort)
    how = "GB/s that a process sends through shared memory while it receives as much and adds half of it"
    if device == "cuda" and torch.cuda.device_count() > 1:
        sent, how = rates.measure_peer(effort), "GB/s of a copy from the first GPU to the second"
    elif ranks == 1:
        how += "; no link for one rank"
    beyond = ("GB/s, as given (--network-bandwidth)" if network else
              "the link's: one machine cannot measure the network to others (--network-bandwidth)")
    return [Figure("link_bandwidth", sent / 1e9, how), Figure("network_bandwidth", network or sent / 1e9, beyond),
            Figure("latency", trip * 1e6, "microseconds there and back between two processes, by a pipe")]


def memory_figure(device, ranks):
    if device == "cuda":
        return Figure("device_memory", torch.cuda.get_device_properties(0).total_memory / 1e9, "GB of the first GPU")
    return Figure("device_memory", rates.available_bytes() / ranks / 1e9,
                  f"GB: what the kernel calls available, shared by {many(ranks, 'rank')}")


def file_figure(directory, effort):
    size, writing, reading = rates.measure_files(directory, effort)
    return Figure("file_system_bandwidth", 2 * size / (writing + reading) / 1e9,
                  f"GB/s of {size >> 20} MiB written with fsync ({size / writing / 1e9:.2f}) and read back "
                  f"({size / reading / 1e9:.2f}), by one process")


def samples_of_pass(block, seqlen, flops):
    """Up to 4 that keep a round of products short."""
    one = sum(product.flops for product in rates.products_of_pass(block, 1, seqlen))
    return min(4, max(1, int(flops / one)))


def describe(a):
    size, effort = ("quick", QUICK) if a.quick else (a.device, FULL)
    block = rates.read_block(a.model) if a.model else BLOCKS[size]
    seqlen = a.seqlen or SEQLENS[size]
    samples = a.samples or samples_of_pass(block, seqlen, FLOPS_OF_A_ROUND[size])
    # Memory first, while nothing of ours is in it. Then files: a bad directory is refused before the long measurements.
    memory, files = memory_figure(a.device, a.ranks), file_figure(a.directory, effort)
    work = DeviceWork(a.device, a.threads, rates.products_of_pass(block, samples, seqlen),
                      rates.copy_bytes_of(a.device, a.ranks, effort), effort.seconds)
    shape = f"hidden size {block.hidden}, {samples} x {seqlen} tokens"
    return [Figure("nodes", 1, "this machine"),
            Figure("devices_a_node", a.ranks, "as asked for" if a.device == "cpu" else "GPUs, one rank each"), memory,
            *device_figures(work, a.ranks, shape), *link_figures(a.device, a.ranks, a.network_bandwidth, effort), files]


def shown(value):
    """Four digits, never with an exponent, and not below the least that the program takes."""
    if isinstance(value, int):
        return str(value)
    return f"{max(float(f'{value:.4g}'), 1e-6):.10f}".rstrip("0").rstrip(".")


def text_of(figures, machine):
    lines = [f"# {machine}, {MADE_BY}.", "cluster:"]
    for figure in figures:
        lines += [f"  # {figure.how}", f"  {figure.key}: {shown(figure.value)}"]
    return "\n".join(lines) + "\n"


def machine_name(device):
    if device == "cuda":
        return f"{platform.node()}: {torch.cuda.get_device_name()}"
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{platform.node()}: {model}"


def from_one(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number from 1, not '{text}'")
    return int(text)


def above_zero(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 1e-6 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"takes a number above 0, not '{text}'")
    return value


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=from_one, help="ranks, one per device (2 on a CPU, all GPUs)")
    parser.add_argument("--threads", type=from_one, help="threads per rank (its share of the cores)")
    parser.add_argument("--out", type=pathlib.Path, help="also write it to this file")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="(cuda if there is a GPU)")
    parser.add_argument("--directory", type=pathlib.Path, default=".", help="a folder on the file system of the output (.)")
    parser.add_argument("--network-bandwidth", type=above_zero, help="GB/s from a device to other nodes (that of the link)")
    parser.add_argument("--model", type=pathlib.Path, help="the model that gives the shapes of the products; config.json is enough")
    parser.add_argument("--seqlen", type=from_one, help="tokens per sample (512 on a CPU, 2048 on a GPU)")
    parser.add_argument("--samples", type=from_one, help="samples per pass (up to 4)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    a = parser.parse_args()
    a.device = a.device or ("cuda" if torch.cuda.is_available() else "cpu")
    a.ranks = a.ranks or (torch.cuda.device_count() if a.device == "cuda" else 2)
    a.threads = a.threads or max(1, len(os.sched_getaffinity(0)) // max(1, a.ranks))
    return a


def is_description(path):
    return MADE_BY.encode() in start_of(path, 4096).split(b"\n")[0]


def measure(a):
    gpus = torch.cuda.device_count()
    if a.device == "cuda" and not 1 <= a.ranks <= gpus:
        raise Failure(f"--device cuda needs one GPU per rank, but torch finds {gpus} for --ranks {max(1, a.ranks)}; give "
                      "fewer --ranks, or --device cpu")
    if a.out:
        check_replaceable(a.out, "--out", is_description, "a description of a machine by this script")
    text = text_of(describe(a), machine_name(a.device))
    if a.out:
        a.out.write_text(text, encoding="utf-8")
    print(text, end="")


def main():
    return run(measure, read_arguments())


if __name__ == "__main__":
    sys.exit(main())
