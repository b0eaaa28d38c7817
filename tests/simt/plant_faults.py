#!/usr/bin/env python3
"""Plants faults in the CUDA source, one at a time, and shows that the tests of this folder find each.

  tests/simt/plant_faults.py [--build build] [--only WORD]

Takes about 15 s per fault. Exit code 1 if a fault is not found, or is found by something else than expected. The source
in src/ is not touched: the build folder holds the planted one. The faults are those of README.md.
"""

import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/quant/fake_quant_cuda.cu"

TEAM_SUM = """  for (std::uint32_t step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, step);
    if (step < team) x += other;
  }
  return x;
"""
# The same sum by way of shared memory, with no barrier between writing and reading.
SUM_WITHOUT_BARRIER = """  __shared__ float terms[kWarp * kWarpsABlock];
  terms[threadIdx.x] = x;
  const std::uint32_t first = threadIdx.x & ~(team - 1);
  float sum = 0;
  for (std::uint32_t i = 0; i < team; ++i) sum += terms[first + i];
  return sum;
"""
# A sum that begins with what shared memory happens to hold.
SUM_WITHOUT_START = """  __shared__ float before;
  if (x == INFINITY) before = 0;
  x += before;
""" + TEAM_SUM

# What is planted: its name, the text of the source, the text in its place, and what the tests must say.
FAULTS = [
    ("a shuffle after an early return",
     "  const Group group = group_of_team(a, teams);\n  const GroupGrid grid = grid_of(a, scheme, group.index);\n"
     "  const W* weight = static_cast<const W*>(a.weight) + group.offset;\n  float* v",
     "  const Group group = group_of_team(a, teams);\n  if (group.size == 0) return;\n"
     "  const GroupGrid grid = grid_of(a, scheme, group.index);\n"
     "  const W* weight = static_cast<const W*>(a.weight) + group.offset;\n  float* v",
     r"a lane that the mask names has returned"),
    ("one group too many", "found < a.rows * a.groups", "found <= a.rows * a.groups", r"heap-buffer-overflow"),
    ("the last group as wide as the others", "left < width ? left : width", "width",
     r"heap-buffer-overflow|of fake_quantize"),
    ("a sum over the whole warp", "if (step < team) x += other;", "x += other;", r"of group"),
    ("a mask without half of the warp", "__shfl_xor_sync(0xffffffffu", "__shfl_xor_sync(0xffffu",
     r"does not name the lane itself"),
    ("lanes counted in the warp, not in the team", "threadIdx.x & (team - 1), team", "threadIdx.x & (kWarp - 1), team",
     r"of fake_quantize"),
    ("a vote left out: teams leave the search alone", "if (!__any_sync(0xffffffffu, tried)) break;",
     "if (!tried) break;", r"waits elsewhere|has returned"),
    ("a barrier in a branch", "  if (group.lane != 0 || group.size == 0) return;\n  const RangeGradient",
     "  if (group.lane == 0) __syncthreads();\n  if (group.lane != 0 || group.size == 0) return;\n"
     "  const RangeGradient",
     r"__syncthreads\(\) where a thread of the block has returned"),
    ("a barrier left out", TEAM_SUM, SUM_WITHOUT_BARRIER, r"of group"),
    ("a shared variable without a first value", TEAM_SUM, SUM_WITHOUT_START, r"of group"),
    ("`wanted` ignored", "  if (wanted != nullptr && !*wanted) return;\n", "", r"writes what is not wanted"),
    ("the wrong scale stored", "out.scale[group.index] = grid.scale", "out.scale[group.index] = grid.inverse_scale",
     r"scales of quantize"),
    ("a zero point that is not stored", "  out.zero_point[group.index] = static_cast<std::uint8_t>(grid.zero_point);\n",
     "", r"zero points of quantize"),
    ("the bound of the factors ignored", "d.dmax_scale, size.minmax_lr,\n                                             "
     "size.minmax_bound", "d.dmax_scale, size.minmax_lr,\n                                             1.0f",
     r"factors of group"),
    ("packs in arrays that do not begin with one", "begins_a_pack(a.v) && ", "", r"misaligned address"),
    ("packs in rows that are not whole packs", "a.columns % kPack == 0 && scheme", "scheme",
     r"misaligned address|heap-buffer-overflow"),
    ("importance of the first group for all", "importance + group.offset % a.columns", "importance", r"other ranges"),
]


def planted(text, old, new):
    if text.count(old) != 1:
        sys.exit(f"error: {SOURCE} holds this text {text.count(old)} times, not once; change FAULTS:\n{old}")
    return text.replace(old, new)


def run(build, text):
    """What the tests say of a source, and their exit code."""
    folder = build / "tests/simt"
    (folder / "planted.cc").write_text("#include <cmath>\n" + text)
    made = subprocess.run(["cmake", "--build", str(build), "--target", "simt_planted"], capture_output=True, text=True)
    if made.returncode != 0:
        sys.exit(f"error: the planted source does not compile:\n{made.stdout[-4000:]}")
    done = subprocess.run([str(folder / "simt_planted"), "--gtest_brief=1", "--gtest_fail_fast"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout, done.returncode


def finding(said, expected):
    """The line that says it, or None."""
    return next((line.strip() for line in said.splitlines() if re.search(expected, line)), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--only", default="", help="faults whose names contain this")
    a = parser.parse_args()
    text, missed = SOURCE.read_text(), 0
    if not a.only:
        said, code = run(a.build, text)
        if code != 0:
            sys.exit(f"error: the tests fail with no fault planted:\n{said[-4000:]}")
    for name, old, new, expected in FAULTS:
        if a.only not in name:
            continue
        said, code = run(a.build, planted(text, old, new))
        line = finding(said, expected) if code != 0 else None
        missed += line is None
        print(f"{name}: {'found: ' + line[:160] if line else 'NOT FOUND'}", flush=True)
        if line is None:
            print(said[-2000:])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
