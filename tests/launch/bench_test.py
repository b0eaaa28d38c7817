"""launch/bench.sh and tests/bench: what they refuse, and what they make of measurements. Nothing is measured here."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "bench"))
import both_tools
import gemm_limit
import speed
import speed_report

# SmolLM2-135M's.
BLOCK = gemm_limit.Block((("q_proj", 576, 576), ("k_proj", 192, 576), ("v_proj", 192, 576), ("o_proj", 576, 576),
                          ("gate_proj", 1536, 576), ("up_proj", 1536, 576), ("down_proj", 576, 1536)), 9, 3, 64)
MACHINE = {"cpu": "some CPU", "cores": 2, "busy_before": 0.0, "gpu": None, "system": "Linux", "python": "3",
           "torch": "2", "roundtable": "roundtable 0", "mpi": "mpirun 0"}


def kernel(name, shape, seconds):
    rows, columns = map(int, shape.split("x"))
    return {"kernel": name, "rows": rows, "columns": columns, "seconds": seconds, "gb_per_s": 10.0,
            "copy_gb_per_s": 20.0, "share_of_copy": 0.5}


def one_round(ours, peer, limit):
    """A round in which Roundtable takes `ours` on two cores, and twice that on one."""
    steps = {(2, 1): ours, (1, 2): 1.1 * ours, (1, 1): 2 * ours, (4, 1): 1.2 * ours}
    runs = {speed.layout_name(layout): {"step": step, "block": 50 * step, "waiting": 0.01}
            for layout, step in steps.items()}
    runs[speed.PEER] = {"step": peer, "block": 60 * peer, "said": {"version": "0", "compiled": True}}
    parts = dict.fromkeys(gemm_limit.PARTS, limit / len(gemm_limit.PARTS))
    return {"runs": runs, "limits": {speed.layout_name(layout): parts for layout in speed.COMPARED}}


def results():
    rounds = [one_round(0.3, 0.6, 0.2), one_round(0.4, 0.6, 0.2)]
    settings = {"blocks": 3, "iters": 40, "repeats": 2, "batch_size": 8, "seqlen": 512, "samples": 128, "bits": 4,
                "group_size": 64, "threads": 2}
    return speed.summarize(rounds, {"fake_quantize": 0.01, "sign_step": 0.02}) | {
        "device": "cpu", "flops_per_step": 1e11, "machine": MACHINE, "kernels": [kernel("sign_step", "8x16", 1e-6)],
        "settings": settings}


class SpeedTest(unittest.TestCase):
    def test_the_first_block_is_left_out(self):
        found = speed.a_step({"tuning": [90, 20, 24], "whole": [99, 30, 32]}, 40)
        self.assertEqual(found, {"step": 0.55, "block": 31})
        found = speed.a_step({"tuning": [90, 20, 24], "whole": [99, 30, 32], "waiting": [9, 2, 2]}, 40)
        self.assertEqual(found["waiting"], 0.05)

    def test_the_peer_runs_between_the_layouts_and_nothing_twice(self):
        order = speed.turns()
        self.assertEqual(order[:3], [(2, 1), speed.PEER, (1, 2)])
        self.assertEqual(len(order), len(set(order)))
        self.assertLessEqual(set(speed.SCALING), set(order))

    def test_ratios_are_those_of_a_round(self):
        found = results()
        self.assertAlmostEqual(found["seconds_per_step"]["roundtable"], 0.35)
        self.assertAlmostEqual(found["seconds_per_step"]["auto-round"], 0.6)
        self.assertAlmostEqual(found["ratio"], 1.75)  # the middle of 0.6 / 0.3 and 0.6 / 0.4
        for value, expected in zip(found["ratio_range"], (1.5, 2)):
            self.assertAlmostEqual(value, expected)
        self.assertAlmostEqual(found["limit_ratio"], 1.75)
        self.assertAlmostEqual(found["scaling_2_ranks"], 2)
        self.assertEqual([row["ranks"] for row in found["scaling"]], [1, 2, 4])
        self.assertAlmostEqual(found["scaling"][1]["efficiency"]["median"], 1)

    def test_shares_make_up_the_step(self):
        rows = results()["shares"]
        self.assertAlmostEqual(sum(row["seconds"] for row in rows), 0.35)
        self.assertAlmostEqual(sum(row["share"] for row in rows), 1)
        self.assertEqual(rows[-1]["part"], "the rest")
        self.assertEqual(rows[-2], {"part": "waiting for the sum", "seconds": 0.01, "share": 0.01 / 0.35})
        self.assertAlmostEqual(rows[-1]["seconds"], 0.35 - 0.2 - 0.03 - 0.01)

    def test_kernels_count_once_a_layer_in_the_slowest_copy(self):
        fast = [kernel("sign_step", "8x16", 1), kernel("sign_step", "16x8", 2)]
        slow = [kernel("sign_step", "8x16", 3), kernel("sign_step", "16x8", 2)]
        self.assertEqual(speed.kernel_seconds([fast, slow], ["8x16", "16x8", "8x16"]), {"sign_step": 8})

    def test_events_become_seconds(self):
        events = [{"event": "start", "time": 1}, {"event": "stage_start", "time": 10},
                  {"event": "block", "time": 25, "seconds": 12}, {"event": "block", "time": 37, "seconds": 11},
                  {"event": "stage_end", "time": 38}]
        self.assertEqual(both_tools.seconds_of_blocks(events), {"tuning": [12, 11], "whole": [15, 12]})
        summed = [e | ({"reduction": {"seconds_waiting": 2}} if e["event"] == "block" else {}) for e in events]
        self.assertEqual(both_tools.seconds_of_blocks(summed)["waiting"], [2, 2])

    def test_a_failed_tool_is_one_line_with_its_log(self):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "log"
            with self.assertRaisesRegex(both_tools.ToolFailed, f"^tool ended with 3; what it said is in {log}$"):
                both_tools.run("tool", ["sh", "-c", "echo why >&2; exit 3"], log)
            self.assertEqual(log.read_text(), "why\n")


class LimitTest(unittest.TestCase):
    def test_products_of_a_step(self):
        tokens, weights = 8 * 512, 576 * 576 * 2 + 2 * 192 * 576 + 3 * 1536 * 576
        from_input = 576 * 576 + 2 * 192 * 576  # q, k and v: no gradient towards the block's input
        linear = list(gemm_limit.linear_products(BLOCK, tokens))
        self.assertEqual(sum(p.flops for p in linear), 2 * tokens * (3 * weights - from_input))
        attention = list(gemm_limit.attention_products(BLOCK, 8, 512))
        seen = sum(128 * keys for keys in (128, 256, 384, 512))  # of 512 x 512 scores of a head
        self.assertEqual(sum(p.flops for p in attention), 6 * 2 * 8 * 9 * seen * 64)

    def test_a_last_tile_may_be_short(self):
        rows = [p.m for p in gemm_limit.attention_products(BLOCK, 1, 130) if p.part == "attention forward"]
        self.assertEqual(rows, [3 * 128] * 2 + [3 * 2] * 2)

    def test_ranks_share_the_work(self):
        whole, half = (gemm_limit.flops_of_step(BLOCK, batch, 512) for batch in (8, 4))
        self.assertEqual(whole, 2 * half)

    def test_every_part_is_timed(self):
        block = gemm_limit.Block((("q_proj", 32, 32), ("down_proj", 32, 64)), 2, 1, 16)
        products = gemm_limit.products_of_step(block, 2, 16)
        seconds = gemm_limit.run_round(products, [gemm_limit.operands_of(p) for p in products])
        self.assertEqual(list(seconds), list(gemm_limit.PARTS))
        self.assertTrue(all(s > 0 for s in seconds.values()))


class ReportTest(unittest.TestCase):
    def test_the_text_has_the_figures(self):
        text = speed_report.text(results())
        ours = ["0.3500", "0.3000..0.4000", "1.75", "1.50..2.00", "1.75", "17.5", "2.10"]
        self.assertIn(ours, [line.split()[6:] for line in text.splitlines() if line.startswith("Roundtable, 2 ranks")])
        self.assertRegex(text, r"auto-round 0, torch\.compile, 2 threads +0\.6000 +0\.6000\.\.0\.6000 +3\.00 +36\.0")
        self.assertRegex(text, r"the rest +0\.1100 +31\.4 %")
        self.assertRegex(text, r"(?m)^2 +0\.3500 +2\.00 +2\.00\.\.2\.00 +100 %$")

    def test_the_plot_is_written(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, device in (("all", "cpu"), ("kernels", "cuda")):
                found = results() if device == "cpu" else results() | {"seconds_per_step": None}
                speed_report.draw(found, pathlib.Path(folder) / f"{name}.svg")
                xml.etree.ElementTree.parse(pathlib.Path(folder) / f"{name}.svg")


class WholeTest(unittest.TestCase):
    """speed.py from its arguments to its output, with made-up tools."""

    def run_main(self, *arguments):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="roundtable-test-"))
        self.addCleanup(shutil.rmtree, folder)
        kernels = folder / "kernels"
        rows = [kernel(name, "576x576", 1e-4) for name in ("fake_quantize", "sign_step")]
        kernels.write_text(f"#!/bin/sh\necho '{json.dumps({'kernels': rows})}'\n")
        kernels.chmod(0o755)
        seconds = {"tuning": [9, 4, 4], "whole": [9, 5, 5]}
        made_up = {
            "run_ours": lambda task, out, ranks, threads, log: seconds,
            "run_peer": lambda task, out, threads, log: seconds | {"version": "0", "compiled": True},
            "cut_model": lambda source, target, blocks: None, "token_shape": lambda path: [128, 512],
            "describe_machine": lambda: MACHINE}
        products = {"read_block": lambda model: BLOCK,
                    "measure": lambda block, ranks, threads, batch, seqlen: dict.fromkeys(gemm_limit.PARTS, 0.01)}
        argv = ["speed.py", "--kernels", str(kernels), "--out", str(folder / "new" / "speed.json"), *arguments]
        out = io.StringIO()
        patch = unittest.mock.patch
        with patch.multiple(speed, **made_up), patch.multiple(gemm_limit, **products), \
                patch.object(sys, "argv", argv), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            speed.main()
        return out.getvalue(), folder / "new"

    def test_with_json_stdout_is_one_object(self):
        said, folder = self.run_main("--model", "m", "--tokens", "t", "--json")
        found = json.loads(said)
        self.assertEqual(found, json.loads((folder / "speed.json").read_text()))
        self.assertEqual(found["seconds_per_step"], {"roundtable": 0.1, "auto-round": 0.1})
        self.assertLessEqual({"ratio", "limit_ratio", "scaling_2_ranks", "machine", "settings"}, set(found))
        self.assertEqual(len(found["rounds"]), 2)
        self.assertTrue((folder / "speed.svg").is_file())

    def test_without_json_stdout_is_the_report(self):
        said, _ = self.run_main("--model", "m", "--tokens", "t", "--repeats", "1")
        self.assertIn("Where a step goes", said)

    def test_on_a_gpu_the_kernels_alone(self):
        said, _ = self.run_main("--device", "cuda", "--json")
        found = json.loads(said)
        self.assertIsNone(found["ratio"])
        self.assertEqual(len(found["kernels"]), 2)


class ScriptTest(unittest.TestCase):
    def call(self, *arguments, path=""):
        environment = os.environ | {"PATH": path + os.environ["PATH"]}
        done = subprocess.run(["bash", ROOT / "launch" / "bench.sh", *arguments], capture_output=True, text=True,
                              env=environment)
        return done.returncode, done.stdout, done.stderr

    def test_help(self):
        code, out, _ = self.call("--help")
        self.assertEqual(code, 0)
        for option in ("--device", "--json", "--iters", "--repeats", "--blocks", "--out"):
            self.assertIn(option, out)

    def test_what_it_cannot_read_is_refused_before_anything_is_installed(self):
        for arguments in (["--iters", "0"], ["--iters"], ["--repeats", "x"], ["--blocks", "1"], ["--device", "tpu"],
                          ["--nonsense"], ["--out", ""]):
            code, out, err = self.call(*arguments)
            self.assertEqual((code, out, err.count("\n")), (2, "", 1), (arguments, err))
            self.assertTrue(err.startswith("error: "), err)

    def test_cuda_without_a_gpu_is_one_line(self):
        with tempfile.TemporaryDirectory() as folder:
            stand_in = pathlib.Path(folder) / "nvidia-smi"
            stand_in.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
            stand_in.chmod(0o755)
            code, out, err = self.call("--device", "cuda", "--json", path=folder + ":")
        self.assertEqual((code, out, err.count("\n")), (1, "", 1), err)
        self.assertIn("needs a GPU", err)


if __name__ == "__main__":
    unittest.main()
