"""Settings of single layers, recipes and blocks that are tuned together, as a user meets them."""

import json
import unittest

import tiny_model
import program
from bad_input_test import BAD_INPUT, BadInputCase

RULES = {"model.layers.0.mlp.up_proj": {"bits": 8}, "[qk]_proj": {"bits": 2, "group_size": 64},
         ".*v_proj": {"scheme": "asym"}, "layers.1.mlp.gate": {"bits": 16}}


class LayerRulesTest(BadInputCase):
    def test_rules_that_match_nothing(self):
        for key, value in (("weight_config", {"mlp.donw_proj": {"bits": 8}}),
                           ("weight_config", {"q_proj": {"bits": 8}, "layers.[23].*": {"bits": 8}}),
                           ("ignore_layers", ["lm_heads"])):
            rule = list(value)[-1]
            self.refuse({f"quantization.{key}": value}, f"quantization.{key} '{rule}': matches no layer",
                        "model.layers.N.NAME with N from 0 to 1", "mlp.down_proj")

    def test_values_that_are_ill(self):
        for settings, word in (({"bits": 7}, "expected 2, 3, 4, 8 or 16, found '7'"),
                               ({"group_size": -2}, "group_size"), ({"scheme": "both"}, "sym or asym"),
                               ({"bit": 4}, "did you mean bits?"), ({}, "expected settings")):
            self.refuse({"quantization.weight_config": {"q_proj": settings}}, "config.yaml:", "q_proj", word,
                        ranks=(1,))
        self.refuse({"quantization.weight_config": {"q_proj[": {"bits": 4}}}, "is not a regular expression", ranks=(1,))

    def test_every_layer_kept_is_refused(self):
        self.refuse({"quantization.ignore_layers": ["model.layers"]}, "no layer can be quantized", ranks=(1,))

    def test_head(self):
        for rules in ({"quantization.quant_lm_head": True}, {"quantization.weight_config": {"lm_head": {"bits": 8}}}):
            self.assertIn("lm_head      ", self.succeed(["plan", self.config(rules)]).out)
        for rules in ({}, {"quantization.ignore_layers": ["lm_head"]},
                      {"quantization.weight_config": {"lm_head": {"bits": 16}}}):
            self.assertNotIn("lm_head      ", self.succeed(["plan", self.config(rules)]).out)
        tiny_model.make_model(self.folder / "tied", num_hidden_layers=1, tie_word_embeddings=True)
        self.refuse({"model.path": str(self.folder / "tied"), "quantization.quant_lm_head": True},
                    "quantization.quant_lm_head", "tie_word_embeddings", ranks=(1,))

    def test_momentum_is_signrounds(self):
        self.refuse({"tuning.momentum": 0.5, "tuning.optimizer": "adamw"}, "tuning.momentum", "signround", ranks=(1,))

    def test_what_is_planned_and_written(self):
        config = self.config({"quantization.weight_config": RULES,
                              "quantization.ignore_layers": ["o_proj", "layers.0.mlp.down"]})
        plan = self.succeed(["plan", config]).out
        for line in ("2 bits, sym, groups of 64: 4 layers", "4 bits, asym, groups of 32: 2 layers",
                     "4 bits, sym, groups of 32: 3 layers", "8 bits, sym, groups of 32: 1 layers",
                     "self_attn.o_proj stays in 16 bits: quantization.ignore_layers 'o_proj'",
                     "mlp.down_proj (block 0) stays in 16 bits: quantization.ignore_layers 'layers.0.mlp.down'",
                     "mlp.gate_proj (block 1) stays in 16 bits: quantization.weight_config 'layers.1.mlp.gate'"):
            self.assertIn(line, plan)
        self.succeed(["quantize", config], 2)
        written = json.loads((self.folder / "out" / "config.json").read_text())["quantization_config"]
        kept = {"bits": 16, "data_type": "float"}
        expected = {"model.layers.0.mlp.up_proj": {"bits": 8}, "model.layers.0.mlp.down_proj": kept,
                    "model.layers.1.mlp.gate_proj": kept}
        for block in (0, 1):
            attention = f"model.layers.{block}.self_attn"
            expected |= {f"{attention}.q_proj": {"bits": 2, "group_size": 64},
                         f"{attention}.k_proj": {"bits": 2, "group_size": 64},
                         f"{attention}.v_proj": {"bits": 4, "sym": False}, f"{attention}.o_proj": kept}
        self.assertEqual(written["extra_config"], expected)
        # Another rule is another run.
        self.fail_with(["quantize", self.config({"quantization.weight_config": {"q_proj": {"bits": 8}}})], 1, BAD_INPUT,
                       "quantization.weight_config", "quantization.ignore_layers", "choose another output.path")

    def test_layers_of_zeros(self):
        """Scales at their least are stored in fp16 as they were tuned."""
        from safetensors.torch import load_file, save_file
        model = self.model()
        tensors = load_file(model / "model.safetensors")
        tensors["model.layers.0.mlp.up_proj.weight"][3:9] = 0
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        for scheme in ("sym", "asym"):
            self.succeed(["quantize", self.config({"model.path": str(model), "quantization.scheme": scheme})])
            self.tearDown()


class RecipeTest(BadInputCase):
    def test_values_are_in_the_resolved_config(self):
        config = self.config({"tuning.recipe": "light", "tuning.iters": 1, "tuning.batch_size": None})
        self.succeed(["quantize", config])
        resolved = (self.folder / "out.run" / "config.yaml").read_text()
        for line in ("recipe: light", "iters: 1\n", "batch_size: 8\n", "lr: 0.005\n", "seqlen: 16\n", "n_samples: 8\n"):
            self.assertIn(line, resolved)

    def test_rtn_needs_one_sample(self):
        config = self.config({"tuning.recipe": "rtn", "tuning.iters": None, "calibration.n_samples": None})
        self.succeed(["quantize", config], 2)


class JointBlocksTest(BadInputCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tiny_model.make_model(cls.folder / "three", num_hidden_layers=3)

    def test_blocks_share_losses_and_a_restart_tunes_them_anew_together(self):
        config = self.config({"model.path": str(self.folder / "three"), "tuning.n_blocks": 2, "parallel.stages": 1})
        self.succeed(["quantize", config], 2)
        losses = {event["block"]: event["losses"] for event in program.events(self.folder / "out.run")
                  if "losses" in event}
        self.assertEqual(losses[0], losses[1])
        self.assertNotEqual(losses[0], losses[2])
        before = program.digests(self.folder / "out")
        shards = sorted(self.folder.glob("out/model-*.safetensors"))
        shards[1].unlink()
        result = self.succeed(["quantize", config], 2)
        self.assertIn("tuned again", result.err)
        self.assertEqual(program.digests(self.folder / "out"), before)
        blocks = [event["block"] for event in program.events(self.folder / "out.run") if "losses" in event]
        self.assertEqual(blocks, [0, 1, 2, 0, 1, 2])

    def test_a_stage_holds_whole_units_without_quantized_input(self):
        config = self.config({"model.path": str(self.folder / "three"), "tuning.n_blocks": 2,
                              "tuning.use_quant_input": False})
        self.assertEqual(self.succeed(["plan", config, "--json"]).json["stages"], 2)
        self.succeed(["quantize", config], 2)


if __name__ == "__main__":
    unittest.main()
