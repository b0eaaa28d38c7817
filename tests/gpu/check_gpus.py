#!/usr/bin/env python3
"""Whether the GPUs of this node are fit for Roundtable, and how fast they are with it: one table, one JSON file.

  tests/gpu/check_gpus.py --build BUILD --out FILE [--ranks N] [--limit 720] [--tiny]

launch/check_gpus.sh builds and starts it. ROUNDTABLE_BINARY and ROUNDTABLE_MPIRUN name the program and the launcher.
BUILD holds the tests and benches. With --tiny, the large blocks are small ones: for devices that are not fast.

Each check stands for itself: one that fails does not stop the others. A check that would begin after --limit seconds is
left out. The JSON file is {"devices", "passed", "seconds", "checks": [{"name", "state": passed | failed | left out,
"text", "seconds", and the check's own figures}]}. Exit codes: 0 no check failed, 3 one did, 2 there is no GPU.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import checks
from program_runs import NoGpu, RunFailed, Runs

FAILED = 3


def left_out(reason):
    return {"state": "left out", "text": reason}


def run_check(check, node):
    """What the check found, with its state and its seconds."""
    begin = time.monotonic()
    if begin - node.started > node.limit:
        found = left_out(f"the {node.limit} s of --limit were over")
    else:
        try:
            found = {"state": "passed"} | check(node)
        except checks.LeftOut as reason:
            found = left_out(str(reason))
        except (checks.Failed, RunFailed) as fault:
            found = {"state": "failed", "text": str(fault)}
        except subprocess.TimeoutExpired as late:
            found = {"state": "failed", "text": f"had not ended after {late.timeout:.0f} s"}
    return {"name": check.__name__, **found, "seconds": round(time.monotonic() - begin, 1)}


def table(rows):
    width = max(len(row["name"]) for row in rows)
    return "\n".join(f"{row['name'].replace('_', ' '):{width}}  {row['state']:8}  {row['seconds']:5.1f} s  {row['text']}" for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--limit", type=int, default=720)
    parser.add_argument("--tiny", action="store_true")
    a = parser.parse_args()
    logs = a.out.parent / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="roundtable-gpus-") as folder:
        try:
            node = Runs(pathlib.Path(folder), logs, a.build, a.ranks, a.limit, a.tiny)
        except NoGpu as reason:
            print(f"error: {reason}", file=sys.stderr)
            return 2
        print(f"{node.devices}", flush=True)
        rows = []
        for check in checks.ALL:
            rows.append(run_check(check, node))
            print(table(rows[-1:]), file=sys.stderr, flush=True)
    passed = all(row["state"] != "failed" for row in rows)
    report = {"devices": node.devices, "passed": passed, "seconds": round(time.monotonic() - node.started, 1), "checks": rows}
    a.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows))
    print(f"{'no check failed' if passed else 'A CHECK FAILED'}; {a.out}, the output of each check in {logs}")
    return 0 if passed else FAILED


if __name__ == "__main__":
    sys.exit(main())
