"""Formats of one run and conversions between them: the same integers everywhere, the same bytes at any number of ranks."""

import json
import re
import shutil
import unittest

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import program
import tiny_model
from bad_input_test import BAD_INPUT, NUMERIC

FIRST = "auto_round:auto_gptq"
PACKED = ["auto_round", "auto_round:auto_awq", "auto_gptq", "auto_awq", "llm_compressor"]
OTHERS = PACKED + ["qdq"]


def folder_of(name):
    return name.replace(":", "-")


def weights(directory):
    """Every tensor by name; the files open in the `safetensors` package."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():
                assert name not in found
                found[name] = file.get_tensor(name)
    return found


def files(directory):
    return {name: digest for name, digest in program.digests(directory).items() if "/" not in name}


class ConvertCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.settings = tiny_model.make_inputs(cls.folder, rows=8, seqlen=16, family="qwen2", dtype=torch.bfloat16,
                                              num_hidden_layers=2) | {"tuning.iters": 2}
        (cls.folder / "model" / "LICENSE").write_text("as you like\n")
        (cls.folder / "model" / "chat_template.jinja").write_text("{{ messages }}\n")
        (cls.folder / "model" / "additional_chat_templates").mkdir()
        (cls.folder / "model" / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}\n")
        (cls.folder / "model" / "hf_quant_config.json").write_text("{}")

    def quantize(self, name, changes, ranks=1):
        config = program.write_config(self.folder / f"{name}.yaml", self.settings | {
            "output.path": str(self.folder / name)} | changes)
        return self.folder / name, self.succeed(["quantize", config, "--json"], ranks)

    def convert(self, source, name, format, ranks=1, *options):
        output = self.folder / name
        self.succeed(["convert", source, "--format", format, "--output", output, *options], ranks)
        return output


class ConvertTest(ConvertCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.outputs = {}
        for scheme in ("sym", "asym"):
            config = program.write_config(cls.folder / f"{scheme}.yaml", cls.settings | {
                "output.path": str(cls.folder / scheme), "output.formats": [FIRST] + OTHERS,
                "quantization.scheme": scheme})
            cls.outputs[scheme] = program.run(["quantize", config, "--json"], 2)

    def setUp(self):
        for scheme, result in self.outputs.items():
            self.assertEqual(result.code, 0, f"{scheme}: {result}")

    def test_a_run_writes_what_convert_writes(self):
        for scheme in self.outputs:
            for format in OTHERS:
                inside = self.folder / scheme / folder_of(format)
                for ranks in (1, 2):
                    made = self.convert(self.folder / scheme, f"{scheme}-{folder_of(format)}-{ranks}", format, ranks)
                    self.assertEqual(files(made), files(inside), f"{scheme}, {format}, {ranks} ranks")

    def test_every_format_leads_back(self):
        for scheme in self.outputs:
            want = weights(self.folder / scheme)
            for format in PACKED:
                back = weights(self.convert(self.folder / scheme / folder_of(format),
                                            f"{scheme}-{folder_of(format)}-back", FIRST))
                self.assertEqual(set(back), set(want))
                for name in want:
                    self.assertEqual(back[name].dtype, want[name].dtype, name)
                    self.assertTrue(torch.equal(back[name], want[name]), f"{scheme}, {format}: {name}")
                self.check_iters(scheme, format)

    def check_iters(self, scheme, format):
        """A config says how many iterations there were, or nothing where the source does not know it."""
        settings = json.loads((self.folder / f"{scheme}-{folder_of(format)}-back" / "config.json").read_text())
        iters = 2 if format.startswith("auto_round") else None
        self.assertEqual(settings["quantization_config"].get("iters"), iters, format)

    def test_what_goes_along(self):
        for directory in [self.folder / "sym"] + [self.folder / "sym" / folder_of(f) for f in OTHERS]:
            for name in ("LICENSE", "chat_template.jinja", "generation_config.json", "tokenizer.json",
                         "additional_chat_templates/tools.jinja"):
                self.assertEqual((directory / name).read_bytes(), (self.folder / "model" / name).read_bytes())
            self.assertFalse((directory / "hf_quant_config.json").exists())
        config = json.loads((self.folder / "sym" / "qdq" / "config.json").read_text())
        self.assertNotIn("quantization_config", config)
        gptq = self.folder / "sym" / "auto_gptq"
        self.assertEqual(json.loads((gptq / "quantize_config.json").read_text()),
                         json.loads((gptq / "config.json").read_text())["quantization_config"])

    def test_the_sizes_are_those_of_every_format(self):
        result = self.outputs["sym"]
        folders = {FIRST: self.folder / "sym"} | {f: self.folder / "sym" / folder_of(f) for f in OTHERS}
        sizes = {name: sum(p.stat().st_size for p in folder.glob("*.safetensors")) for name, folder in folders.items()}
        self.assertEqual(result.json["bytes"]["formats"], sizes)
        self.assertEqual(result.json["bytes"]["after"], sizes[FIRST])
        line, = re.findall("^size +.*$", result.out, re.M)
        for name in folders:
            self.assertRegex(line, rf" [0-9.]+ kB {name}(,|$)")
        # The forecast knows them without the files' headers, the vectors of biases, and what formats add for readers.
        disk, = re.findall("^  disk .*$", result.out, re.M)
        for name in OTHERS:
            number, unit = re.search(rf", {name} ([0-9.]+) (kB|MB)", disk).groups()
            self.assertAlmostEqual(float(number) * {"kB": 1e3, "MB": 1e6}[unit] / sizes[name], 1, delta=0.15)

    def test_qdq_is_the_models_own_type(self):
        for name, tensor in weights(self.folder / "sym" / "qdq").items():
            self.assertEqual(tensor.dtype, torch.bfloat16, name)

    def test_files_of_a_size(self):
        source = self.folder / "sym"
        whole = self.convert(source, "whole", "auto_awq")
        self.assertEqual([p.name for p in whole.glob("model*")], ["model.safetensors"])
        parts = self.convert(source, "parts", "auto_awq", 3, "--max-shard-size", "20KB")
        paths = sorted(parts.glob("*.safetensors"))
        self.assertGreater(len(paths), 3)
        index = json.loads((parts / "model.safetensors.index.json").read_text())
        held = {}
        for i, path in enumerate(paths):
            self.assertEqual(path.name, f"model-{i + 1:05d}-of-{len(paths):05d}.safetensors")
            tensors = load_file(path)
            size = sum(t.nbytes for t in tensors.values())
            self.assertTrue(size <= 20000 or len({n.rsplit(".", 1)[0] for n in tensors}) == 1, path)
            held |= {name: path.name for name in tensors}
        self.assertEqual(index["weight_map"], held)
        want, have = weights(whole), weights(parts)
        self.assertEqual(index["metadata"]["total_size"], sum(t.nbytes for t in want.values()))
        self.assertEqual(set(want), set(have))
        self.assertTrue(all(torch.equal(want[name], have[name]) for name in want))

    def test_the_same_command_goes_on(self):
        source = self.folder / "sym"
        output = self.convert(source, "again", "llm_compressor", 2, "--max-shard-size", "20KB")
        want = files(output)
        paths = sorted(output.glob("*.safetensors"))
        times = {p: p.stat().st_mtime_ns for p in paths}
        paths[0].unlink()
        content = bytearray(paths[1].read_bytes())
        content[-1] ^= 1
        paths[1].write_bytes(content)
        (output / "config.json").unlink()
        self.convert(source, "again", "llm_compressor", 1, "--max-shard-size", "20KB")
        self.assertEqual(files(output), want)
        self.assertTrue(all(p.stat().st_mtime_ns == times[p] for p in paths[2:]))  # proven, and kept

    def test_other_weights_in_the_output(self):
        """Readers would take them for the checkpoint: they are named, and stay."""
        parts = ["convert", self.folder / "sym", "--format", "auto_awq", "--output", self.folder / "stale",
                 "--max-shard-size", "20KB"]
        self.succeed(parts)
        single = self.folder / "stale" / "model.safetensors"
        single.write_bytes(b"mine")
        self.fail_with(parts, 2, BAD_INPUT, f"{single}: is not a file of this checkpoint", "move it to another folder")
        self.assertEqual(single.read_bytes(), b"mine")
        single.unlink()
        self.fail_with(parts[:-1] + ["30KB"], 1, BAD_INPUT, "another conversion", "max_shard_size")

    def test_directories_of_somebody_else(self):
        source = self.folder / "sym"
        other = self.folder / "other"
        other.mkdir()
        (other / "letter").write_text("mine")
        for ranks in (1, 2):
            self.fail_with(["convert", source, "--format", "qdq", "--output", other], ranks, BAD_INPUT, other,
                           "is not empty")
        self.assertEqual([p.name for p in other.iterdir()], ["letter"])
        self.convert(source, "taken", "qdq")
        self.fail_with(["convert", source, "--format", "auto_awq", "--output", self.folder / "taken"], 1, BAD_INPUT,
                       "another conversion", "format")

    def test_what_cannot_be_converted(self):
        output = self.folder / "none"
        for source, format, *words in (
                (self.folder / "model", "qdq", "is not quantized"),
                (self.folder / "sym" / "qdq", FIRST, "is not quantized"),
                (self.folder / "nowhere", FIRST, "nowhere"),
                (self.folder / "sym", "gptq", "--format", "'gptq' is not a format", "auto_gptq")):
            self.fail_with(["convert", source, "--format", format, "--output", output], 2, BAD_INPUT, *words)
            self.assertFalse(output.exists())
        self.fail_with(["convert", self.folder / "sym", "--format", "qdq", "--output", output, "--max-shard-size", "5"],
                       1, BAD_INPUT, "--max-shard-size", "5GB")

    def test_damaged_sources(self):
        source = self.folder / "damaged"
        for name, spoil, *words in (
                ("config", lambda c: c["quantization_config"].update(version="gemv"), "a format that cannot be read",
                 "auto_awq"),
                ("bits", lambda c: c["quantization_config"].update(bits=5), "bits"),
                ("group", lambda c: c["quantization_config"].update(group_size=64), "qzeros", "has shape")):
            shutil.rmtree(source, ignore_errors=True)
            shutil.copytree(self.folder / "sym" / "auto_awq", source)
            config = json.loads((source / "config.json").read_text())
            spoil(config)
            (source / "config.json").write_text(json.dumps(config))
            self.fail_with(["convert", source, "--format", "qdq", "--output", self.folder / f"from-{name}"], 2,
                           BAD_INPUT, *words)

        # The order of inputs that other tools store (act_order): without it the weights mean something else.
        shutil.rmtree(source)
        shutil.copytree(self.folder / "sym" / "auto_awq", source)
        tensors = load_file(source / "model.safetensors")
        name = "model.layers.0.mlp.up_proj.weight_g_idx"
        save_file(tensors | {name: torch.zeros(64, dtype=torch.int32)}, source / "model.safetensors")
        self.fail_with(["convert", source, "--format", "qdq", "--output", self.folder / "from-order"], 1, BAD_INPUT,
                       f"model.safetensors: tensor '{name}': is of type I32 and belongs to no quantized layer")

    def test_a_source_that_is_not_finite(self):
        source = self.folder / "nan"
        shutil.copytree(self.folder / "sym" / "auto_awq", source)
        tensors = load_file(source / "model.safetensors")
        tensors["model.norm.weight"][-1] = float("nan")
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        self.fail_with(["convert", source, "--format", FIRST, "--output", self.folder / "from-nan"], 1, NUMERIC,
                       f"{source}/model.safetensors: tensor 'model.norm.weight'", "is not finite")

    def test_a_zero_point_of_zero(self):
        """A format that stores zero points minus one cannot hold it, and says so."""
        source = self.folder / "zero"
        shutil.copytree(self.folder / "asym" / "auto_round", source)
        tensors = load_file(source / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.qzeros"][0, 0] &= ~0xF
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        self.fail_with(["convert", source, "--format", "auto_gptq", "--output", self.folder / "from-zero"], 2, BAD_INPUT,
                       "model.layers.1.mlp.up_proj", "zero point of 0", "formats that can: auto_round, ", "auto_awq")
        back = self.convert(self.convert(source, "zero-awq", "auto_awq"), "zero-back", "auto_round")
        self.assertTrue(torch.equal(weights(back)["model.layers.1.mlp.up_proj.qzeros"],
                                    tensors["model.layers.1.mlp.up_proj.qzeros"]))


class PlanTest(ConvertCase):
    def plan(self, changes):
        config = program.write_config(self.folder / "plan.yaml", self.settings | {
            "output.path": str(self.folder / "out")} | changes)
        return ["plan", config]

    def test_what_a_format_cannot_hold_is_refused_before_any_work(self):
        for changes, *words in (
                ({"output.formats": ["auto_awq"], "quantization.bits": 3}, "auto_awq cannot hold", "only 4 bits, not 3",
                 "formats that can: auto_round:auto_gptq, auto_round, auto_gptq, llm_compressor, qdq"),
                ({"output.formats": [FIRST, "auto_awq"],
                  "quantization.weight_config": {"up_proj": {"group_size": 64}}},
                 "auto_awq cannot hold", "mlp.up_proj has its own", "auto_round:auto_awq")):
            for command in (self.plan(changes), ["quantize", self.plan(changes)[1]]):
                self.fail_with(command, 1, BAD_INPUT, "output.formats", *words)
            self.assertFalse((self.folder / "out").exists())

    def test_who_does_not_read_asym(self):
        gptq = {"output.formats": ["auto_gptq"]}
        self.assertNotIn("GPTQModel", self.succeed(self.plan(gptq)).out)
        self.assertIn("GPTQModel 7.7 loads asym only", self.succeed(self.plan(gptq | {"quantization.scheme": "asym"})).out)

    def test_tensor_parallel_sizes_that_cut_a_group(self):
        out = self.succeed(self.plan({})).out
        self.assertIn("tensor parallelism over 4 or 8 devices would cut a group of self_attn.o_proj (64 inputs, groups of 32)",
                      out)
        self.assertIn("over 2 or 4 or 8 devices would cut a group of mlp.down_proj (96 inputs, groups of 32)", out)
        self.assertNotIn("tensor parallelism", self.succeed(self.plan({"quantization.group_size": -1})).out)

    def test_files_of_a_run_are_of_a_size(self):
        """Blocks that are too large for a file: the output is made from what was tuned. The head has a file of its own."""
        want = weights(self.quantize("large", {"output.max_shard_size": "70KB"})[0])
        self.assertEqual(len(list((self.folder / "large").glob("*.safetensors"))), 4)
        output, _ = self.quantize("small", {"output.max_shard_size": "12KB"}, 2)
        paths = list(output.glob("*.safetensors"))
        self.assertGreater(len(paths), 4)
        for path in paths:
            tensors = load_file(path)
            size = sum(t.nbytes for t in tensors.values())
            self.assertTrue(size <= 12000 or len({n.rsplit(".", 1)[0] for n in tensors}) == 1, path)
        have = weights(output)
        self.assertEqual(set(have), set(want))
        self.fail_with(self.plan({"output.max_shard_size": "5"}), 1, BAD_INPUT, "output.max_shard_size", "5GB")

    def test_other_weights_in_the_output(self):
        changes = {"tuning.iters": 0, "output.formats": [FIRST, "qdq"]}
        output, _ = self.quantize("leftovers", changes)
        config = self.folder / "leftovers.yaml"
        before = files(output)
        for name in ("model.safetensors", "model-00001-of-00002.safetensors", "consolidated.safetensors"):
            (output / name).write_bytes(b"mine")
            command = "plan" if name.startswith("model-") else "quantize"
            self.fail_with([command, config], 1, BAD_INPUT, f"{output / name}: is not a file of this checkpoint",
                           "move it to another folder")
            self.assertEqual((output / name).read_bytes(), b"mine")
            (output / name).unlink()
        self.assertEqual(files(output), before)
        self.fail_with(["quantize", config, "--set", "output.max_shard_size=12KB"], 1, BAD_INPUT,
                       "differs in: output.max_shard_size")
        self.assertEqual(files(output), before)

    def test_a_layer_that_one_format_cannot_hold_stays_in_16_bits_in_all(self):
        tiny_model.make_model(self.folder / "odd", intermediate_size=72, num_hidden_layers=1)
        for formats, stays in ((["qdq"], False), ([FIRST], True), (["qdq", FIRST], True)):
            out = self.succeed(self.plan({"model.path": str(self.folder / "odd"), "output.formats": formats,
                                          "quantization.group_size": -1})).out
            self.assertEqual("mlp.up_proj stays in 16 bits: its output dimension 72" in out, stays, out)

    def test_a_run_without_a_format_of_integers(self):
        """What a restart needs lies in the run's directory, and the output holds what was asked for alone."""
        output, _ = self.quantize("alone", {"output.formats": ["qdq"], "quantization.group_size": 64}, 2)
        self.assertIn("model.safetensors", files(output))
        self.assertNotIn("quantization_config", json.loads((output / "config.json").read_text()))
        tuned = self.folder / "alone.run" / "tuned"
        again = self.convert(tuned, "alone-again", "qdq")
        self.assertEqual(files(again), files(output))

    def test_mixed_schemes_in_every_format_that_holds_them(self):
        formats = [FIRST, "auto_round", "auto_gptq", "llm_compressor"]
        output, _ = self.quantize("mixed", {
            "output.formats": formats, "quantization.quant_lm_head": True,
            "quantization.weight_config": {"model.layers.0.mlp.up_proj": {"bits": 8}, "[qk]_proj": {"bits": 2},
                                           "v_proj": {"scheme": "asym"}, "gate_proj": {"group_size": -1, "bits": 3}},
            "quantization.ignore_layers": ["layers.1.mlp.down"]})
        want = weights(output)
        self.assertIn("lm_head.qweight", want)
        for format in formats[1:]:
            back = weights(self.convert(output / folder_of(format), f"mixed-{folder_of(format)}", FIRST))
            self.assertEqual(set(back), set(want))
            for name in want:
                self.assertTrue(torch.equal(back[name], want[name]), f"{format}: {name}")


if __name__ == "__main__":
    unittest.main()
