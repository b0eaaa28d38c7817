#!/usr/bin/env python3
"""Says how many tests with the label gpu ran, from what ctest --output-junit BUILD/tests.xml wrote: launch/count_gpu_tests.py BUILD"""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as tree


def gpu_tests(build):
    """Names of the tests with this label. ctest's report does not have labels."""
    listed = subprocess.run(["ctest", "--test-dir", build, "-L", "^gpu$", "--show-only=json-v1"], capture_output=True, text=True,
                            check=True)
    return {test["name"] for test in json.loads(listed.stdout)["tests"]}


def count(build):
    """(run, skipped) of these tests in the report."""
    names = gpu_tests(build)
    states = [test.get("status") for test in tree.parse(pathlib.Path(build) / "tests.xml").getroot().iter("testcase")
              if test.get("name") in names]
    run = sum(state in ("run", "fail") for state in states)
    return run, len(states) - run


def line(run, skipped):
    reason = ": this machine has no GPU that they can use" if skipped else ""
    return f"GPU tests: {run} ran, {skipped} were skipped{reason}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(line(*count(sys.argv[1])))
    except (OSError, tree.ParseError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: the report of the tests cannot be read: {error}")
