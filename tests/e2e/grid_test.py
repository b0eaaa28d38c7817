"""The grid of ranks does not change what is computed: gradients before the first sign step, losses, checkpoint.

Weights are not compared across grids: a sign step turns the noise of another order of summation into a full step.
"""

import json
import shutil
import subprocess
import unittest

import h5py
import numpy
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

import program
import tiny_model

ITERS = 8
GRIDS = {  # name -> (ranks, shards)
    "1 rank": (1, 1),
    "2 shards": (2, 2),
    "2 groups": (2, 1),
    "2 groups x 2 shards": (4, 2),
    "4 shards": (4, 4),
}
OTHER_GRIDS = [grid for grid in GRIDS if grid != "1 rank"]
STAGE_STARTS = [0, 2]


def relative_error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def structure(directory):
    """Every tensor's file, type and shape; the text of the other files, but for the card's figures."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.name == "README.md":
            continue
        if path.suffix != ".safetensors":
            found[path.name] = path.read_text()
            continue
        with safe_open(path, "pt") as file:
            for name in file.keys():
                part = file.get_slice(name)
                found[path.name, name] = (part.get_dtype(), tuple(part.get_shape()))
    return found


class GridTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tiny_model.make_model(cls.folder / "model", intermediate_size=128)
        tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=16, seqlen=32)
        cls.held_out = tiny_model.make_tokens(cls.folder / "held-out.safetensors", rows=6, seqlen=32, seed=3)
        cls.config = program.write_config(cls.folder / "config.yaml", {
            "model.path": str(cls.folder / "model"),
            "calibration.tokens": str(cls.folder / "tokens.safetensors"),
            "calibration.n_samples": 16,
            "calibration.seqlen": 32,
            "quantization.bits": 4,
            "quantization.group_size": 32,
            "tuning.iters": ITERS,
            "tuning.batch_size": 4,
            "tuning.lr": 0.02,
            "tuning.amp": False,
            "parallel.stages": len(STAGE_STARTS),
            "parallel.threads": 1,
            "output.path": "set on the command line",
            "run.eval_tokens": str(cls.folder / "held-out.safetensors"),
            "run.save_gradients": True,
        })
        cls.results = {}
        for grid, (ranks, shards) in GRIDS.items():
            cls.results[grid] = program.run(
                ["quantize", cls.config, "--json", "--set", f"parallel.shards={shards}",
                 "--set", f"output.path={cls.output(grid)}"], ranks)

    @classmethod
    def output(cls, grid):
        return cls.folder / grid.replace(" ", "-")

    @classmethod
    def run_directory(cls, grid):
        return cls.output(grid).with_name(cls.output(grid).name + ".run")

    def setUp(self):
        for grid, result in self.results.items():
            self.assertEqual(result.code, 0, f"{grid}: {result}")

    def logits(self, grid):
        path = self.folder / "logits.safetensors"
        self.succeed(["eval", self.config, "--set", f"model.path={self.output(grid)}", "--set", f"run.logits={path}"])
        return load_file(path)["logits"]

    def test_the_plan_shows_the_grid(self):
        for grid, (ranks, shards) in GRIDS.items():
            self.assertIn(f"{ranks} = {ranks // shards} groups x {shards} shards", self.results[grid].out)

    def test_gradients_and_loss_of_the_first_step_are_those_of_one_rank(self):
        for grid in OTHER_GRIDS:
            for block in STAGE_STARTS:
                name = f"gradients-{block:05d}.safetensors"
                want = load_file(self.run_directory("1 rank") / name)
                have = load_file(self.run_directory(grid) / name)
                self.assertEqual(set(have), set(want))
                self.assertEqual(len(want), 7 + 1)  # a Llama block's linear layers, and the loss
                for tensor in want:
                    self.assertGreater(want[tensor].norm(), 0, tensor)
                    self.assertLess(relative_error(have[tensor], want[tensor]), 1e-5, f"{grid}, block {block}: {tensor}")

    def test_only_the_stages_first_blocks_leave_gradients(self):
        for grid in GRIDS:
            names = sorted(p.name for p in self.run_directory(grid).glob("gradients-*"))
            self.assertEqual(names, [f"gradients-{block:05d}.safetensors" for block in STAGE_STARTS])

    def test_the_checkpoints_have_the_same_structure(self):
        want = structure(self.output("1 rank"))
        for grid in OTHER_GRIDS:
            self.assertEqual(structure(self.output(grid)), want, grid)

    def test_the_quantized_models_are_close(self):
        want = self.logits("1 rank")
        perplexity = self.results["1 rank"].json["perplexity"]
        for grid in OTHER_GRIDS:
            self.assertLess(relative_error(self.logits(grid), want), 0.1, grid)
            have = self.results[grid].json["perplexity"]
            self.assertAlmostEqual(have["float"] / perplexity["float"], 1, delta=1e-5)
            self.assertAlmostEqual(have["quantized"] / perplexity["quantized"], 1, delta=0.05)

    def test_every_iteration_and_every_phase_is_in_the_event_log(self):
        for grid in GRIDS:
            events = program.events(self.run_directory(grid))
            blocks = {e["block"]: e for e in events if e["event"] == "block"}
            self.assertEqual(sorted(blocks), list(range(tiny_model.N_BLOCKS)))
            for block in blocks.values():
                self.assertEqual(len(block["losses"]), ITERS)
                self.assertTrue(all(loss > 0 for loss in block["losses"]))
                self.assertEqual(block["first_loss"], block["losses"][0])
                self.assertEqual(block["best_loss"], min(block["losses"]))
                self.assertEqual(block["losses"][block["best_iteration"]], block["best_loss"])
            phases = [e["phase"] for e in events if e["event"] == "phase"]
            self.assertEqual(phases, ["calibrate", "tune", "assemble", "prove", "evaluate"])

    def test_tuning_lowers_the_loss(self):
        for event in program.events(self.run_directory("1 rank")):
            if event["event"] == "block":
                self.assertLess(event["best_loss"], event["first_loss"])

    def test_groups_share_the_stages(self):
        events = program.events(self.run_directory("2 groups"))
        self.assertEqual({e["group"] for e in events if e["event"] == "block"}, {0, 1})

    def test_json_ends_stdout_with_the_summary(self):
        for grid, (ranks, _) in GRIDS.items():
            summary = self.results[grid].json
            self.assertEqual(summary["output"], str(self.output(grid)))
            for phase in ["plan", "calibrate", "tune", "assemble", "prove", "evaluate"]:
                self.assertGreaterEqual(summary["seconds"][phase], 0)
                self.assertEqual(len(summary["peak_bytes"][phase]), ranks)
                self.assertTrue(all(bytes > 1 << 20 for bytes in summary["peak_bytes"][phase]))
            self.assertEqual(summary["perplexity"]["tokens"], self.held_out.shape[0] * (self.held_out.shape[1] - 1))

    def test_eval_on_four_ranks_is_eval_on_one(self):
        command = ["eval", self.config, "--json", "--set", f"model.path={self.output('1 rank')}"]
        one, four = self.succeed(command).json, self.succeed([*command, "--against", str(self.folder / "model")], 4).json
        self.assertEqual(one["tokens"], four["tokens"])
        self.assertAlmostEqual(one["perplexity"] / four["perplexity"], 1, delta=1e-6)
        # The run has measured the same.
        run = self.results["1 rank"].json
        self.assertAlmostEqual(run["perplexity"]["float"] / four["float_perplexity"], 1, delta=1e-6)
        self.assertEqual(set(run["divergence"]), {"mean", "p99", "same_top"})
        for measure, value in run["divergence"].items():
            self.assertAlmostEqual(four["divergence"][measure] / value, 1, delta=1e-3)
        self.assertIn(f"mean {run['divergence']['mean']:.5f}, 99th percentile", self.results["1 rank"].out)

    def test_the_resolved_config_is_printed_and_kept(self):
        kept = (self.run_directory("2 shards") / "config.yaml").read_text()
        self.assertIn(kept, self.results["2 shards"].out)
        self.assertIn(f"iters: {ITERS}", kept)

    def test_output_is_whole_and_holds_no_boundary_or_temporary_file(self):
        for grid in GRIDS:
            names = {p.name for p in self.output(grid).iterdir()}
            shards = {f"model-{i + 1:05d}-of-00005.safetensors" for i in range(5)}
            self.assertEqual(names, shards | {"README.md", "config.json", "generation_config.json",
                                              "quantization_config.json",
                                              "model.safetensors.index.json", "tokenizer.json",
                                              "tokenizer_config.json"})
            index = json.loads((self.output(grid) / "model.safetensors.index.json").read_text())
            self.assertEqual(set(index["weight_map"].values()), shards)
            self.assertEqual(list(self.run_directory(grid).glob("*.h5*")), [])


    def test_the_card_says_how_it_was_made(self):
        for grid in GRIDS:
            card = (self.output(grid) / "README.md").read_text()
            perplexity = self.results[grid].json["perplexity"]
            self.assertTrue(card.startswith("---\nbase_model: model\n"), card)
            for words in ("4 bits, sym, groups of 32", f"{ITERS} iterations a block, 4 samples a step",
                          "16 samples of 32 tokens", f"{perplexity['float']:.3f} before",
                          f"{perplexity['quantized']:.3f} after",
                          f"{self.results[grid].json['divergence']['mean']:.4f} in the mean"):
                self.assertIn(words, card)
            self.assertNotIn(str(self.folder), card)


class BoundaryTest(program.Case):
    """What lies in the cache are the float model's hidden states, readable by anybody."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_model.make_model(cls.folder / "model", dtype=torch.bfloat16)
        cls.tokens = tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=8, seqlen=16)
        cls.config = program.write_config(cls.folder / "config.yaml", {
            "model.path": str(cls.model),
            "calibration.tokens": str(cls.folder / "tokens.safetensors"),
            "calibration.n_samples": 8,
            "calibration.seqlen": 16,
            "quantization.group_size": 32,
            "tuning.iters": 1,
            "tuning.batch_size": 2,
            "parallel.stages": 2,
            "parallel.threads": 1,
            "run.keep_boundaries": True,
        })

    def boundaries(self, name, amp, ranks):
        output = self.folder / name
        self.succeed(["quantize", self.config, "--set", f"output.path={output}", "--set", f"tuning.amp={amp}"], ranks)
        self.assertEqual(sorted(p.name for p in output.with_name(name + ".run").glob("*.h5")),
                         ["boundary-00000.h5", "boundary-00002.h5"])
        states = {}
        for block in STAGE_STARTS:
            with h5py.File(output.with_name(name + ".run") / f"boundary-{block:05d}.h5") as file:
                dataset = file["hidden_states"]
                self.assertEqual(int(dataset.attrs["first_block"]), block)
                self.assertEqual(file["checksums"].shape, (8,))
                states[block] = dataset.id.get_type().get_size(), torch.from_numpy(dataset[:].astype(numpy.float32))
        return states

    def hidden_states(self, dtype):
        model = transformers.AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype,
                                                                  attn_implementation="eager").eval()
        with torch.no_grad():
            states = model(torch.from_numpy(self.tokens).long(), output_hidden_states=True).hidden_states
        return [s.float() for s in states]

    def test_fp32(self):
        want = self.hidden_states(torch.float32)
        for ranks in (1, 2):
            states = self.boundaries(f"fp32-{ranks}", "false", ranks)
            for block, (bytes, have) in states.items():
                self.assertEqual(bytes, 4)
                self.assertLess(relative_error(have, want[block]), 1e-6)
            self.assertTrue(torch.equal(states[0][1], want[0]))

    def test_bf16_is_a_float_type_that_reads_as_numbers(self):
        want = self.hidden_states(torch.bfloat16)
        states = self.boundaries("bf16", "true", 2)
        for block, (bytes, have) in states.items():
            self.assertEqual(bytes, 2)
            self.assertLess(relative_error(have, want[block]), 0.02)  # two blocks in bf16, in another order
        self.assertTrue(torch.equal(states[0][1], want[0]))

    @unittest.skipUnless(shutil.which("h5dump"), "h5dump comes with hdf5-tools")
    def test_h5dump_shows_bf16_as_numbers(self):
        want = self.hidden_states(torch.bfloat16)[0]
        self.boundaries("dumped", "true", 1)
        dump = subprocess.run(
            ["h5dump", "-d", "/hidden_states", "-s", "3,5,0", "-c", "1,1,8", "-y", "-m", "%.17g",
             self.folder / "dumped.run" / "boundary-00000.h5"], capture_output=True, text=True, check=True).stdout
        self.assertIn("16-bit little-endian floating-point", dump)
        shown = [float(x) for x in dump.split("DATA {")[1].split("}")[0].split(",")]
        self.assertEqual(shown, want[3, 5, :8].tolist())


if __name__ == "__main__":
    unittest.main()
