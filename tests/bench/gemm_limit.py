#!/usr/bin/env python3
"""The matrix products of one tuning step of a block, alone: no tuner that makes these products is faster here.

  tests/bench/gemm_limit.py --model DIR [--ranks 2] [--threads 1] [--batch-size 8] [--seqlen 512] [--rounds 20]
  tests/bench/gemm_limit.py --device cuda [--model DIR] [--batch-size 8] [--seqlen 2048] [--rounds 20]
                            [--matrix-peak TFLOP/S]

Products of bf16 matrices by torch.mm and torch.bmm, of the shapes that a step has, into buffers that exist
already; each has its own operands, as in a step:
  linear      y = x W^T, dW = dy^T x and dx = dy W of each layer. Layers that read the block's input have no dx:
              nothing before them is tuned.
  attention   q k^T and p v; backward dp, dv, dq and dk. A tile of 64 query rows uses only the keys up to its end
              (causal), and query heads that share a key/value head are rows of one product
              (src/model/attention/attention.cc).
With several ranks each takes its share of the batch in its own process, all at the same time; the slowest counts. A
model is read by the names and sizes of its layers: Llama, and models with the same names. The last line of stdout is a
JSON object: {part: seconds}, medians over the rounds.

With --device cuda on one GPU, by its own clock (events between the products): a step of a block of Llama-3.1-8B's shape
without --model. Attention is LibTorch's own there, as in the program, and counts as the products above without what the
causal mask hides. In addition one product of 8192 x 8192 x 8192 shows what the library reaches at best. Percent are
those of the dense bf16 peak of the data sheet: of --matrix-peak, or by the name of the device (gpu_peaks.py). The JSON
object is then {part: {seconds, flops, tflops, share_of_peak}}; share_of_peak is null if no peak is known.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import pathlib
import statistics
import sys
import time

import torch
from safetensors import safe_open

import gpu_peaks

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "launch"))
from machine_rates import TILE_ROWS, Product, operands_of

READ_THE_INPUT = ("q_proj", "k_proj", "v_proj")
PARTS = ("linear y = x W^T", "linear dx = dy W", "linear dW = dy^T x", "attention forward", "attention backward")
WARM_UP = 3  # rounds
ATTENTION, SQUARE, STEP = "attention, forward and backward", "one product of 8192^3", "a step"  # on a GPU


@dataclasses.dataclass(frozen=True)
class Block:
    linears: tuple  # (name, out, in)
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int = 0  # of a value's head; 0: as wide as a key's
    reads_input: tuple = READ_THE_INPUT  # names of the layers that read the block's input
    experts: int = 0
    chosen: int = 0           # of them, by a token
    expert_linears: tuple = ()  # (name, out, in) of one expert


def read_block(model):
    """The first block's shapes, from a model directory."""
    config = json.loads((model / "config.json").read_text())
    linears = []
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if ".layers.0." in name and name.endswith("_proj.weight"):
                    linears.append((name.split(".")[-2], *file.get_slice(name).get_shape()))
    if not linears:
        raise SystemExit(f"error: {model} has no layers.0.*_proj.weight: the names of its family are not known here; "
                         "give a Llama-like model")
    heads = config["num_attention_heads"]
    return Block(tuple(linears), heads, config.get("num_key_value_heads", heads),
                 config.get("head_dim") or config["hidden_size"] // heads)


# Llama-3.1-8B's (tests/data/models/llama-3.1-8b/config.json).
LLAMA_8B = Block((("q_proj", 4096, 4096), ("k_proj", 1024, 4096), ("v_proj", 1024, 4096), ("o_proj", 4096, 4096),
                  ("gate_proj", 14336, 4096), ("up_proj", 14336, 4096), ("down_proj", 4096, 14336)), 32, 8, 128)


def linear_products(block, tokens):
    forward, dx, dw = PARTS[:3]
    for name, out, into in block.linears:
        yield Product(1, tokens, into, out, "b", part=forward)
        yield Product(1, out, tokens, into, "a", part=dw)
        if name not in block.reads_input:
            yield Product(1, tokens, out, into, part=dx)
    rows = tokens * block.chosen // max(1, block.experts)  # of an expert, if all have as many
    for _, out, into in block.expert_linears:
        yield Product(block.experts, rows, into, out, "b", part=forward)
        yield Product(block.experts, out, rows, into, "a", part=dw)
        yield Product(block.experts, rows, out, into, part=dx)


def attention_products(block, samples, seqlen):
    forward, backward = PARTS[3:]
    count, shared = samples * block.kv_heads, block.heads // block.kv_heads
    value_dim = block.value_dim or block.head_dim
    for begin in range(0, seqlen, TILE_ROWS):
        keys = min(seqlen, begin + TILE_ROWS)
        rows = shared * (keys - begin)
        yield Product(count, rows, block.head_dim, keys, "b", part=forward)    # q k^T
        yield Product(count, rows, keys, value_dim, part=forward)              # p v
        yield Product(count, rows, value_dim, keys, "b", part=backward)        # dp = dy v^T
        yield Product(count, keys, rows, value_dim, "a", part=backward)        # dv = p^T dy
        yield Product(count, rows, keys, block.head_dim, part=backward)        # dq = ds k
        yield Product(count, keys, rows, block.head_dim, "a", part=backward)   # dk = ds^T q


def products_of_step(block, samples, seqlen):
    return [*linear_products(block, samples * seqlen), *attention_products(block, samples, seqlen)]


def run_round(products, operands):
    """{part: seconds} of all products once."""
    seconds = dict.fromkeys(PARTS, 0.0)
    for product, (multiply, a, b, out) in zip(products, operands):
        start = time.perf_counter()
        multiply(a, b, out=out)
        seconds[product.part] += time.perf_counter() - start
    return seconds


def run_rank(products, threads, rounds, warm_up, barrier):
    torch.set_num_threads(threads)
    operands = [operands_of(product, "cpu") for product in products]
    measured = []
    for _ in range(warm_up + rounds):
        barrier.wait()  # so that all ranks use the machine at the same time
        measured.append(run_round(products, operands))
    return {part: statistics.median(one[part] for one in measured[warm_up:]) for part in PARTS}


def measure(block, ranks, threads, batch_size, seqlen, rounds=20, warm_up=WARM_UP):
    """{part: seconds} of the slowest rank."""
    products = products_of_step(block, batch_size // ranks, seqlen)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, concurrent.futures.ProcessPoolExecutor(ranks, mp_context=context) as pool:
        barrier = manager.Barrier(ranks)
        started = [pool.submit(run_rank, products, threads, rounds, warm_up, barrier) for _ in range(ranks)]
        return max((one.result() for one in started), key=lambda parts: sum(parts.values()))


def flops_of_step(block, batch_size, seqlen):
    return sum(product.flops for product in products_of_step(block, batch_size, seqlen))


# --- on a GPU ----------------------------------------------------------------------------------------------------

def attention_call(block, samples, seqlen):
    """A call of LibTorch's attention and its backward pass, like that of src/model/attention/attention.cc."""
    def heads(count):
        shape = (samples, count, seqlen, block.head_dim)
        return torch.randn(shape, dtype=torch.bfloat16, device="cuda").requires_grad_(True)

    q, k, v = heads(block.heads), heads(block.kv_heads), heads(block.kv_heads)
    dy = torch.randn_like(q).detach()

    def call():
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True,
                                                             enable_gqa=block.heads != block.kv_heads)
        torch.autograd.grad(y, (q, k, v), dy)

    return call


def calls_on_gpu(block, samples, seqlen):
    """[(part, operations, call)] of a step, and the one large product."""
    def product_call(multiply, a, b, out):
        return lambda: multiply(a, b, out=out)

    calls = [(p.part, p.flops, product_call(*operands_of(p, "cuda")))
             for p in linear_products(block, samples * seqlen)]
    # q k^T and p v, and four more products backward; half of the scores are hidden
    attention = 6 * 2 * samples * block.heads * (seqlen * (seqlen + 1) // 2) * block.head_dim
    square = Product(1, 8192, 8192, 8192, part=SQUARE)
    return [*calls, (ATTENTION, attention, attention_call(block, samples, seqlen)),
            (SQUARE, square.flops, product_call(*operands_of(square, "cuda")))]


def run_round_on_gpu(calls):
    """{part: seconds} by events between the calls: the device's time, while the host is ahead of it."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
    marks[0].record()
    for (_, _, call), mark in zip(calls, marks[1:]):
        call()
        mark.record()
    torch.cuda.synchronize()
    seconds = {}
    for (part, _, _), (begin, end) in zip(calls, itertools.pairwise(marks)):
        seconds[part] = seconds.get(part, 0.0) + begin.elapsed_time(end) / 1e3
    return seconds


def rates_of(seconds, flops, peak):
    """{part: {seconds, flops, tflops, share_of_peak}} of {part: seconds} and {part: operations}, and of the step."""
    parts = [part for part in seconds if part != SQUARE]
    seconds = seconds | {STEP: sum(seconds[part] for part in parts)}
    flops = flops | {STEP: sum(flops[part] for part in parts)}
    return {part: {"seconds": taken, "flops": flops[part], "tflops": flops[part] / taken / 1e12,
                   "share_of_peak": gpu_peaks.share(flops[part] / taken, peak)} for part, taken in seconds.items()}


def measure_on_gpu(block, batch_size, seqlen, peak, rounds=20, warm_up=WARM_UP):
    """rates_of() the medians over the rounds, on the current device; `peak` in operations per second, or None."""
    calls = calls_on_gpu(block, batch_size, seqlen)
    measured = [run_round_on_gpu(calls) for _ in range(warm_up + rounds)][warm_up:]
    flops = {}
    for part, operations, _ in calls:
        flops[part] = flops.get(part, 0) + operations
    return rates_of({part: statistics.median(one[part] for one in measured) for part in flops}, flops, peak)


def main_on_gpu(a):
    if not torch.cuda.is_available():
        raise SystemExit("error: --device cuda: torch finds no GPU here; use --device cpu")
    name = torch.cuda.get_device_name()
    peak = gpu_peaks.peak_of(name, matrix_tflops=a.matrix_peak).matrix
    block = read_block(a.model) if a.model else LLAMA_8B
    parts = measure_on_gpu(block, a.batch_size, a.seqlen or 2048, peak, a.rounds)
    print(name)
    for part, row in parts.items():
        print(f"{part:32} {row['seconds']:8.4f} s {row['tflops']:7.1f} TFLOP/s, "
              f"{gpu_peaks.percent(row['share_of_peak'])} of the peak")
    print(json.dumps(parts))
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads per rank")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seqlen", type=int, help="512; on a GPU 2048")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--matrix-peak", type=float, help="dense bf16 TFLOP/s of the GPU's data sheet")
    a = parser.parse_args()
    return main_on_gpu(a) if a.device == "cuda" else main_on_cpu(a, parser)


def main_on_cpu(a, parser):
    if a.model is None:
        parser.error("--model is needed")
    seqlen = a.seqlen or 512
    if a.batch_size % a.ranks != 0:
        parser.error(f"--ranks {a.ranks} does not divide --batch-size {a.batch_size}")
    block = read_block(a.model)
    parts = measure(block, a.ranks, a.threads, a.batch_size, seqlen, a.rounds)
    total = sum(parts.values())
    for part, seconds in parts.items():
        print(f"{part:20} {seconds:8.4f} s")
    print(f"{'a step':20} {total:8.4f} s, {flops_of_step(block, a.batch_size, seqlen) / total / 1e12:.3f} TFLOP/s")
    print(json.dumps(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
