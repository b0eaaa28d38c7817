#!/usr/bin/env python3
"""The matrix products of one tuning step of a block, alone: no tuner that makes these products is faster here.

  tests/bench/gemm_limit.py --model DIR [--ranks 2] [--threads 1] [--batch-size 8] [--seqlen 512] [--rounds 20]

Products of bf16 matrices by torch.mm and torch.bmm, of the shapes that a step has, into buffers that are there
already; each has operands of its own, as in a step:
  linear      y = x W^T, dW = dy^T x and dx = dy W of each layer. Layers that read the block's input have no dx:
              nothing before them is tuned.
  attention   q k^T and p v; backward dp, dv, dq and dk. A tile of 128 query rows meets the keys up to its end alone
              (causal), and query heads that share a key/value head are rows of one product (src/model/attention.cc).
With several ranks each takes its share of the batch in a process of its own, all at once; the slowest counts.
A model is read by its layers' names and sizes: Llama and what has its names. The last line of stdout is a JSON object:
{part: seconds}, medians over the rounds.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import pathlib
import statistics
import sys
import time

import torch
from safetensors import safe_open

TILE_ROWS = 128  # kTileRows of src/model/attention.cc
READ_THE_INPUT = ("q_proj", "k_proj", "v_proj")
PARTS = ("linear y = x W^T", "linear dx = dy W", "linear dW = dy^T x", "attention forward", "attention backward")
WARM_UP = 3  # rounds


@dataclasses.dataclass(frozen=True)
class Block:
    linears: tuple  # (name, out, in)
    heads: int
    kv_heads: int
    head_dim: int


@dataclasses.dataclass(frozen=True)
class Product:
    """`count` products [m, k] [k, n]; `transposed` ("a" or "b") names the operand that lies transposed in memory."""
    part: str
    count: int
    m: int
    k: int
    n: int
    transposed: str = ""

    @property
    def flops(self):
        return 2 * self.count * self.m * self.k * self.n


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
        raise SystemExit(f"error: {model} has no layers.0.*_proj.weight: its family's names are not known here")
    heads = config["num_attention_heads"]
    return Block(tuple(linears), heads, config.get("num_key_value_heads", heads),
                 config.get("head_dim") or config["hidden_size"] // heads)


def linear_products(block, tokens):
    forward, dx, dw = PARTS[:3]
    for name, out, into in block.linears:
        yield Product(forward, 1, tokens, into, out, "b")
        yield Product(dw, 1, out, tokens, into, "a")
        if name not in READ_THE_INPUT:
            yield Product(dx, 1, tokens, out, into)


def attention_products(block, samples, seqlen):
    forward, backward = PARTS[3:]
    count, shared = samples * block.kv_heads, block.heads // block.kv_heads
    for begin in range(0, seqlen, TILE_ROWS):
        keys = min(seqlen, begin + TILE_ROWS)
        rows = shared * (keys - begin)
        yield Product(forward, count, rows, block.head_dim, keys, "b")    # q k^T
        yield Product(forward, count, rows, keys, block.head_dim)         # p v
        yield Product(backward, count, rows, block.head_dim, keys, "b")   # dp = dy v^T
        yield Product(backward, count, keys, rows, block.head_dim, "a")   # dv = p^T dy
        yield Product(backward, count, rows, keys, block.head_dim)        # dq = ds k
        yield Product(backward, count, keys, rows, block.head_dim, "a")   # dk = ds^T q


def products_of_step(block, samples, seqlen):
    return [*linear_products(block, samples * seqlen), *attention_products(block, samples, seqlen)]


def operands_of(product):
    """(multiply, first, second, result), the two of random numbers."""
    def operand(rows, columns, transposed):
        shape = (product.count, columns, rows) if transposed else (product.count, rows, columns)
        made = torch.randn(shape, dtype=torch.bfloat16)
        return made.transpose(1, 2) if transposed else made

    a = operand(product.m, product.k, product.transposed == "a")
    b = operand(product.k, product.n, product.transposed == "b")
    out = torch.empty(product.count, product.m, product.n, dtype=torch.bfloat16)
    return (torch.mm, a[0], b[0], out[0]) if product.count == 1 else (torch.bmm, a, b, out)


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
    operands = [operands_of(product) for product in products]
    measured = []
    for _ in range(warm_up + rounds):
        barrier.wait()  # so that all ranks want the machine at the same time
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of a rank")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=20)
    a = parser.parse_args()
    if a.batch_size % a.ranks != 0:
        parser.error(f"--ranks {a.ranks} does not divide --batch-size {a.batch_size}")
    block = read_block(a.model)
    parts = measure(block, a.ranks, a.threads, a.batch_size, a.seqlen, a.rounds)
    total = sum(parts.values())
    for part, seconds in parts.items():
        print(f"{part:20} {seconds:8.4f} s")
    print(f"{'a step':20} {total:8.4f} s, {flops_of_step(block, a.batch_size, a.seqlen) / total / 1e12:.3f} TFLOP/s")
    print(json.dumps(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
