"""tests/gpu/check_gpus.py, which launch/check_gpus.sh starts, on the stand-in's devices: what it finds where all is well, where a
device fails, and where there is none. Its tests of the build are one that passes; figures are those of a script."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

import standin

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "gpu" / "check_gpus.py"
KERNELS = """#!/bin/sh
echo '{"kernels": [{"kernel": "fake_quantize", "share_of_copy": 0.75, "copy_gb_per_s": 4000.0}]}'
"""


class CheckGpusTest(standin.Case):
    def setUp(self):
        super().setUp()
        self.build = self.folder / self.id()
        bench = self.build / "tests" / "bench" / "kernels_bench"
        bench.parent.mkdir(parents=True)
        bench.write_text(KERNELS)
        bench.chmod(0o755)
        (self.build / "CTestTestfile.cmake").write_text('add_test(one "true")\nset_tests_properties(one PROPERTIES LABELS gpu)\n')

    def check(self, *options, **environment):
        """(exit code, {name: row} or None, stderr)"""
        out = self.build / "out" / "check.json"
        done = subprocess.run([sys.executable, SCRIPT, "--build", self.build, "--out", out, "--tiny", *options], text=True,
                              capture_output=True, env=os.environ | {"ROUNDTABLE_BINARY": standin.ON_STANDIN,
                                                                     "STANDIN_FOLDER": str(self.folder)} | environment)
        rows = {row["name"]: row for row in json.loads(out.read_text())["checks"]} if out.exists() else None
        return done.returncode, rows, done.stdout + done.stderr

    def test_devices_that_are_well(self):
        code, rows, said = self.check("--ranks", "2")
        self.assertEqual(code, 0, said)
        self.assertIn("2 x Stand-in H100, NCCL 2.", said)
        states = {name: row["state"] for name, row in rows.items()}
        for name in ("gpu_tests", "gpu_against_cpu", "same_bytes_twice", "same_bytes_after_kills", "ranks_of_a_group", "kernels",
                     "large_steps"):
            self.assertEqual(states.pop(name), "passed", said)
        self.assertEqual(set(states), {"compute_sanitizer", "nccl_bandwidth"})
        self.assertIn("4000 GB/s; fake_quantize is the slowest, at 75 %", rows["kernels"]["text"])
        self.assertEqual([step["micro_batch"] for step in rows["large_steps"]["steps"]], [8, 1])
        self.assertGreater(rows["large_steps"]["steps"][0]["peak_device_bytes"], 1 << 20)

    def test_a_device_that_breaks(self):
        code, rows, said = self.check("--ranks", "1", STANDIN_BROKEN="0:500")
        self.assertEqual(code, 3, said)
        self.assertIn("illegal memory access", rows["same_bytes_twice"]["text"])
        self.assertIn("A CHECK FAILED", said)

    def test_no_device(self):
        code, rows, said = self.check("--ranks", "1", STANDIN_DEVICES="0")
        self.assertEqual((code, rows), (2, None))
        self.assertIn("CUDA devices are asked for, and there is none here", said)

    def test_a_limit_leaves_checks_out(self):
        code, rows, said = self.check("--ranks", "1", "--limit", "0")
        self.assertEqual(code, 0, said)
        self.assertEqual({row["state"] for row in rows.values()}, {"left out"})


if __name__ == "__main__":
    unittest.main()
