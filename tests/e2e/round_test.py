"""Rounding without a model: the bytes of `quantize` without steps, the same on any number of ranks and after a kill; an
architecture that nothing else knows; and what is refused."""

import json
import pathlib
import re
import shutil
import unittest

import torch
from safetensors.torch import load_file, save_file

import program
import tiny_model
from bad_input_test import BAD_INPUT, NUMERIC
from convert_test import files, folder_of, weights

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
INTEGERS = ["auto_round:auto_gptq", "auto_round", "auto_round:auto_awq", "auto_gptq", "auto_awq", "llm_compressor", "qdq"]


def sorted_lists(value):
    """The order in which a config lists layers means nothing."""
    if isinstance(value, dict):
        return {key: sorted_lists(inner) for key, inner in value.items()}
    return sorted(map(sorted_lists, value), key=str) if isinstance(value, list) else value


class RoundCase(program.Case):
    def round(self, name, changes=()):
        settings = {k: v for k, v in self.settings.items() if not k.startswith(("calibration", "tuning"))}
        config = program.write_config(self.folder / f"{name}.yaml", settings | {
            "output.path": str(self.folder / name)} | dict(changes))
        return ["round", config, "--json"]

    def made(self, name, changes=(), ranks=1):
        return self.folder / name, self.succeed(self.round(name, changes), ranks)


class RoundTest(RoundCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.settings = tiny_model.make_inputs(cls.folder, rows=4, seqlen=16, family="qwen2", dtype=torch.bfloat16,
                                              num_hidden_layers=2, shard_size="30KB")

    def hold_to_quantize(self, name, changes):
        settings = {"tuning.init_scale": "one"} | changes
        config = program.write_config(self.folder / f"{name}-tuned.yaml", self.settings | settings | {
            "tuning.iters": 0, "output.path": str(self.folder / f"{name}-tuned")})
        self.succeed(["quantize", config])
        output, result = self.made(name, settings)
        for i, format in enumerate(changes["output.formats"]):
            below = "" if i == 0 else folder_of(format)
            want, have = weights(self.folder / f"{name}-tuned" / below), weights(output / below)
            self.assertEqual(set(have), set(want), format)
            for tensor in want:
                self.assertEqual(have[tensor].dtype, want[tensor].dtype, tensor)
                self.assertTrue(torch.equal(have[tensor].view(torch.uint8), want[tensor].view(torch.uint8)),
                                f"{format}: {tensor}")
            configs = [json.loads((path / below / "config.json").read_text())
                       for path in (output, self.folder / f"{name}-tuned")]
            self.assertEqual(*map(sorted_lists, configs), format)
        return result

    def test_integers_are_those_of_quantize_without_steps(self):
        result = self.hold_to_quantize("asym", {"quantization.scheme": "asym", "output.formats": INTEGERS,
                                                "quantization.ignore_layers": ["layers.1.mlp.down"]})
        self.assertIn("mlp.down_proj (block 1) stays in 16 bits: quantization.ignore_layers 'layers.1.mlp.down'", result.out)
        self.assertEqual([f["format"] for f in result.json["formats"]], INTEGERS)

    def test_floats_and_the_head_are_those_of_quantize_without_steps(self):
        self.hold_to_quantize("nv", {"quantization.data_type": "nv_fp", "quantization.group_size": 16,
                                     "output.formats": ["nvfp4", "qdq"]})
        self.hold_to_quantize("mx", {"quantization.data_type": "mx_fp", "quantization.group_size": 32,
                                     "quantization.quant_lm_head": True, "output.formats": ["mxfp4"]})

    def test_any_number_of_ranks_and_a_kill(self):
        whole, result = self.made("one")
        self.assertGreater(result.json["formats"][0]["files"], 4)
        want = files(whole)
        for ranks in (2, 4):
            self.assertEqual(files(self.made(f"ranks-{ranks}", ranks=ranks)[0]), want, ranks)
        killed = self.folder / "killed"
        job = program.start(self.round("killed"), 2, **program.fault("*:fsync:1+:slow:/killed"))
        try:
            program.wait_for(lambda: any(pathlib.Path(f"{killed}.run").glob("*.digest")), job)
        finally:
            program.kill(job)
        left = {path: path.stat().st_mtime_ns for path in killed.glob("*.safetensors")
                if (pathlib.Path(f"{killed}.run") / f"{path.name}.digest").exists()}
        self.assertLess(len(left), result.json["formats"][0]["files"])
        damaged = min(left)
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
        again = self.made("killed")[1]
        self.assertEqual(files(killed), want)
        self.assertEqual(again.json["formats"][0]["kept"], len(left) - 1)
        for path in set(left) - {damaged}:
            self.assertEqual(path.stat().st_mtime_ns, left[path], path)
        # Scales are searched for by default: the result is nearer to the weights.
        nearest = self.made("nearest", {"tuning.init_scale": "one"})[0]
        self.assertNotEqual(files(nearest)["model-00002-of-%05d.safetensors" % result.json["formats"][0]["files"]],
                            want["model-00002-of-%05d.safetensors" % result.json["formats"][0]["files"]])
        self.fail_with(self.round("one", {"quantization.bits": 8}), 2, BAD_INPUT, whole, "differs in: quantization.bits")

    def test_what_is_refused(self):
        def spoilt(name, change):
            source = self.folder / f"{name}-model"
            shutil.copytree(self.folder / "model", source)
            change(source)
            return {"model.path": str(source)}

        def cut(source):
            path = sorted(source.glob("*.safetensors"))[1]
            path.write_bytes(path.read_bytes()[:-1])

        def not_finite(source):
            path = next(p for p in source.glob("*.safetensors") if "model.layers.1.mlp.up_proj.weight" in load_file(p))
            tensors = load_file(path)
            tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("inf")
            save_file(tensors, path, metadata={"format": "pt"})

        def quantized(source):
            config = json.loads((source / "config.json").read_text())
            (source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))

        other = self.folder / "other"
        other.mkdir()
        (other / "letter").write_text("mine")
        for code, changes, *words in (
                (BAD_INPUT, spoilt("cut", cut), "model-00002-of-"),
                (NUMERIC, spoilt("inf", not_finite), "model.layers.1.mlp.up_proj.weight", "is not finite"),
                (BAD_INPUT, spoilt("quantized", quantized), "config.json", "gptq", "the weights are floats"),
                (BAD_INPUT, {"quantization.ignore_layers": ["up_prj"]}, "quantization.ignore_layers 'up_prj'",
                 "matches no layer that is quantized", "model.layers.N.NAME with N from 0 to 1 and NAME of mlp.down_proj"),
                (BAD_INPUT, {"output.formats": ["auto_awq"], "quantization.bits": 3}, "output.formats", "only 4 bits"),
                (BAD_INPUT, {"output.path": str(other)}, "other", "is not empty (letter)")):
            shutil.rmtree(self.folder / "refused", ignore_errors=True)
            self.fail_with(self.round("refused", changes), 2 if code == NUMERIC else 1, code, *words)
            self.assertEqual((self.folder / "refused").exists(), code == NUMERIC)  # that is found while it works
        self.assertEqual([p.name for p in other.iterdir()], ["letter"])


