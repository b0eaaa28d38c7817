"""The checks of check_gpus.py. Each takes the node, and returns its text and figures; Failed and LeftOut say why not."""

import json
import math
import shutil
import statistics
import xml.etree.ElementTree as tree

from program_runs import ON_CPU, ON_GPU  # first: it says where the next ones are

import gpu_peaks
import large_blocks
import program

FAMILIES = ("llama", "gemma2", "gpt2", "qwen3_moe")
FP32 = {"tuning.amp": False}
KILLS = 3          # of one run, after 1, 2 and 3 blocks
SANITIZERS = ("memcheck", "racecheck", "initcheck")


class Failed(Exception):
    """What is wrong, in one line."""


class LeftOut(Exception):
    """Why the check does not apply here, in one line."""


def apart(a, b):
    return abs(a - b) / max(abs(a), abs(b), 1e-30)


def gpu_tests(node):
    """The tests of the kernels and of NCCL, to the bit or within their own bounds."""
    if not node.build:
        raise LeftOut("there is no build folder")
    report = node.logs / "tests.xml"
    command = ["ctest", "--test-dir", node.build, "-L", "^gpu$", "--no-tests=error", "--output-on-failure", "--output-junit", report]
    node.log("gpu_tests", command, 180, good=range(256))  # which tests failed is in the report
    states = [test.get("status") for test in tree.parse(report).getroot().iter("testcase")]
    failed, ran = states.count("fail"), states.count("run")
    if failed or not ran:
        raise Failed(f"{failed} of {len(states)} tests failed, {ran} passed; see gpu_tests.log")
    return {"text": f"{ran} passed, {len(states) - ran} skipped (NCCL on more ranks needs more GPUs)", "tests": len(states)}


