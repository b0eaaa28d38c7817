#!/usr/bin/env python3
"""What the compiled CUDA kernels execute and move per weight, and what bounds them. Nothing is run on a GPU.

  tests/bench/kernel_counts.py [--build build] [--arch sm_90,sm_80] [--group-size 128] [--nvcc FILE] [--nvdisasm FILE]

Compiles the .cu files of the build's compile_commands.json with its options for each of --arch. Counts in the machine
code (SASS) if there is an nvdisasm, else in PTX, in which a division is one instruction. nvcc comes from --nvcc,
$CUDA_HOME, PATH or /usr/local/cuda; nvdisasm from --nvdisasm, nvcc's folder or PATH. If the toolkit has no nvdisasm,
`pip install nvidia-cuda-nvdisasm` in an environment of yours installs it as nvidia/cu13/bin/nvdisasm.

Instructions are those that a warp's lanes execute for a group, by machine_code.py's rules, over the group's weights.
Bytes are those of the loads and stores in that code; what a whole group shares counts once per group.

A kernel is bound by what takes longest on the GPU that the code is for, if everything else is hidden behind it:
  memory        3.35 TB/s, H100 SXM; 2.04 TB/s, A100 SXM 80 GB (gpu_peaks.py has the sources of all figures)
  fp32          additions and multiplications at 67 and 19.5 TFLOP/s: the ridge is at 20 and 9.6 operations per byte
  issue         instructions of any kind at 128 lanes per clock and multiprocessor: 10 and 9.6 per byte
  integers      integers, comparisons and selections, at 64 lanes
  conversions   conversions other than to bf16, and reciprocals, at 16 lanes
The rates per clock are those of the CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions". "At
most" is the share of the memory's bandwidth that the bound leaves. "Hides" is the latency of memory, in clocks, that
so many warps hide at full bandwidth while each waits as often per group as "waits" says. If memory takes longer to
answer, waiting bounds the kernel (400 clocks on an idle H100: PMC10448217, table 3; more under load).

Stdout has two tables per architecture, like those in README.md, and in the last line a JSON object: nvcc, code,
group_size, kernels [{kernel, arch, registers, spill_bytes, shared_bytes, warps, group_size, a_weight, bound, code (all
of the kernel's instructions by kind), waits, latency_hidden}].
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import machine_code
from gpu_peaks import A100, H100

ROOT = pathlib.Path(__file__).resolve().parents[2]
GPUS = {"sm_80": ("A100 SXM 80 GB", A100)}
OTHERWISE = ("H100 SXM", H100)
LANES = 128             # that a multiprocessor issues to per clock: four warps
HALF_RATE, SLOW = 2, 8  # times as long: 64 lanes, 16 lanes
HALVES = ("integer", "fp compare")
# What the program never launches, because a weight is tuned in its own type (src/tune/tuning_state.cc); the search of
# scales, which runs once per block and writes nothing in its loop; and kernels with one weight per load, which only
# groups take that are not whole packs of four.
KINDS_OF_WEIGHTS = ("int", "mx_fp", "nv_fp")  # WeightType of src/config/choices.h, in its order
UNUSED = re.compile(r"search_kernel|<\w+, 1, |"
                    r"fake_quantize_kernel<\w+, \d, (?:float, __nv_bfloat16|__nv_bfloat16, float)>")


class CannotCount(Exception):
    """One line for the user."""


# --- compiling ---------------------------------------------------------------------------------------------------

def find_tool(name, given, *folders):
    """The program `name`: `given`, or in one of the folders, or in PATH; None."""
    if given:
        if not shutil.which(given):
            raise CannotCount(f"{given} is not a program; give --{name} the file of {name}")
        return given
    return next(filter(None, (shutil.which(name, path=str(folder)) for folder in folders if folder)), None)


def find_nvcc(given):
    home = os.environ.get("CUDA_HOME")
    nvcc = find_tool("nvcc", given, home and pathlib.Path(home) / "bin", os.environ.get("PATH"), "/usr/local/cuda/bin")
    if nvcc is None:
        raise CannotCount("no nvcc in CUDA_HOME, PATH or /usr/local/cuda; install a CUDA toolkit or give --nvcc")
    return nvcc


def options_of(command):
    """A compile command's options that make the code what it is: without outputs and architectures."""
    words = shlex.split(command)[1:]
    outputs = {i for i, word in enumerate(words) if word in ("-o", "-MF", "-MT")}
    return [word for i, word in enumerate(words) if i not in outputs and i - 1 not in outputs
            and word not in ("-c", "-MD") and not word.startswith(("--generate-code", "-gencode", "-arch"))]