class StrangeTest(RoundCase):
    """An architecture that no graph, no engine and no family knows."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        model = cls.folder / "model"
        model.mkdir()
        torch.manual_seed(1)
        cls.kept = {
            "core.words_embed.weight": [300, 64], "core.final_norm.weight": [64], "lm_head.weight": [300, 64],
            "eyes.vision_stack.layers.0.attn.qkv.weight": [192, 64], "eyes.patch_embed.conv.weight": [64, 3, 4, 4],
            "mtp.layers.0.mixer.weight": [64, 64],
        }
        rounded = {}
        for n in range(3):
            at = f"core.stages.{n}"
            cls.kept |= {f"{at}.pre_norm.weight": [64], f"{at}.blend.router.weight": [4, 64], f"{at}.mixer.decay": [64],
                         f"{at}.mixer.conv1d.weight": [64, 1, 4], f"{at}.mixer.wide.bias": [96]}
            rounded |= {f"{at}.mixer.wide.weight": [96, 64], f"{at}.mixer.narrow.weight": [64, 96],
                        f"{at}.blend.experts.gate_up_proj": [4, 64, 128], f"{at}.blend.experts.down_proj": [4, 64, 64]}
        cls.tensors = {name: torch.randn(shape).to(torch.bfloat16) * 0.1 for name, shape in (cls.kept | rounded).items()}
        names = sorted(cls.tensors)
        index = {name: f"part-{i * 3 // len(names)}.safetensors" for i, name in enumerate(names)}
        for file in set(index.values()):
            save_file({n: t for n, t in cls.tensors.items() if index[n] == file}, model / file, metadata={"format": "pt"})
        (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        (model / "config.json").write_text(json.dumps({"model_type": "made_up", "vocab_size": 300,
                                                       "text_config": {"num_hidden_layers": 3}}))
        cls.settings = {"model.path": str(model), "quantization.group_size": 32, "parallel.threads": 1}

    def test_its_matrices_are_rounded_and_the_rest_is_copied(self):
        output, result = self.made("out", {"output.formats": ["auto_round", "qdq"]}, 2)
        self.assertIn("30 of 33 are rounded", result.out)
        have, floats = weights(output), weights(output / "qdq")
        self.assertEqual(set(floats), set(self.tensors))
        for name, tensor in self.tensors.items():
            if name in self.kept:
                self.assertTrue(torch.equal(have[name], tensor.to(have[name].dtype)), name)
                self.assertTrue(torch.equal(floats[name], tensor), name)
                continue
            error = (floats[name].float() - tensor.float()).norm() / tensor.float().norm()
            self.assertTrue(0.01 < error < 0.12, f"{name}: {error}")
        # Gate and up lie [in, out] here, which only down's shape tells: [4, 64, 128] and [4, 64, 64].
        layers = {name.removesuffix(".qweight") for name in have if name.endswith(".qweight")}
        self.assertEqual(len(layers), 3 * (2 + 4 * 3))
        self.assertIn("core.stages.2.blend.experts.3.up_proj", layers)
        config = json.loads((output / "config.json").read_text())["quantization_config"]
        self.assertIn("core.stages", config["block_name_to_quantize"])

    def test_what_cannot_be_is_said(self):
        self.fail_with(self.round("gguf", {"output.formats": ["gguf"]}), 1, BAD_INPUT, "output.formats",
                       "gguf cannot hold this: 'made_up' models are not written")
        self.fail_with(self.round("router", {"quantization.weight_config": {"router": {"bits": 8}}}), 1, BAD_INPUT,
                       "quantization.weight_config 'router'", "never quantized, such as blend.router")
        self.assertFalse((self.folder / "gguf").exists())


class NamesTest(unittest.TestCase):
    def test_the_names_of_kept_layers_are_those_of_graphs(self):
        """Two tables, since one is read where there is no Python: they say the same."""
        theirs = re.findall(r'^    Kept\(r"(.*?)",', (ROOT / "launch/graph_export/roles.py").read_text(), re.MULTILINE)
        ours = re.findall(r'^      \{R"\((.*?)\)",', (ROOT / "src/round/names.cc").read_text(), re.MULTILINE)
        self.assertGreater(len(theirs), 10)
        self.assertEqual(ours, theirs)


if __name__ == "__main__":
    unittest.main()
