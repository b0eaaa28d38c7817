#!/usr/bin/env python3
"""Seconds per block of Roundtable and auto-round, one after the other on the same machine and the same samples.

  tests/bench/block_speed.py --model DIR --tokens FILE [--blocks 2] [--iters 200] [--batch-size 8] [--bits 4]
                             [--group-size 64] [--ranks 1,2] [--order ours,peer,ours]

The model is cut to its first blocks in a temporary folder, so that both tools do nothing else. Run it in the
environment of launch/setup.sh --peer, on an idle machine. OMP_NUM_THREADS sets the threads of auto-round; Roundtable
shares the cores among its ranks. auto-round's first block holds its compilation, so the blocks are printed one by one.
For both tools the script prints the seconds of the tuner, and the seconds of everything that a block takes
(both_tools.py). The last line of stdout is a JSON object: runs [{tool, ranks, tuning [seconds per block], whole
[seconds per block]}].
"""

import argparse
import json
import pathlib
import sys
import tempfile

from both_tools import Task, ToolFailed, cut_model, run_ours, run_peer, token_shape


def run_in_order(a, folder):
    runs = []
    task = Task(folder / "model", pathlib.Path(a.tokens), a.blocks, a.iters, a.batch_size, a.bits, a.group_size)
    cut_model(a.model, task.model, a.blocks)
    for tool in a.order.split(","):
        for ranks in map(int, a.ranks.split(",")) if tool == "ours" else [1]:
            out = folder / f"out-{len(runs)}"
            found = run_peer(task, out) if tool == "peer" else run_ours(task, out, ranks)
            seconds = {span: [round(s, 2) for s in found[span]] for span in ("tuning", "whole")}
            runs.append({"tool": "roundtable" if tool == "ours" else "auto-round", "ranks": ranks} | seconds)
            print(f"{runs[-1]['tool']:11} {ranks} rank(s): {seconds['tuning']} s per block in the tuner, "
                  f"{seconds['whole']} in all", flush=True)
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--ranks", default="1,2", help="Roundtable is run at each of these numbers of ranks")
    parser.add_argument("--order", default="ours,peer,ours", help="ours and peer, in the order they are run")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="roundtable-bench-") as name:
        try:
            runs = run_in_order(a, pathlib.Path(name))
        except ToolFailed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(json.dumps({"runs": runs, "iters": a.iters, "batch_size": a.batch_size, "tokens": token_shape(a.tokens)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
