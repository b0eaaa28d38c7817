"""launch/bench.sh --families and tests/bench/moe_speed.py: whose products they count, and what they make of measurements.
Nothing is measured here."""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import sys
import tempfile
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "bench"))
import families
import gemm_limit
import moe_speed
import small_blocks


class FamiliesTest(unittest.TestCase):
    def test_products_are_those_of_the_matrices_on_disk(self):
        for name, linears, one in (("gpt2", 4, ("attn.c_attn", 3 * 768, 768)), ("deepseek_v3", 8, ("kv_b_proj", 8 * 256, 128)),
                                   ("gemma3", 7, ("down_proj", 640, 2048))):
            family = families.FAMILIES[name]
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                model, _ = small_blocks.make_inputs(family, families.BENCH, 1, pathlib.Path(folder))
                block = small_blocks.read_block(family, model)
            names = [linear for linear, _, _ in block.linears]
            self.assertLessEqual(set(block.reads_input), set(names))
            self.assertEqual(len(names), linears)
            self.assertIn(one, block.linears)

    def test_products_of_experts_are_those_of_the_tokens_that_choose_them(self):
        family = dataclasses.replace(moe_speed.family(64), config=moe_speed.family(64).config | {"num_experts": 16})
        with tempfile.TemporaryDirectory() as folder:
            model, _ = small_blocks.make_inputs(family, moe_speed.BENCH, 1, pathlib.Path(folder))
            block = small_blocks.read_block(family, model)
        self.assertEqual([name for name, _, _ in block.linears], ["k_proj", "o_proj", "q_proj", "v_proj"])
        self.assertEqual((block.experts, block.chosen), (16, 8))
        self.assertEqual(sorted(block.expert_linears), [("down_proj", 512, 256), ("gate_proj", 256, 512), ("up_proj", 256, 512)])
        flops = sum(p.flops for p in gemm_limit.linear_products(block, 100))
        attention = 2 * 2 * 100 * 512 * (2 * 512 + 2 * 256) + 2 * 100 * 512 * 512  # q, k, v, o; and dx of o
        self.assertEqual(flops, attention + 3 * 3 * 2 * 100 * 8 * 512 * 256)

    def test_values_may_be_narrower_than_keys(self):
        wide, narrow = (sum(p.flops for p in gemm_limit.attention_products(gemm_limit.Block((), 2, 2, 192, value), 1, 64))
                        for value in (0, 128))
        self.assertEqual((wide, narrow), (2 * 64 * 64 * 2 * 6 * 192, 2 * 64 * 64 * 2 * (3 * 192 + 3 * 128)))

    def run_main(self, *arguments, bench=families.BENCH):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="roundtable-test-"))
        self.addCleanup(shutil.rmtree, folder)
        made_up = {"make_inputs": lambda family, bench, blocks, folder: ("model", "tokens"), "read_block": lambda family, model: None,
                   "run_ours": lambda *arguments: {"tuning": [9, 4, 4], "whole": [9, 5, 5]},
                   "run_peer": lambda *arguments: {"tuning": [9, 8, 8], "whole": [9, 9, 9]}, "describe_machine": lambda: {"busy_before": 0.0}}
        out = io.StringIO()
        with unittest.mock.patch.multiple(small_blocks, **made_up), contextlib.redirect_stdout(out), \
                unittest.mock.patch.object(gemm_limit, "measure", lambda *arguments: {"all": 0.05}), \
                unittest.mock.patch.object(sys, "argv", ["families.py", "--out", str(folder / "new" / "f.json"), *arguments]), \
                contextlib.redirect_stderr(io.StringIO()):
            small_blocks.run(bench, "a bench")
        return out.getvalue(), folder / "new" / "f.json"

    def test_from_arguments_to_json(self):
        said, path = self.run_main()
        found = json.loads(said.splitlines()[-1])
        self.assertEqual(found, json.loads(path.read_text()))
        self.assertEqual([row["family"] for row in found["rows"]], ["gemma3", "qwen3", "phi3", "gpt2", "deepseek_v3"])
        self.assertEqual(found["rows"][0], {"family": "gemma3", "step": 0.1, "products": 0.05, "over_products": 2.0, "peer_step": 0.2,
                                            "peer_over_products": 4.0, "peer_over_ours": 2.0})
        self.assertEqual(len(found["rounds"]), 2)
        self.assertRegex(said, r"(?m)^gpt2 +0\.1000 +0\.0500 +2\.00 +0\.2000 +4\.00 +2\.00$")
        said, _ = self.run_main("--json", "--families", "phi3", "--tools", "ours", "--repeats", "1")
        self.assertIsNone(json.loads(said)["rows"][0]["peer_step"])

    def test_experts(self):
        said, _ = self.run_main("--experts", "128", bench=moe_speed.BENCH)
        found = json.loads(said.splitlines()[-1])
        self.assertEqual([row["experts"] for row in found["rows"]], ["128"])
        self.assertEqual((found["settings"]["batch_size"], found["settings"]["seqlen"]), (8, 512))

    def test_what_it_cannot_read_is_refused(self):
        for arguments in (["--families", "llama5"], ["--tools", "none"], ["--ranks", "3"], ["--iters", "0"]):
            with self.assertRaises(SystemExit) as ended:
                self.run_main(*arguments)
            self.assertEqual(ended.exception.code, 2, arguments)


if __name__ == "__main__":
    unittest.main()
