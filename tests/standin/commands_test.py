"""The other commands on the stand-in: a run that is killed and resumed, its evaluation, a trial, a conversion; bf16."""

import os
import signal
import unittest

import program
import standin
import tiny_model

RANKS = 2


class CommandsTest(standin.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.inputs = tiny_model.make_inputs(cls.folder, family="qwen3_moe", num_experts=8, num_hidden_layers=4)
        cls.tokens = str(cls.folder / "tokens.safetensors")
        cls.config = program.write_config(cls.folder / "config.yaml", cls.inputs | {
            "tuning.iters": 30, "tuning.amp": False, "parallel.experts": "divided", "parallel.shards": 2,
            "parallel.stages": 1})

    def command(self, name, *settings):
        return program.quantize_command(self.config, self.folder / name, *settings)

    def test_a_run_that_is_killed_resumes_with_the_same_bytes(self):
        self.standin(self.command("whole"), RANKS, STANDIN_WORK="late")
        environment = {"STANDIN_FOLDER": str(self.folder), "STANDIN_WORK": "late"}
        job = program.start(self.command("killed"), RANKS, self.folder / "log", **environment)
        try:
            program.wait_for(lambda: program.events(self.folder / "killed.run", "block"), job)
            os.kill(sorted(program.ranks_of(job))[-1], signal.SIGKILL)
            self.assertNotEqual(job.wait(60), 0)
        finally:
            program.kill(job)
        self.standin(self.command("killed"), RANKS, STANDIN_WORK="early")
        self.assertEqual(program.digests(self.folder / "killed"), program.digests(self.folder / "whole"))
        self.expect_commands_on(self.folder / "whole")

    def expect_commands_on(self, checkpoint):
        evaluation = program.write_config(self.folder / "eval.yaml", self.inputs | {
            "model.path": str(checkpoint), "run.eval_tokens": self.tokens})
        arguments = ["eval", evaluation, "--json", "--against", self.inputs["model.path"], "--set", "tuning.amp=false"]
        here, there = self.standin(arguments, RANKS, STANDIN_WORK="late").json, self.cpu(arguments, RANKS).json
        self.assertAlmostEqual(here["perplexity"] / there["perplexity"], 1, delta=1e-5)
        self.assertGreater(self.report(1)["operators"], 1000)
        converted = self.folder / "converted"
        self.standin(["convert", checkpoint, "--format", "auto_round:auto_awq", "--output", converted])
        self.assertTrue(list(converted.glob("*.safetensors")))

    def test_a_trial(self):
        trial = self.standin(["plan", self.config, "--trial", "--json", "--set", f"output.path={self.folder / 'trial'}"], RANKS,
                             STANDIN_WORK="late").json["trial"]
        self.assertEqual(len(trial["step"]["seconds"]), RANKS)
        self.assertGreater(trial["all_reduce"]["rate"], 0)
        self.assertGreater(min(trial["step"]["peak_device_bytes"]), 1 << 20)

    def test_devices_are_named_and_each_rank_has_only_its_own(self):
        run = self.standin(self.command("named", "tuning.iters=1") + ["--json"], RANKS)
        names = "2 x Stand-in H100, NCCL 2."
        self.assertRegex(run.out, f"\n  devices +{names}")
        self.assertIn(names, program.events(self.folder / "named.run", "start")[0]["devices"])
        self.assertIn(f"| devices | {names.removeprefix('2 x ')}", (self.folder / "named" / "README.md").read_text())
        self.assertEqual(len(run.json["peak_device_bytes"]["tune"]), RANKS)
        self.assertGreater(min(run.json["peak_device_bytes"]["tune"]), 1 << 20)
        for rank in range(RANKS):
            self.assertEqual(list(self.report(rank)["contexts"]), [str(rank)])

    def test_bf16_and_grouped_products(self):
        """In bf16 roundings differ early, so that only the first loss is near the CPU's."""
        settings = ["tuning.amp=true", "tuning.iters=4", "parallel.stages=1"]
        self.cpu(self.command("cpu", *settings), RANKS)
        self.standin(self.command("grouped", *settings), RANKS, STANDIN_WORK="late", STANDIN_CAPABILITY="90")
        here, there = (standin.losses(self.folder / f"{name}.run")[0][0] for name in ("grouped", "cpu"))
        self.assertAlmostEqual(here / there, 1, delta=0.02)


if __name__ == "__main__":
    unittest.main()
