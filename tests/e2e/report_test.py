"""launch/report.py on what a real run leaves, and the records that it needs in the event log."""

import pathlib
import subprocess
import sys
import unittest

import program
import tiny_model

REPORT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "report.py"
LAYERS = {f"self_attn.{n}_proj" for n in "qkvo"} | {f"mlp.{n}_proj" for n in ("gate", "up", "down")}


class ReportTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder)
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "quantization.bits": 3,
            "tuning.iters": 20,
            "parallel.stages": 2,
            "output.path": str(cls.folder / "out"),
            "run.eval_tokens": str(cls.folder / "tokens.safetensors"),
        })
        cls.result = program.run(["quantize", cls.config], 2)

    def test_events_say_how_the_run_was_laid_out(self):
        self.assertEqual(self.result.code, 0, self.result)
        start, = program.events(self.folder / "out.run", "start")
        self.assertEqual((start["ranks"], start["stages"], start["blocks"], start["finished_blocks"]), (2, 2, 4, 0))
        self.assertEqual(start["groups"] * start["shards"], 2)

    def test_every_layer_has_its_error_before_and_after(self):
        blocks = program.events(self.folder / "out.run", "block")
        self.assertEqual(len(blocks), 4)
        for block in blocks:
            self.assertEqual(set(block["layer_errors"]), LAYERS)
            for name, error in block["layer_errors"].items():
                for value in error.values():  # 3 bits in groups of 32 normal weights: about 0.03
                    self.assertTrue(0.003 < value < 0.3, (block["block"], name, error))
                self.assertNotEqual(error["nearest"], error["tuned"])

    def test_the_page_shows_the_run(self):
        done = subprocess.run([sys.executable, REPORT, self.folder / "out.run"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        page = (self.folder / "out.run" / "report.html").read_text()
        for section in ("Loss by block", "Loss curves", "Error of each layer, tuned", "Time line", "Time by phase",
                        "Memory by rank", "Config"):
            self.assertIn(f"<h2>{section}</h2>", page)
        self.assertIn("4 of 4", page)
        self.assertIn("group_size: 32", page)


if __name__ == "__main__":
    unittest.main()
