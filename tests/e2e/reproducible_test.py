"""run.reproducible: one rank, shards, groups and both write the same bytes. Without it a few integers differ."""

import pathlib
import sys
import unittest

import torch
from safetensors.torch import load_file

import program
import tiny_model

GRIDS = [(1, 1), (2, 2), (2, 1), (4, 4), (4, 2), (8, 8)]  # ranks, shards


class ReproducibleTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, rows=24, dtype=torch.bfloat16, intermediate_size=128)
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "quantization.bits": 3,
            "tuning.iters": 20,
            "tuning.batch_size": 8,
            "parallel.stages": 2,
        })

    def quantize(self, ranks, shards, *settings):
        output = self.folder / f"out-{ranks}-{shards}-{len(settings)}"
        self.succeed(program.quantize_command(self.config, output, f"parallel.shards={shards}", *settings), ranks)
        return output

    def test_every_grid_writes_the_same_bytes(self):
        want = program.digests(self.quantize(1, 1, "run.reproducible=true"))
        self.assertTrue(any(name.endswith(".safetensors") for name in want))
        for ranks, shards in GRIDS[1:]:
            with self.subTest(ranks=ranks, shards=shards):
                self.assertEqual(program.digests(self.quantize(ranks, shards, "run.reproducible=true")), want)

    def test_what_differs_without_it(self):
        one, four = self.quantize(1, 1), self.quantize(4, 4)
        words = same = 0
        for path in sorted(one.glob("*.safetensors")):
            have, want = load_file(four / path.name), load_file(path)
            for name in (name for name in want if name.endswith(".qweight")):
                words += want[name].numel()
                same += (have[name] == want[name]).sum().item()
        print(f"1 and 4 ranks agree in {same} of {words} words of packed integers", file=sys.stderr)
        self.assertLess(same, words)  # or the test above shows nothing

    def test_what_cannot_be_promised_is_refused(self):
        for ranks, changes, words in [
                (3, ["parallel.shards=3", "tuning.batch_size=3"], ["parallel.shards", "power of two"]),
                (1, ["tuning.sampler=rand"], ["tuning.sampler", "strata"]),
                (1, ["parallel.gradient_dtype=bf16"], ["parallel.gradient_dtype", "fp32"])]:
            arguments = program.quantize_command(self.config, self.folder / "refused", "run.reproducible=true", *changes)
            self.fail_with(arguments, ranks, 2, *words)
            self.assertFalse(pathlib.Path(self.folder / "refused").exists())


if __name__ == "__main__":
    unittest.main()
