"""launch/count_gpu_tests.py on a report that ctest itself writes: of tests that pass, fail and skip."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "count_gpu_tests.py"


class CountTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def report(self, tests):
        """Runs `tests`, each a (name, command, properties)."""
        lines = []
        for name, command, properties in tests:
            lines.append(f'add_test({name} {command})\nset_tests_properties({name} PROPERTIES {properties})\n')
        (self.folder / "CTestTestfile.cmake").write_text("".join(lines))
        subprocess.run(["ctest", "--test-dir", self.folder, "--output-junit", "tests.xml"], capture_output=True)

    def line(self):
        done = subprocess.run([sys.executable, SCRIPT, self.folder], capture_output=True, text=True)
        return done.stdout.strip() or done.stderr.strip()

    def test_counts_what_ran_and_what_was_skipped(self):
        skips = '"LABELS" "gpu" "SKIP_REGULAR_EXPRESSION" "no GPU"'
        self.report([("a", '"true"', '"LABELS" "gpu"'), ("b", '"false"', '"LABELS" "gpu;mpi"'),
                            ("c", '"echo" "no GPU here"', skips), ("d", '"echo" "no GPU here"', skips),
                            ("e", '"true"', '"LABELS" "unit"')])
        self.assertEqual(self.line(), "GPU tests: 2 ran, 2 were skipped: this machine has no GPU that they can use")

    def test_where_all_ran(self):
        self.report([("a", '"true"', '"LABELS" "gpu"')])
        self.assertEqual(self.line(), "GPU tests: 1 ran, 0 were skipped")

    def test_a_report_that_is_not_there(self):
        self.assertIn("error: the report of the tests cannot be read", self.line())


if __name__ == "__main__":
    unittest.main()
