"""Experts divided over the ranks of a group, from end to end: the bytes of a run that divides nothing, kills between the
files of a block's parts, traffic, evaluation, and what is refused."""

import pathlib
import re
import unittest

import torch
from safetensors.torch import load_file, save_file

import program
import tiny_model
import unpacked

BAD_INPUT = 2
EXPERTS = 8


class DividedExpertsTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.inputs = tiny_model.make_inputs(cls.folder, family="qwen3_moe", num_experts=EXPERTS, num_hidden_layers=2)
        cls.config = program.write_config(cls.folder / "config.yaml", cls.inputs | {
            "tuning.iters": 10, "parallel.stages": 1, "run.eval_tokens": str(cls.folder / "tokens.safetensors")})

    def command(self, name, *settings):
        return program.quantize_command(self.config, self.folder / name, *settings)

    def blocks(self, name):
        return {e["block"]: e for e in program.events(self.folder / f"{name}.run", "block")}

    def expect_equal_tensors(self, name, wanted):
        found, tensors = unpacked.load_all(self.folder / name), unpacked.load_all(self.folder / wanted)
        self.assertEqual(set(found), set(tensors))
        for key, tensor in tensors.items():
            self.assertTrue(torch.equal(found[key], tensor), key)

    def test_a_reproducible_run_has_the_same_bytes_on_any_number_of_ranks(self):
        for ranks in (1, 2, 4):
            self.succeed(self.command(f"same-{ranks}", "run.reproducible=true", f"parallel.shards={ranks}",
                                      "tuning.min_expert_tokens=150",
                                      f"parallel.experts={'divided' if ranks > 1 else 'replicated'}"), ranks)
        for ranks in (2, 4):
            parts = [p.name for p in sorted((self.folder / f"same-{ranks}").glob("model-*.safetensors"))]
            self.assertEqual(len(parts), 2 * ranks + 1, parts)
            self.expect_equal_tensors(f"same-{ranks}", "same-1")
            for block, event in self.blocks("same-1").items():
                other = self.blocks(f"same-{ranks}")[block]
                self.assertEqual(other["losses"], event["losses"])
                self.assertEqual(other["experts_with_few_tokens"], event["experts_with_few_tokens"])
                self.assertGreater(event["experts_with_few_tokens"]["tokens_added"], 0)
        # Other jobs read the files of all parts, and divide the experts over their own ranks.
        evaluation = program.write_config(self.folder / "eval.yaml", self.inputs | {
            "model.path": str(self.folder / "same-4"), "run.eval_tokens": str(self.folder / "tokens.safetensors")})
        one, *more = [self.succeed(["eval", evaluation, "--json", "--against", self.inputs["model.path"],
                                    "--set", "tuning.amp=false"], ranks).json for ranks in (1, 2, 4)]
        self.assertEqual([one["expert_parts"], *[other["expert_parts"] for other in more]], [1, 2, 4])
        for other in more:
            self.assertAlmostEqual(other["perplexity"] / one["perplexity"], 1, delta=1e-6)
            for measure in ("mean", "p99", "same_top"):
                self.assertAlmostEqual(other["divergence"][measure] / one["divergence"][measure], 1, delta=1e-4)

    def test_gradients_losses_and_traffic_are_those_of_replicated_experts_or_less(self):
        for experts in ("divided", "replicated"):
            self.succeed(self.command(experts, "parallel.shards=2", f"parallel.experts={experts}",
                                      "run.save_gradients=true", "tuning.amp=false"), 2)
        first, other = self.blocks("divided")[0], self.blocks("replicated")[0]
        self.assertAlmostEqual(first["losses"][0] / other["losses"][0], 1, delta=1e-5)
        self.assertLess(first["reduction"]["bytes"], other["reduction"]["bytes"] / 2)
        wanted = load_file(self.folder / "replicated.run" / "gradients-00000.safetensors")
        parts = [load_file(self.folder / "divided.run" / f"gradients-00000{part}.safetensors") for part in ("", "-part-1")]
        self.assertEqual(set(parts[0]) | set(parts[1]), set(wanted))
        self.assertEqual({n for n in parts[1] if ".experts." in n}, {n for n in wanted if re.search(r"experts\.[4-7]\.", n)})
        for part in parts:
            for name, gradient in part.items():
                self.assertLess(((gradient - wanted[name]).norm() / wanted[name].norm()).item(), 1e-5, name)

    def test_experts_that_no_token_chooses(self):
        """All tokens have the same score for all experts, so that all choose the same two: the other six see no token,
        and on two ranks exactly half of the rows leave their rank."""
        folder = self.folder / "one-choice"
        inputs = tiny_model.make_inputs(folder, family="qwen3_moe", num_experts=EXPERTS, num_hidden_layers=2)
        weights = pathlib.Path(inputs["model.path"]) / "model.safetensors"
        save_file({name: tensor * 0 if name.endswith("mlp.gate.weight") else tensor
                   for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
        config = program.write_config(folder / "config.yaml", inputs | {
            "tuning.iters": 4, "parallel.stages": 1, "parallel.shards": 2, "parallel.experts": "divided"})
        chosen, hidden, least = 2, 64, 40
        runs = {}
        for name, settings in (("plain", ()), ("shown", (f"tuning.min_expert_tokens={least}",))):
            result = self.succeed(program.quantize_command(config, self.folder / name, *settings), 2)
            runs[name] = self.blocks(name), unpacked.load_all(self.folder / name), str(result)
        blocks, tensors, text = runs["shown"]
        idle = EXPERTS - chosen
        self.assertIn(f"block 0: {idle} of {EXPERTS} experts saw fewer than {least} tokens in calibration; the search of "
                      f"scales showed them {idle * least} others; {idle} saw fewer in the steps of tuning", text)
        self.assertRegex(text, rf"(?m)^experts +of {2 * EXPERTS}, {2 * idle} saw fewer than {least} tokens")
        self.assertRegex(text, r"(?m)^traffic .* of gradients in the all-reduce, .* of tokens in the all-to-all per rank")
        named = set()
        for number, block in blocks.items():
            self.assertEqual(block["experts_with_few_tokens"], {
                "least": least, "experts": EXPERTS, "in_calibration": idle, "tokens_added": idle * least, "left": 0,
                "in_tuning": idle})
            self.assertEqual(len(block["experts_without_tokens"]), idle)
            named |= {f"model.layers.{number}.{expert}." for expert in block["experts_without_tokens"]}
            # Of the rows of a step a half leaves its rank; there and back, forward and backward, in bf16.
            rows = inputs["tuning.batch_size"] * inputs["calibration.seqlen"] * chosen // 2
            self.assertEqual(block["bytes_per_step"]["all_to_all"], 4 * rows * hidden * 2 / 2)
            self.assertEqual(block["bytes_per_step"]["all_reduce"], block["reduction"]["bytes"] / 4)
        scales = [tensor for name, tensor in tensors.items() if name.endswith(".scales")]
        self.assertTrue(all(bool(scale.isfinite().all()) and bool((scale != 0).all()) for scale in scales))
        # The steps of tuning, the loss and all other layers know nothing of the tokens that were added.
        plain, without, _ = runs["plain"]
        changed = {name for name, tensor in tensors.items() if not torch.equal(tensor, without[name])}
        self.assertTrue(changed)
        self.assertEqual({name for name in changed if not any(name.startswith(expert) for expert in named)}, set())
        for number, block in blocks.items():
            self.assertEqual(block["losses"], plain[number]["losses"])
            self.assertIsNone(plain[number]["experts_with_few_tokens"])

    def test_a_kill_between_the_parts_of_a_block(self):
        """The second part is slow in coming to the disk: when the first is there, the job is killed."""
        settings = ("parallel.shards=2", "parallel.experts=divided", "run.reproducible=true")
        self.succeed(self.command("peace", *settings), 2)
        output = self.folder / "killed"
        job = program.start(self.command("killed", *settings), 2, self.folder / "killed.log",
                            **program.fault("1:fsync:1+:hang:/killed"))
        try:
            program.wait_for(lambda: list(output.glob("model-00001-*.safetensors")), job)
        finally:
            program.kill(job)
        self.assertEqual(self.blocks("killed"), {})
        self.assertFalse(list(output.glob("model-00002-*.safetensors")))
        self.succeed(self.command("killed", *settings), 2)
        self.assertEqual(program.digests(output), program.digests(self.folder / "peace"))
        # A part that is lost later is made again with its block.
        (output / sorted(p.name for p in output.glob("model-*.safetensors"))[1]).unlink()
        self.succeed(self.command("killed", *settings), 2)
        self.assertEqual(program.digests(output), program.digests(self.folder / "peace"))
        # The names of the files follow from the number of parts.
        self.fail_with(self.command("killed", "parallel.shards=4", *settings[1:]), 4, BAD_INPUT, "parallel.shards=2")

    def test_shards_that_do_not_divide_the_experts(self):
        self.fail_with(self.command("three", "parallel.shards=3", "parallel.experts=divided", "tuning.batch_size=3"), 3,
                       BAD_INPUT, "parallel.shards", "8 experts")


if __name__ == "__main__":
    unittest.main()
