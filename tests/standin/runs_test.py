"""Whole runs in fp32 on the stand-in write what the same runs on CPUs write, and the same bytes whether sums and copies
are done at once or as late as possible.

Where a checkpoint differs from the CPU's, the gradients of the first step decide: all must agree within rounding, so
that only signs of gradients that are zero within rounding differ, and with them all that follows. At least half of
the runs must be equal byte for byte, so that nothing can hide behind that.
"""

import unittest

import program
import standin
import tiny_model

MODELS = {
    "llama": {"num_hidden_layers": 4},
    "gemma2": {"num_hidden_layers": 2},
    "qwen3_moe": {"num_hidden_layers": 2, "num_experts": 8},
}
DIVIDED = ["parallel.experts=divided"]
RUNS = {  # name -> (model, ranks, settings)
    "samples on the host, two blocks together": (
        "gemma2", 1, ["tuning.low_gpu_mem_usage=true", "tuning.n_blocks=2", "tuning.micro_batch=2"]),
    "shards, bf16 sums, asymmetric": (
        "llama", 2, ["parallel.shards=2", "parallel.gradient_dtype=bf16", "quantization.scheme=asym"]),
    "two stages, adamw, samples on the host": (
        "llama", 2, ["parallel.shards=1", "parallel.stages=2", "tuning.optimizer=adamw", "tuning.low_gpu_mem_usage=true"]),
    "divided experts, more tokens for some, two blocks together": (
        "qwen3_moe", 2, [*DIVIDED, "parallel.shards=2", "tuning.min_expert_tokens=150", "tuning.n_blocks=2"]),
    "divided experts, two groups, reproducible, adamw": (
        "qwen3_moe", 4, [*DIVIDED, "parallel.shards=2", "parallel.stages=2", "run.reproducible=true",
                         "tuning.optimizer=adamw"]),
}


class RunsTest(standin.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.configs = {}
        for family, shape in MODELS.items():
            (cls.folder / family).mkdir()
            cls.configs[family] = program.write_config(
                cls.folder / family / "config.yaml", tiny_model.make_inputs(cls.folder / family, family=family, **shape) | {
                    "tuning.iters": 8,
                    "tuning.amp": False,
                    "run.save_gradients": True,
                    "run.eval_tokens": str(cls.folder / family / "tokens.safetensors")})

    def test_runs(self):
        equal = []
        for number, (name, (family, ranks, settings)) in enumerate(RUNS.items()):
            with self.subTest(name):
                folder = {kind: self.folder / f"{number}-{kind}" for kind in ("cpu", "early", "late")}
                command = {kind: program.quantize_command(self.configs[family], path, *settings)
                           for kind, path in folder.items()}
                self.cpu(command["cpu"], ranks)
                for work in ("early", "late"):
                    self.standin(command[work], ranks, STANDIN_WORK=work)
                self.expect_work_of_devices(ranks, settings)
                self.assertEqual(program.digests(folder["early"]), program.digests(folder["late"]))
                if self.expect_equal_to_cpu(folder["early"], folder["cpu"], "parallel.gradient_dtype=bf16" in settings):
                    equal.append(name)
        print(f"{len(equal)} of {len(RUNS)} runs are equal to the CPU's byte for byte")
        self.assertGreaterEqual(len(equal), len(RUNS) / 2)

    def expect_work_of_devices(self, ranks, settings):
        for rank in range(ranks):
            report = self.report(rank)
            self.assertGreater(report["operators"], 1000)
            self.assertGreater(report["kernels"], 50)
            self.assertGreater(report["peak_bytes"][str(rank)], 0)
            if "run.reproducible=true" not in settings and "parallel.shards=2" in settings:
                self.assertGreaterEqual(report["sums"], 8)
            if "parallel.experts=divided" in settings:
                self.assertGreater(report["messages"], 50)

    def expect_equal_to_cpu(self, have, want, in_bf16):
        """Whether all is equal; fails where the difference is not one of rounding."""
        differ, elements = standin.integers_that_differ(have, want)
        if differ == 0:
            return True
        runs = [folder.with_name(folder.name + ".run") for folder in (have, want)]
        self.assertIsNone(standin.other_gradients(*runs, in_bf16), f"{differ} of {elements} integers differ")
        first, wanted = (standin.losses(run)[0][0] for run in runs)
        self.assertAlmostEqual(first / wanted, 1, delta=1e-5)
        print(f"{have}: {differ} of {elements} integers differ from the CPU's", flush=True)
        return False


if __name__ == "__main__":
    unittest.main()
