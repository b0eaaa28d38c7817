"""launch/describe_machine.py: what it writes is what plan takes, and what it cannot do is one line."""

import pathlib
import subprocess
import sys
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "describe_machine.py"
MODELS = ROOT / "tests" / "data" / "models"
MODEL = MODELS / "smollm2-135m"
sys.path += [str(ROOT / "launch"), str(ROOT / "tests" / "e2e")]
import describe_machine
import machine_rates
import program


class SectionTest(program.Case):
    """A section measured in tiny sizes, two ranks of one thread."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.file = cls.folder / "cluster.yaml"
        cls.done = cls.call("--out", cls.file)
        cls.text = cls.done.stdout

    @classmethod
    def call(cls, *arguments):
        command = [sys.executable, SCRIPT, "--quick", "--device", "cpu", "--ranks", "2", "--threads", "1",
                   "--directory", cls.folder, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=program.TIMEOUT)

    def test_every_key_has_a_figure_and_a_comment(self):
        self.assertEqual((self.done.returncode, self.done.stderr), (0, ""))
        self.assertEqual(self.file.read_text(), self.text)
        found = yaml.safe_load(self.text)["cluster"]
        example = yaml.safe_load((ROOT / "configs" / "clusters" / "cpu-2-cores.yaml").read_text())["cluster"]
        self.assertEqual(set(found), set(example))
        self.assertTrue(all(value > 0 for value in found.values()), found)
        self.assertEqual((found["nodes"], found["devices_a_node"]), (1, 2))
        self.assertEqual(found["network_bandwidth"], found["link_bandwidth"])
        above, lines = self.text.splitlines()[2::2], self.text.splitlines()[3::2]
        self.assertEqual(len(lines), len(found))
        for comment, line in zip(above, lines):
            self.assertRegex(comment, r"^  # \S")
            self.assertRegex(line, r"^  \w+: [\d.]+$")
            self.assertLessEqual(len(comment), 120)

    def test_plan_takes_the_file(self):
        config = program.write_config(self.folder / "config.yaml", {
            "model.path": str(MODEL), "calibration.seqlen": 256, "quantization.group_size": 64,
            "parallel.backend": "mpi"})
        planned = self.succeed(["plan", config, "--cluster", self.file, "--json"]).json
        self.assertEqual(planned["ranks"], 2)
        self.assertGreater(planned["seconds"]["tune"], 0)

    def test_only_a_description_is_overwritten(self):
        notes = self.folder / "notes.yaml"
        notes.write_text("mine")
        done = self.call("--out", notes)
        self.assertEqual((done.returncode, done.stdout, notes.read_text()), (2, "", "mine"))
        self.assertIn("exists and is not a description of a machine", done.stderr)
        self.assertTrue(describe_machine.is_description(self.file))

    def test_what_it_cannot_do_is_one_line(self):
        for arguments, words in ((("--directory", self.folder / "nowhere"), "--directory: "),
                                 (("--model", self.folder), "config.json cannot be read"),
                                 (("--model", MODELS / "gpt2"), "not of a Llama-like model")):
            done = self.call(*arguments)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), done.stderr)
            self.assertIn(words, done.stderr)


class FiguresTest(unittest.TestCase):
    def test_products_are_as_many_as_the_forecast_counts(self):
        """Clockwork::step() of src/plan/forecast.cc, by hand for SmolLM2-135M and 2 samples of 256 tokens."""
        weights, from_input = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576, 576 * 576 + 2 * 192 * 576
        attention = 2 * 2 * 576 * (256 / 2 + 32)
        products = machine_rates.products_of_pass(machine_rates.read_block(MODEL), 2, 256)
        self.assertEqual(sum(product.flops for product in products),
                         2 * 256 * (6 * weights - 2 * from_input + 3 * attention))

    def test_figures_are_plain_numbers(self):
        self.assertEqual([describe_machine.shown(value) for value in (2, 0.21349, 12064.3, 1500.0, 1e-9)],
                         ["2", "0.2135", "12060", "1500", "0.000001"])


if __name__ == "__main__":
    unittest.main()
