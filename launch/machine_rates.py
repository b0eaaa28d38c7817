"""Rates of this machine, for launch/describe_machine.py: matrix products, copies, swaps between processes, files.

All processes of a measurement run at the same time, because they share caches and memory bandwidth.
"""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from multiprocessing import shared_memory

import torch

from exit_codes import Failure, MachineFailure

TILE_ROWS = 64  # of attention: kAttentionTileRows of src/model/attention/attention.h
PATIENCE = 120  # seconds that a process waits for the others


@dataclasses.dataclass(frozen=True)
class Block:
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured."""
    seconds: float    # of products, of copies and of writing, each
    copy_bytes: int   # of one side of a copy, at least
    caches: int       # and as many times the largest cache
    piece_bytes: int  # that two processes swap at once
    pieces: int
    trips: int        # between two processes
    file_bytes: int
    chunk_bytes: int  # of the file, each brought to the disk


@dataclasses.dataclass(frozen=True)
class Product:
    """`count` products [m, k] [k, n]; `transposed` ("a" or "b") names the operand that lies transposed in memory."""
    count: int
    m: int
    k: int
    n: int
    transposed: str = ""
    part: str = ""  # of a step, if a caller tells parts apart

    @property
    def flops(self):
        return 2 * self.count * self.m * self.k * self.n


@dataclasses.dataclass(frozen=True)
class DeviceWork:
    """What the process of a device does, products and copies, for `seconds` each."""
    device: str
    threads: int
    products: tuple
    copy_bytes: int
    seconds: float


# --- products of a pass ------------------------------------------------------------------------------------------

def read_block(model):
    path = model / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        return Block(config["hidden_size"], config["intermediate_size"], heads,
                     config.get("num_key_value_heads") or heads,
                     config.get("head_dim") or config["hidden_size"] // heads)
    except OSError as error:
        raise Failure(f"--model: {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise Failure(f"--model: {path} is not of a Llama-like model ({error}); leave --model out") from error


def linears_of(block):
    """(out, in) of each layer; the first three read the block's input."""
    width, kv_width = block.heads * block.head_dim, block.kv_heads * block.head_dim
    attention = [(width, block.hidden), (kv_width, block.hidden), (kv_width, block.hidden), (block.hidden, width)]
    return attention + [(block.intermediate, block.hidden)] * 2 + [(block.hidden, block.intermediate)]