def sources_of(build):
    """[(directory, options and file)] of the project's .cu files."""
    database = build / "compile_commands.json"
    if not database.is_file():
        raise CannotCount(f"{database} does not exist; configure the build (launch/setup.sh) or give --build")
    entries = [(one["directory"], options_of(one["command"])) for one in json.loads(database.read_text())
               if one["file"].endswith(".cu")]
    if not entries:
        raise CannotCount(f"{database} has no .cu file: that build has no CUDA; install a toolkit and build again")
    return entries


def run(command, directory=None):
    """(stdout, stderr)"""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise CannotCount(f"{command[0]} ended with {done.returncode}: {why}")
    return done.stdout, done.stderr


def compile_file(nvcc, nvdisasm, directory, options, arch):
    """(text of the code, what ptxas says of its resources)"""
    with tempfile.TemporaryDirectory(prefix="roundtable-counts-") as folder:
        cubin, ptx = pathlib.Path(folder) / "code.cubin", pathlib.Path(folder) / "code.ptx"
        _, said = run([nvcc, *options, f"-arch={arch}", "-cubin", "-Xptxas", "-v", "-o", str(cubin)], directory)
        if nvdisasm:
            return run([nvdisasm, "-c", str(cubin)])[0], said
        run([nvcc, *options, f"-arch={arch.replace('sm', 'compute')}", "-ptx", "-o", str(ptx)], directory)
        return ptx.read_text(), said


