"""launch/report.py and its parts on records that the program's own code wrote (tests/rundir/records_tool.cc): whatever
they ask of a record or an event is a field of it, by the name in src/rundir/records.h."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
sys.path.insert(0, str(LAUNCH))

import report  # noqa: E402
import report_record  # noqa: E402
import report_tensorboard  # noqa: E402

TOOL = os.environ["ROUNDTABLE_RECORDS_TOOL"]
BY_NAME = {"seconds", "peak_bytes", "peak_device_bytes", "layer_errors"}  # objects whose keys are phases and layers, not fields


class Strict(dict):
    """An object of the files that refuses to be asked for a key that it does not have."""

    asked = set()

    def __getitem__(self, key):
        Strict.asked.add(key)
        if key not in self:
            raise AssertionError(f"'{key}' is no field of {sorted(self)}")
        return super().__getitem__(key)

    def get(self, key, default=None):
        return self[key]


def strict(value, key=None):
    if isinstance(value, list):
        return [strict(v) for v in value]
    if not isinstance(value, dict):
        return value
    inner = {k: strict(v, k) for k, v in value.items()}
    return inner if key in BY_NAME else Strict(inner)


class RecordsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name)
        subprocess.run([TOOL, self.path], check=True)
        (self.path / "config.yaml").write_text("model:\n  path: model\n")
        self.read = report_record.read_run(self.path)

    def test_every_record_and_event_is_read(self):
        self.assertEqual(self.read.warnings, [])
        self.assertEqual({event["event"] for event in self.read.events},
                         {"start", "phase_start", "phase", "stage_start", "stage_end", "block", "leave", "summary"})
        self.assertEqual(list(self.read.blocks), [7])
        self.assertIsNotNone(self.read.summary)

    def test_whatever_is_asked_for_is_a_field(self):
        self.read.events = strict(self.read.events)
        self.read.blocks = {block: strict(record) for block, record in self.read.blocks.items()}
        self.read.summary = strict(self.read.summary)
        Strict.asked.clear()
        self.assertIn("<h2>Loss by block</h2>", report.page(self.read))
        report_tensorboard.write(self.read, self.path / "tensorboard")
        for name in ("event", "time", "devices", "ranks", "groups", "shards", "blocks", "warnings", "phase", "seconds", "stage", "group",
                     "block", "first_loss", "best_loss", "best_iteration", "losses", "layer_errors", "nearest", "tuned",
                     "experts_without_tokens", "experts_with_few_tokens", "least", "experts",
                     "in_calibration", "tokens_added", "in_tuning", "bytes_per_step", "all_reduce",
                     "all_to_all", "perplexity", "float", "quantized", "tokens", "divergence",
                     "mean", "p99", "same_top", "auto_scheme", "mean_bits", "layers", "peak_bytes", "peak_device_bytes"):
            self.assertIn(name, Strict.asked, "or the test shows nothing")


if __name__ == "__main__":
    unittest.main()