def products_of_pass(block, samples, seqlen):
    """Forward and backward. As many operations as src/plan/forecast.cc counts for a step of these tokens."""
    tokens = samples * seqlen
    products = []
    for place, (out, into) in enumerate(linears_of(block)):
        products += [Product(1, tokens, into, out, "b"), Product(1, out, tokens, into, "a")]  # y = x W^T, dW = dy^T x
        if place >= 3:
            products.append(Product(1, tokens, out, into))  # dx = dy W
    # All tiles of attention as one product: a causal tile meets half of the keys and half of its own in the mean.
    tiles = max(1, seqlen // TILE_ROWS)
    count, keys = samples * block.kv_heads * tiles, seqlen // 2 + TILE_ROWS // 2
    rows = block.heads // block.kv_heads * (seqlen // tiles)
    scores = Product(count, rows, block.head_dim, keys, "b")     # q k^T; dp = dy v^T
    values = Product(count, rows, keys, block.head_dim)          # p v; dq = ds k
    backward = Product(count, keys, rows, block.head_dim, "a")   # dv = p^T dy; dk = ds^T q
    return tuple(products + 2 * [scores, values, backward])


def operands_of(product, device):
    """(multiply, first, second, result), the two of random numbers."""
    def operand(rows, columns, transposed):
        shape = (product.count, columns, rows) if transposed else (product.count, rows, columns)
        made = torch.randn(shape, dtype=torch.bfloat16, device=device)
        return made.transpose(1, 2) if transposed else made

    a = operand(product.m, product.k, product.transposed == "a")
    b = operand(product.k, product.n, product.transposed == "b")
    out = torch.empty(product.count, product.m, product.n, dtype=torch.bfloat16, device=device)
    return (torch.mm, a[0], b[0], out[0]) if product.count == 1 else (torch.bmm, a, b, out)


# --- processes that measure --------------------------------------------------------------------------------------

def run_rank(work, rank, barrier, results, arguments):
    try:
        results.put((rank, work(rank, barrier, *arguments)))
    except BaseException:
        barrier.abort()  # the others would wait for this one
        raise


def at_once(count, work, *arguments):
    """[work(rank, barrier, *arguments)] of `count` processes that run at the same time, by rank."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count, timeout=PATIENCE), context.SimpleQueue()
    processes = [context.Process(target=run_rank, args=(work, rank, barrier, results, arguments))
                 for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise MachineFailure(f"{work.__name__}: a measuring process has failed; its message is above")
    return [result for _, result in sorted(results.get() for _ in processes)]


def seconds_a_round(run, barrier, seconds):
    """The mean over `seconds`, at least one round. The first, which brings in pages and kernels, is left out."""
    settle = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    run()
    settle()
    barrier.wait()
    start, rounds = time.perf_counter(), 0
    while rounds == 0 or time.perf_counter() - start < seconds:
        run()
        settle()
        rounds += 1
    return (time.perf_counter() - start) / rounds


def multiply_rate(work, barrier):
    """Operations per second."""
    made = [operands_of(product, work.device) for product in work.products]

    def run():
        for multiply, a, b, out in made:
            multiply(a, b, out=out)

    return sum(product.flops for product in work.products) / seconds_a_round(run, barrier, work.seconds)


def copy_rate(device, size, barrier, seconds):
    """Bytes read and written per second."""
    source = torch.ones(size // 4, device=device)  # not zeros: the kernel keeps a single page for all of those
    target = torch.ones_like(source)
    return 2 * size / seconds_a_round(lambda: target.copy_(source), barrier, seconds)


def device_rank(_, barrier, work):
    torch.set_num_threads(work.threads)
    return multiply_rate(work, barrier), copy_rate(work.device, work.copy_bytes, barrier, work.seconds)


def measure_device(work, processes):
    """(operations per second, bytes copied per second) of the slowest process."""
    multiplied, copied = zip(*at_once(processes, device_rank, work))
    return min(multiplied), min(copied)


def swap_rate(rank, barrier, buffer, effort):
    """Bytes that a rank sends per second while both send, each into its half of the shared `buffer`."""
    numbers = effort.piece_bytes // 4
    halves = torch.frombuffer(buffer, dtype=torch.float32, count=2 * numbers).split(numbers)
    arena = torch.ones(effort.pieces * numbers).split(numbers)

    def run():
        for place, piece in enumerate(arena):
            halves[rank].copy_(piece)
            barrier.wait()
            # The all-reduce of a ring adds one half of what a rank receives, and keeps the other.
            (piece.add_ if place % 2 else piece.copy_)(halves[1 - rank])
            barrier.wait()

    run()
    start = time.perf_counter()
    for _ in range(4):
        run()
    return 4 * effort.pieces * effort.piece_bytes / (time.perf_counter() - start)


def round_trip_seconds(rank, end, trips):
    """The median."""
    measured = []
    for _ in range(trips):
        start = time.perf_counter()
        if rank == 0:
            end.send_bytes(b"there")
        end.recv_bytes()
        if rank == 1:
            end.send_bytes(b"and back")
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def link_rank(rank, barrier, name, ends, effort):
    torch.set_num_threads(1)  # as MPI moves and adds
    memory = shared_memory.SharedMemory(name)
    try:
        rate = swap_rate(rank, barrier, memory.buf, effort)
    finally:
        memory.close()
    return rate, round_trip_seconds(rank, ends[rank], effort.trips)


def measure_link(effort):
    """(bytes per second, seconds of a round trip) between two processes."""
    ends = multiprocessing.get_context("spawn").Pipe()
    memory = shared_memory.SharedMemory(create=True, size=2 * effort.piece_bytes)
    try:
        sent, trips = zip(*at_once(2, link_rank, memory.name, ends, effort))
    finally:
        memory.close()
        memory.unlink()
    return min(sent), trips[0]


def peer_rank(_, barrier, size, seconds):
    """Bytes per second from one GPU to the next."""
    source, target = (torch.ones(size // 4, device=f"cuda:{i}") for i in (0, 1))

    def run():
        target.copy_(source)
        torch.cuda.synchronize(1)

    return size / seconds_a_round(run, barrier, seconds)


def measure_peer(effort):
    return at_once(1, peer_rank, effort.copy_bytes, effort.seconds)[0]


# --- memory and files --------------------------------------------------------------------------------------------

def available_bytes():
    for line in pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise MachineFailure("/proc/meminfo has no MemAvailable; this script runs on Linux only")


def cache_bytes():
    """The largest cache of the first core; 0 if the system does not tell."""
    sizes = pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(size.read_text()[:-2]) << 10 for size in sizes), default=0)  # "2048K\n"


def copy_bytes_of(device, ranks, effort):
    if device == "cuda":
        return 4 * effort.copy_bytes
    # An eighth of the memory: a copy has two sides, and the products' operands came before it.
    return min(max(effort.copy_bytes, effort.caches * cache_bytes()), available_bytes() // (8 * ranks))


def write_file(file, effort):
    """(bytes written, seconds); all of file_bytes, unless the time is over first."""
    chunk = os.urandom(effort.chunk_bytes)  # a file system that compresses gains nothing
    start, written = time.perf_counter(), 0
    while written == 0 or (written < effort.file_bytes and time.perf_counter() - start < effort.seconds):
        written += file.write(chunk)
        os.fsync(file.fileno())
    return written, time.perf_counter() - start


def read_file(file, effort):
    """Seconds to read all of it, from the disk and not from memory, if the kernel can be told so."""
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    chunk = bytearray(effort.chunk_bytes)
    file.seek(0)
    start = time.perf_counter()
    while file.readinto(chunk):
        pass
    return time.perf_counter() - start


def measure_files(directory, effort):
    """(bytes, seconds of writing, seconds of reading)"""
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            return *write_file(file, effort), read_file(file, effort)
    except OSError as error:
        kind = MachineFailure if os.path.isdir(directory) else Failure
        raise kind(f"--directory: a file in {directory} cannot be written and read: {error.strerror}") from error
