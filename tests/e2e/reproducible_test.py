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
        tiny_model.make_model(cls.folder / "model", dtype=torch.bfloat16, intermediate_size=128)
        tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=24, seqlen=32)
        cls.config = program.write_config(cls.folder / "config.yaml", {
            "model.path": str(cls.folder / "model"),
            "calibration.tokens": str(cls.folder / "tokens.safetensors"),
            "calibration.n_samples": 24,
            "calibration.seqlen": 32,
            "quantization.bits": 3,
            "quantization.group_size": 32,
            "tuning.iters": 20,
            "tuning.batch_size": 8,
            "parallel.stages": 2,
            "parallel.threads": 1,
        })

    def quantize(self, ranks, shards, *settings):
        output = self.folder / f"out-{ranks}-{shards}-{len(settings)}"
        changes = [f"parallel.shards={shards}", f"output.path={output}", *settings]
        self.succeed(["quantize", self.config, *(word for change in changes for word in ("--set", change))], ranks)
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
            settings = ["run.reproducible=true", f"output.path={self.folder / 'refused'}", *changes]
            arguments = ["quantize", self.config, *(word for one in settings for word in ("--set", one))]
            self.fail_with(arguments, ranks, 2, *words)
            self.assertFalse(pathlib.Path(self.folder / "refused").exists())


if __name__ == "__main__":
    unittest.main()