def compute_sanitizer(node):
    """The kernels under NVIDIA's tools."""
    if shutil.which("compute-sanitizer") is None:
        raise LeftOut("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    test = node.build / "tests" / "quant" / "fake_quant_cuda_test"
    for tool in SANITIZERS:
        node.log(f"sanitizer_{tool}", ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", test, "--gtest_filter=*Floats*"], 120)
    return {"text": f"{', '.join(SANITIZERS)}: nothing found"}


def gpu_against_cpu(node):
    """Whole runs of tiny models in fp32. Signs of gradients that are zero within rounding differ, and with them some
    integers; the first losses, which no step has touched, and the perplexities do not."""
    rows = []
    families = FAMILIES[::3] if node.tiny else FAMILIES
    for family in families:
        runs = {where: node.quantize(f"{family}_{where}", node.model(family) | FP32 | backend)
                for where, backend in (("cpu", ON_CPU), ("gpu", ON_GPU))}
        (summary, blocks), (other, other_blocks) = runs["cpu"], runs["gpu"]
        loss = apart(blocks[0]["first_loss"], other_blocks[0]["first_loss"])
        before = apart(summary["perplexity"]["float"], other["perplexity"]["float"])
        after = apart(summary["perplexity"]["quantized"], other["perplexity"]["quantized"])
        rows.append({"family": family, "first_loss": loss, "perplexity_float": before, "perplexity_quantized": after})
        if loss > 1e-4 or before > 1e-5 or after > 0.01:
            raise Failed(f"{family}: GPU and CPU are apart by {loss:.1e} in the first loss, {before:.1e} in the float model's "
                         f"perplexity, {after:.1e} in the quantized one's")
    worst = max(row["first_loss"] for row in rows)
    return {"text": f"{', '.join(families)}: first losses within {worst:.1e}", "models": rows}


def same_bytes_twice(node):
    """The default settings: bf16 and deterministic operators."""
    for name in ("twice_a", "twice_b"):
        node.quantize(name, node.model("llama") | ON_GPU)
    if node.weights("twice_a") != node.weights("twice_b"):
        raise Failed("two equal runs wrote different bytes")
    return {"text": "two equal runs wrote equal bytes"}


def same_bytes_after_kills(node):
    """A run that is killed after some blocks, each time it is started."""
    settings = node.model("llama") | ON_GPU | {"tuning.iters": 40}
    node.quantize("unbroken", settings)
    config = node.config("killed", settings)
    events = node.folder / "out" / "killed.run" / "events.jsonl"
    kills = 0
    for blocks in range(1, KILLS + 1):
        job = program.start(["quantize", config], log=node.logs / f"killed_{blocks}.log")
        program.wait_for(lambda: job.poll() is not None or
                         (events.exists() and events.read_text().count('"event":"block"') >= blocks), None, 120)
        if job.poll() is None:
            program.kill(job)
            kills += 1
    node.quantize("killed", settings)
    if node.weights("unbroken") != node.weights("killed"):
        raise Failed(f"a run that was killed {kills} times wrote other bytes than one that was not")
    return {"text": f"{kills} kills, the bytes of an unbroken run", "kills": kills}


def ranks_of_a_group(node):
    """Groups of several GPUs: NCCL's sums, and experts divided over ranks, in the bytes that do not depend on ranks."""
    if node.ranks < 2:
        raise LeftOut("it needs two GPUs")
    ranks = 2 if node.ranks < 4 else 4
    for family in ("llama", "qwen3_moe"):
        settings = node.model(family) | ON_GPU | {"run.reproducible": True, "parallel.stages": 1}
        node.quantize(f"{family}_1_rank", settings)
        node.quantize(f"{family}_ranks", settings | {"parallel.shards": ranks, "parallel.experts": "divided"}
                      if family == "qwen3_moe" else settings | {"parallel.shards": ranks}, ranks)
        one, many = node.weights(f"{family}_1_rank"), node.weights(f"{family}_ranks")
        if tensors_of(one) != tensors_of(many):
            raise Failed(f"{family}: {ranks} ranks with run.reproducible wrote other tensors than one rank")
    return {"text": f"1 and {ranks} GPUs wrote equal tensors, with experts divided too", "ranks": ranks}


def tensors_of(files):
    """{name: bytes} over all files: experts that are divided over ranks lie in files of their own."""
    tensors = {}
    for data in files.values():
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            tensors[name] = data[8 + length + begin:8 + length + end]
    return tensors


def kernels(node):
    """The kernels of fake quantization, in bytes per second, over those of a copy in the same run."""
    shapes = "512x512" if node.tiny else "8192x8192,28672x8192"
    rows = []
    for data_type in ("int", "mx_fp", "nv_fp"):
        said = node.log(f"kernels_{data_type}", [node.build / "tests/bench/kernels_bench", "--device", "cuda", "--shapes", shapes,
                                                 "--kernels", "fake_quantize,sign_step", "--data-type", data_type, "--json"], 120)
        rows += json.loads(said.strip().splitlines()[-1])["kernels"]
    least = min(rows, key=lambda row: row["share_of_copy"])
    copy = statistics.median(row["copy_gb_per_s"] for row in rows)
    return {"text": f"a copy {copy:.0f} GB/s; {least['kernel']} is the slowest, at {100 * least['share_of_copy']:.0f} % of it", "kernels": rows}


def large_steps(node):
    """Two random blocks of Llama-3.1-70B's shape: seconds per step, share of the GPU's peak, memory of the device."""
    shape = large_blocks.SMALL if node.tiny else large_blocks.LLAMA_70B
    settings = large_blocks.make(node.folder / "large", shape) | ON_GPU
    peak = gpu_peaks.peak_of(device_name(node.devices)).matrix
    rows, texts = [], []
    for micro_batch in (8, 1):
        name = f"large_micro_batch_{micro_batch}"
        summary, blocks = node.quantize(name, settings | {"tuning.micro_batch": micro_batch}, seconds=200)
        last = blocks[-1]
        step = last["seconds"] / len(last["losses"])
        if not all(math.isfinite(loss) for loss in last["losses"]):
            raise Failed(f"micro_batch {micro_batch}: a loss is not finite")
        if min(last["losses"]) >= last["losses"][0]:
            raise Failed(f"micro_batch {micro_batch}: {len(last['losses'])} steps did not lower the loss")
        share = gpu_peaks.share(large_blocks.operations(shape) / step, peak)
        memory = max(summary["peak_device_bytes"]["tune"])
        rows.append({"micro_batch": micro_batch, "seconds_a_step": step, "share_of_peak": share, "peak_device_bytes": memory})
        texts.append(f"micro_batch {micro_batch}: {1e3 * step:.0f} ms per step, {gpu_peaks.percent(share)} of the peak, {memory / 1e9:.1f} GB")
        shutil.rmtree(node.output(name))
    return {"text": "; ".join(texts), "steps": rows}


def device_name(devices):
    """"8 x NVIDIA H100 80GB HBM3, NCCL 2.29.7" -> "NVIDIA H100 80GB HBM3"."""
    return devices.split(" x ", 1)[-1].split(", ")[0]


def nccl_bandwidth(node):
    """The all-reduce of a block's gradients over all GPUs of the node."""
    if node.ranks < 2:
        raise LeftOut("it needs two GPUs")
    if node.tiny:
        raise LeftOut("--tiny has no figures")
    command = [*program.MPIRUN, "-n", node.ranks, node.build / "tests/bench/nccl_bench", "--json"]
    rows = json.loads(node.log("nccl_bandwidth", command, 120).strip().splitlines()[-1])["reductions"]
    text = ", ".join(f"{row['what']} {row['bus_gb_per_s']:.0f} GB/s" for row in rows)
    return {"text": f"{text} on the bus of {node.ranks} GPUs", "reductions": rows}


ALL = (gpu_tests, compute_sanitizer, gpu_against_cpu, same_bytes_twice, same_bytes_after_kills, ranks_of_a_group, kernels, large_steps,
       nccl_bandwidth)