def resources_of(said):
    """{mangled name: {registers, spill_bytes, shared_bytes}} of what `ptxas -v` says."""
    found, name = {}, None
    for line in said.splitlines():
        if entry := re.search(r"Compiling entry function '([^']+)'", line):
            name = entry[1]
            found[name] = {"registers": 0, "spill_bytes": 0, "shared_bytes": 0}
        elif name and (spills := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            found[name]["spill_bytes"] = int(spills[1]) + int(spills[2])
        elif name and (used := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] |= {"registers": int(used[1]), "shared_bytes": int(shared[1]) if shared else 0}
    return found


def demangled(names):
    """{mangled name: the function with its template arguments}"""
    text = "\n".join(names)
    if shutil.which("c++filt"):
        text = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout
    return {name: plain_name(full) for name, full in zip(names, text.splitlines())}


def plain_name(full):
    """'void a::(anonymous namespace)::f<true, b>(c)' without what goes before and after f<true, b>."""
    named = re.sub(r"\(roundtable::WeightType\)(\d)", lambda kind: KINDS_OF_WEIGHTS[int(kind[1])], full)
    found = re.search(r"(\w+)(<[^()]*>)?\(", named.replace("(anonymous namespace)", ""))
    return "".join(part or "" for part in found.groups()) if found else full


# --- counting ----------------------------------------------------------------------------------------------------

def warps_of(registers):
    """Warps of a multiprocessor that its 64 Ki registers allow, in blocks of 8 (fake_quant_cuda.cu): at most 64."""
    of_warp = -(-max(registers, 1) * machine_code.WARP // 256) * 256  # handed out by 256
    return min(64, 65536 // of_warp // 8 * 8)


def a_weight(done, group_size, wide):
    """What is executed for a group, per weight: by all lanes of its team, also those without a weight."""
    counts, lanes = machine_code.counts_of(done.code), team_of(group_size) / group_size
    return {"instructions": {kind: round(n * lanes, 3) for kind, n in counts["instructions"].items()},
            "all_instructions": len(done.code) * lanes, "flops": counts["flops"] * lanes,
            "slow": counts["slow"] * lanes, "bytes_read": done.weight_read / wide + done.group_read / group_size,
            "bytes_written": done.weight_written / wide + done.group_written / group_size}


def bound_of(weight, peak):
    """What takes longest on a GPU, in units of the time for the bytes."""
    moved = weight["bytes_read"] + weight["bytes_written"]
    slots = moved * peak.fp32 / 2 * LANES / peak.fp32_lanes / peak.memory  # issued in the time for the bytes
    halves = sum(weight["instructions"].get(kind, 0) for kind in HALVES)
    times = {"memory": 1.0, "fp32": weight["flops"] / moved / (peak.fp32 / peak.memory),
             "issue": weight["all_instructions"] / slots, "integers": HALF_RATE * halves / slots,
             "conversions": SLOW * weight["slow"] / slots}
    longest = max(times, key=times.get)
    return {"by": longest, "flops_a_byte": weight["flops"] / moved,
            "instructions_a_byte": weight["all_instructions"] / moved, "times": times,
            "most_of_bandwidth": 1 / times[longest]}


def latency_hidden(weight, group_size, warps, waits, peak):
    """Clocks that a wait may take before `warps` warps, each with its groups under way, leave the memory idle."""
    bytes_a_clock = peak.memory / (peak.fp32 / 2 / peak.fp32_lanes)  # of a multiprocessor
    weights = group_size * machine_code.WARP // team_of(group_size)
    return warps * (weight["bytes_read"] + weight["bytes_written"]) * weights / waits / bytes_a_clock


def team_of(group_size):
    """Lanes of a group: teams_for() of fake_quant_cuda.cu."""
    team = machine_code.WARP
    while team > 4 and 4 * team > group_size:
        team //= 2
    return team


def wide_of(kernel):
    """Weights that a lane loads and stores at once: the template argument kWide of fake_quant_cuda.cu."""
    number = re.search(r"<\w+, (\d+)", kernel)
    return int(number[1]) if number else 1


def group_sizes(kernel, of_integers):
    """Those of floats of 4 bits are given (src/quant/scheme.h)."""
    return (32,) if "<mx_fp" in kernel else (16,) if "<nv_fp" in kernel else (of_integers,)


def count_kernel(name, code, group_size, resources, arch):
    wide = wide_of(name)
    try:
        done = machine_code.executed(code, -(-group_size // (team_of(group_size) * wide)))
    except ValueError as error:
        raise CannotCount(f"{name}: {error}: machine_code.py cannot count a kernel of this kind") from error
    peak, warps = GPUS.get(arch, OTHERWISE)[1], warps_of(resources["registers"])
    weight = a_weight(done, group_size, wide)
    row = {"kernel": name, "arch": arch} | resources | {
        "warps": warps, "group_size": group_size, "a_weight": weight, "bound": bound_of(weight, peak),
        "code": machine_code.counts_of(code)["instructions"], "waits": None, "latency_hidden": None}
    if code[0].opcode.isupper():  # the order of PTX is not that of execution
        row["waits"] = machine_code.waits_of(done.code)
        row["latency_hidden"] = latency_hidden(weight, group_size, warps, row["waits"], peak)
    return row


def count_file(nvcc, nvdisasm, entry, arch, group_size):
    """A row for each kernel that the program launches, and each of its sizes of group."""
    text, said = compile_file(nvcc, nvdisasm, *entry, arch)
    codes = machine_code.kernels_in(text, "sass" if nvdisasm else "ptx")
    resources, names = resources_of(said), demangled(list(codes))
    used = sorted((name for name in codes if name in resources and not UNUSED.search(names[name])), key=names.get)
    return [count_kernel(names[name], codes[name], size, resources[name], arch)
            for name in used for size in group_sizes(names[name], group_size)]


# --- text --------------------------------------------------------------------------------------------------------

def short_name(kernel):
    """fake_quantize_kernel<int, 4, float, float> as 'fake_quantize, int, fp32'."""
    name, _, arguments = kernel.rstrip(">").partition("<")
    words = {"float": "fp32", "__nv_bfloat16": "bf16"}
    kinds = dict.fromkeys(words.get(one, one) for one in arguments.split(", ") if one and not one.isdigit())
    return ", ".join([name.removesuffix("_kernel"), *kinds])


def bound_row(row):
    weight, bound = row["a_weight"], row["bound"]
    waits = ["-", "-"] if row["waits"] is None else [f"{row['waits']:.0f}", f"{row['latency_hidden']:.0f}"]
    return [short_name(row["kernel"]), str(row["group_size"]), str(row["registers"]), str(row["warps"]),
            str(row["spill_bytes"]), str(row["shared_bytes"]), f"{weight['bytes_read']:.2f}",
            f"{weight['bytes_written']:.2f}", f"{bound['flops_a_byte']:.1f}", f"{bound['instructions_a_byte']:.1f}",
            bound["by"], f"{100 * bound['most_of_bandwidth']:.0f} %", *waits]


def kinds_row(row):
    weight = row["a_weight"]
    kinds = [f"{weight['instructions'].get(kind, 0):.1f}" for kind in machine_code.KINDS]
    return [short_name(row["kernel"]), str(row["group_size"]), f"{weight['all_instructions']:.1f}", *kinds]


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text_of(arch, rows):
    bounds = ["kernel", "group", "registers", "warps", "spilled, B", "shared, B", "read, B", "written, B", "FLOP/B",
              "instructions/B", "bound by", "at most", "waits", "hides, clocks"]
    kinds = ["instructions per weight", "group", "all", *machine_code.KINDS]
    return "\n\n".join([f"{arch}, on {GPUS.get(arch, OTHERWISE)[0]}", table(bounds, map(bound_row, rows)),
                        table(kinds, map(kinds_row, rows))])


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", help="with a compile_commands.json")
    parser.add_argument("--arch", default="sm_90,sm_80")
    parser.add_argument("--group-size", type=int, default=128, help="of integers; mx_fp has 32, nv_fp 16")
    parser.add_argument("--nvcc")
    parser.add_argument("--nvdisasm")
    a = parser.parse_args()
    if not re.fullmatch(r"sm_\d+[af]?(,sm_\d+[af]?)*", a.arch):
        parser.error(f"--arch takes sm_90,sm_80, not '{a.arch}'")
    if a.group_size < 1:
        parser.error("--group-size takes a whole number from 1")
    return a


def main():
    a = read_arguments()
    nvcc = find_nvcc(a.nvcc)
    nvdisasm = find_tool("nvdisasm", a.nvdisasm, pathlib.Path(nvcc).resolve().parent, os.environ.get("PATH"))
    version = re.search(r"release [^,]+, (\S+)", run([nvcc, "--version"])[0])
    version = f"nvcc {version[1]}" if version else nvcc
    code = "SASS" if nvdisasm else "PTX"
    print(f"Nothing was run on a GPU: counts of {code}, {version}, per weight")
    entries, kernels = sources_of(a.build), []
    for arch in a.arch.split(","):
        rows = [row for entry in entries for row in count_file(nvcc, nvdisasm, entry, arch, a.group_size)]
        print(f"\n{text_of(arch, rows)}\n")
        kernels += rows
    print(json.dumps({"nvcc": version, "code": code, "group_size": a.group_size, "kernels": kernels}))


if __name__ == "__main__":
    try:
        main()
    except CannotCount as error:
        sys.exit(f"error: {error}")
