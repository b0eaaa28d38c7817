"""What a user can get wrong: one line that names the place and the fix, an exit code, and nothing overwritten."""

import hashlib
import itertools
import json
import os
import pathlib
import shutil
import struct
import unittest
import unittest.mock

import torch
from safetensors.torch import load_file, save_file

import program
import tiny_model

BAD_INPUT, NUMERIC = 2, 4


def read_header(path):
    bytes = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", bytes[:8])[0]
    return json.loads(bytes[8:8 + size]), bytes[8 + size:]


def write_header(path, header, data):
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


class BadInputCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.settings = tiny_model.make_inputs(cls.folder, rows=8, seqlen=16, num_hidden_layers=2) | {
            "tuning.iters": 2,
            "output.path": str(cls.folder / "out"),
        }

    def tearDown(self):
        for suffix in ("", ".run"):
            shutil.rmtree(f"{self.folder / 'out'}{suffix}", ignore_errors=True)

    def config(self, changes):
        settings = {key: value for key, value in (self.settings | changes).items() if value is not None}
        return program.write_config(self.folder / "config.yaml", settings)

    def model(self, name="broken"):
        """A copy of the model, to be spoilt."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.folder / "model", path)
        return path

    turn = itertools.cycle([(1,), (2,)])

    def refuse(self, changes, *words, code=BAD_INPUT, ranks=None, may_write=False):
        """The settings with `changes` are refused, with `words` in the line. Cases run at 1 and at 2 ranks in turn: rank 0 finds
        the fault, and the ranks agree on it by the same code for every case."""
        config = self.config(changes)
        for n in ranks or next(self.turn):
            with self.subTest(ranks=n, words=words):
                self.fail_with(["quantize", config], n, code, *words)
                if not may_write:
                    self.assertFalse((self.folder / "out").exists())
                    self.assertFalse((self.folder / "out.run").exists())
                # A reader takes a directory with this file for a model.
                self.assertFalse((self.folder / "out" / "config.json").exists())
                self.tearDown()


class FilesTest(BadInputCase):
    def test_missing_model(self):
        self.refuse({"model.path": str(self.folder / "nowhere")}, self.folder / "nowhere", "config.json")

    def test_missing_token_set(self):
        self.refuse({"calibration.tokens": str(self.folder / "nowhere.safetensors")},
                    self.folder / "nowhere.safetensors")

    def test_missing_evaluation_tokens(self):
        self.refuse({"run.eval_tokens": str(self.folder / "nowhere.safetensors")},
                    self.folder / "nowhere.safetensors")

    def test_a_token_set_that_is_none(self):
        save_file({"ids": torch.zeros(2, 2)}, self.folder / "other.safetensors")
        self.refuse({"calibration.tokens": str(self.folder / "other.safetensors")}, "is not a token set",
                    "launch/prepare_calibration.py")

    def test_model_without_weights(self):
        model = self.model()
        (model / "model.safetensors").unlink()
        self.refuse({"model.path": str(model)}, model, "safetensors")

    def test_truncated_safetensors(self):
        model = self.model()
        os.truncate(model / "model.safetensors", os.path.getsize(model / "model.safetensors") - 100)
        self.refuse({"model.path": str(model)}, model / "model.safetensors")

    def test_empty_safetensors(self):
        model = self.model()
        os.truncate(model / "model.safetensors", 0)
        self.refuse({"model.path": str(model)}, model / "model.safetensors")

    def test_truncated_token_set(self):
        path = self.folder / "short.safetensors"
        path.write_bytes((self.folder / "tokens.safetensors").read_bytes()[:-4])
        self.refuse({"calibration.tokens": str(path)}, path)

    def test_header_longer_than_the_file(self):
        model = self.model()
        bytes = (model / "model.safetensors").read_bytes()
        for length, ranks in ((len(bytes), (1, 2)), (1 << 40, (1,)), ((1 << 64) - 1, (1,))):
            (model / "model.safetensors").write_bytes(struct.pack("<Q", length) + bytes[8:])
            self.refuse({"model.path": str(model)}, model / "model.safetensors", "header", ranks=ranks)

    def test_offsets_that_overlap(self):
        self.spoil_header("model.layers.0.mlp.up_proj.weight", lambda entry, header:
                          entry.update(data_offsets=header["model.layers.0.mlp.gate_proj.weight"]["data_offsets"]))

    def test_offsets_that_overflow(self):
        self.spoil_header("model.layers.0.mlp.up_proj.weight", lambda entry, _:
                          entry.update(data_offsets=[(1 << 64) - 8, (1 << 64) - 1]))

    def test_offsets_beyond_the_file(self):
        self.spoil_header("model.norm.weight", lambda entry, _:  # the last one: elsewhere it would leave a hole
                          entry.update(data_offsets=[o + (1 << 32) for o in entry["data_offsets"]]))

    def test_shape_that_disagrees_with_its_bytes(self):
        self.spoil_header("model.layers.0.mlp.up_proj.weight", lambda entry, _: entry.update(shape=[96, 65]))

    def test_shape_whose_product_overflows(self):
        self.spoil_header("model.layers.0.mlp.up_proj.weight", lambda entry, _:
                          entry.update(shape=[1 << 33, 1 << 33]))

    def test_shape_that_disagrees_with_the_config(self):
        self.spoil_header("model.layers.0.mlp.up_proj.weight", lambda entry, _: entry.update(shape=[64, 96]))

    def test_missing_tensor(self):
        model = self.model()
        tensors = load_file(model / "model.safetensors")
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, model / "model.safetensors")
        self.refuse({"model.path": str(model)}, model, "model.layers.1.mlp.up_proj.weight")

    def test_a_tensor_too_many(self):
        model = self.model()
        tensors = load_file(model / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.bias"] = torch.zeros(96)
        save_file(tensors, model / "model.safetensors")
        self.refuse({"model.path": str(model)}, model, "model.layers.1.mlp.up_proj.bias")

    def test_types_of_tensors(self):
        model = self.model()
        for tensor, dtype, word in (("lm_head.weight", torch.int8, "I8"), ("model.norm.weight", torch.float64, "F64"),
                                    ("model.layers.1.mlp.up_proj.weight", torch.float8_e4m3fn, "F8_E4M3")):
            tensors = load_file(self.folder / "model" / "model.safetensors")
            save_file(tensors | {tensor: tensors[tensor].to(dtype)}, model / "model.safetensors")
            self.refuse({"model.path": str(model)}, f"{model}/model.safetensors: tensor '{tensor}': is of type {word}",
                        "convert it, or quantize from the float model")

    def test_stale_quantization_config(self):
        model = self.model()
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
        self.refuse({"model.path": str(model)}, f"{model}/config.json: key 'quantization_config': says that",
                    "(fp8), and the weights are floats", "remove the key")

    def test_a_single_file_next_to_shards(self):
        tiny_model.make_model(self.folder / "both", num_hidden_layers=2, shard_size="100KB")
        shutil.copy(self.folder / "model" / "model.safetensors", self.folder / "both")
        self.refuse({"model.path": str(self.folder / "both")}, "holds model.safetensors and model.safetensors.index.json",
                    "remove the one that is out of date")

    def spoil_header(self, tensor, change):
        model = self.model()
        header, data = read_header(model / "model.safetensors")
        change(header[tensor], header)
        write_header(model / "model.safetensors", header, data)
        self.refuse({"model.path": str(model)}, model / "model.safetensors", tensor)


class SettingsTest(BadInputCase):
    def edit_config_json(self, **changes):
        model = self.model()
        config = json.loads((model / "config.json").read_text()) | changes
        (model / "config.json").write_text(json.dumps(config))
        return {"model.path": str(model)}

    def test_architecture_that_is_not_supported(self):
        self.refuse(self.edit_config_json(model_type="lama", architectures=["LamaForCausalLM"]),
                    "config.json", "model_type", "does not know 'lama'")

    def test_samples_beyond_the_learned_positions(self):
        tiny_model.make_model(self.folder / "gpt2", "gpt2", num_hidden_layers=1, max_position_embeddings=12)
        settings = {"model.path": str(self.folder / "gpt2")}
        line = "gpt2/config.json: max_position_embeddings: the model has 12 positions, and samples have 16 tokens"
        self.refuse(settings, line, ranks=(1,))
        settings |= {"calibration.seqlen": 8, "run.eval_tokens": str(self.folder / "tokens.safetensors")}
        self.refuse(settings, line, ranks=(1,))
        self.fail_with(["eval", self.config(settings)], 2, BAD_INPUT, line)

    def test_config_json_that_is_not_json(self):
        model = self.model()
        (model / "config.json").write_text('{"model_type": ')
        self.refuse({"model.path": str(model)}, model / "config.json")

    def test_token_id_outside_the_vocabulary(self):
        for id, ranks in ((tiny_model.VOCAB, (1, 2)), (-1, (1,))):
            path = self.folder / "outside.safetensors"
            ids = tiny_model.make_tokens(path, rows=8, seqlen=16)
            ids[5, 7] = id
            tiny_model.make_tokens(path, ids=ids)
            line = f"token id {id} (sample 5, position 7) is outside the vocabulary of 512"
            self.refuse({"calibration.tokens": str(path)}, path, line, "this model's tokenizer", ranks=ranks)
            self.refuse({"run.eval_tokens": str(path)}, path, line, ranks=ranks)

    def test_tokens_of_another_tokenizer(self):
        ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=8, seqlen=16)
        right = hashlib.sha256((self.folder / "model" / "tokenizer.json").read_bytes()).hexdigest()
        for name, digest in (("right", right), ("wrong", hashlib.sha256(b"another").hexdigest())):
            tiny_model.make_tokens(self.folder / f"{name}.safetensors", ids=ids, tokenizer_sha256=digest)
        wrong, right = str(self.folder / "wrong.safetensors"), str(self.folder / "right.safetensors")
        words = (wrong, f"made with another tokenizer than {self.folder / 'model' / 'tokenizer.json'}",
                 "calibration.check_tokenizer=false")
        for key in ("calibration.tokens", "run.eval_tokens"):
            self.refuse({key: wrong}, *words)
        self.fail_with(["eval", self.config({"run.eval_tokens": wrong})], 1, BAD_INPUT, *words)
        self.succeed(["plan", self.config({"calibration.tokens": right})])
        allowed = self.config({"calibration.tokens": wrong, "calibration.check_tokenizer": False})
        self.assertRegex(self.succeed(["plan", allowed]).out, "warning +.*wrong.safetensors: was made with another tok")

    def test_more_samples_than_there_are(self):
        self.refuse({"calibration.n_samples": 9}, "tokens.safetensors", "9 samples are asked for and it holds 8")

    def test_longer_samples_than_there_are(self):
        self.refuse({"calibration.seqlen": 17}, "tokens.safetensors", "seqlen 17")

    def test_format_that_does_not_exist(self):
        self.refuse({"output.formats": ["qdq", "ggml"]}, "output.formats: 'ggml' is not a format", "did you mean gguf?",
                    "formats: auto_round:auto_gptq, ", ranks=(1,))

    def test_fewer_samples_than_a_batch(self):
        self.refuse({"calibration.n_samples": 3}, "calibration.n_samples", "batch")

    def test_shards_that_do_not_divide(self):
        config = self.config({"tuning.batch_size": 3, "parallel.shards": 2})
        self.fail_with(["quantize", config], 2, BAD_INPUT, "parallel.shards")  # the strata
        self.refuse({"parallel.shards": 4}, "parallel.shards")  # the ranks
        self.assertFalse((self.folder / "out").exists())

    def test_more_stages_than_blocks(self):
        self.refuse({"parallel.stages": 3}, "parallel.stages", "2 blocks")

    def test_no_layer_can_be_quantized(self):
        self.refuse({"quantization.group_size": 7}, "quantization: no layer can be quantized: ",
                    "(and 6 other kinds of layers); the group_size is 7: choose one that divides")
        line = program.run(["plan", self.config({"quantization.group_size": 7})]).errors[0]
        self.assertLess(len(line), 300, line)

    def test_nccl_without_a_gpu(self):
        with unittest.mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):
            nccl = {"parallel.backend": "nccl"}
            words = "CUDA devices are asked for, and there is none here"
            self.refuse(nccl, f"parallel.backend: nccl: {words}", "set parallel.backend: mpi", ranks=(1, 2))
            self.fail_with(["plan", self.config(nccl)], 1, BAD_INPUT, f"parallel.backend: nccl: {words}")
            self.refuse({"cluster.nodes": 1}, f"(--cluster): {words}")
            # The cluster that is described has devices, whatever the login node has.
            self.succeed(["plan", self.config(nccl | {"cluster.nodes": 1})])
        with unittest.mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES="", SLURM_GPUS_ON_NODE="8"):
            self.refuse({}, f"this Slurm job, which has GPUs (SLURM_GPUS_ON_NODE=8): {words}")
            self.succeed(["plan", self.config({"parallel.backend": "mpi"})])

    def test_required_keys(self):
        for key in ("model.path", "calibration.tokens", "output.path"):
            self.refuse({key: None}, key, ranks=(1, 2) if key == "model.path" else (1,))

    def test_output_that_holds_another_run(self):
        output = self.folder / "out"
        self.succeed(["quantize", self.config({})])
        before = program.digests(output) | program.digests(f"{output}.run")
        for ranks in (1, 2):
            self.fail_with(["quantize", self.config({"quantization.bits": 8})], ranks, BAD_INPUT,
                           output, "quantization.bits", "choose another output.path")
            self.assertEqual(program.digests(output) | program.digests(f"{output}.run"), before)

    def test_output_that_holds_something_else(self):
        output = self.folder / "out"
        output.mkdir()
        (output / "thesis.txt").write_text("ten years of work")
        for ranks in (1, 2):
            self.fail_with(["quantize", self.config({})], ranks, BAD_INPUT, output, "is not empty",
                           "choose another output.path")
            self.assertEqual([p.name for p in output.iterdir()], ["thesis.txt"])
            self.assertFalse(pathlib.Path(f"{output}.run").exists())

    def test_output_that_is_the_model(self):
        before = program.digests(self.folder / "model")
        self.fail_with(["quantize", self.config({"output.path": str(self.folder / "model")})], 1, BAD_INPUT,
                       "is not empty")
        self.assertEqual(program.digests(self.folder / "model"), before)
        self.assertFalse((self.folder / "model.run").exists())

    def test_output_below_a_file(self):
        (self.folder / "file").write_text("")
        self.refuse({"output.path": str(self.folder / "file" / "out")}, self.folder / "file")


class NumbersTest(BadInputCase):
    """Not finite: in a file, or on the way."""

    def spoil(self, tensor, change, name="broken"):
        model = self.model(name)
        tensors = load_file(model / "model.safetensors")
        change(tensors[tensor])
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        return {"model.path": str(model), "tuning.amp": False}

    def test_weights_whose_products_overflow(self):
        changes = self.spoil("model.layers.1.post_attention_layernorm.weight", lambda w: w.mul_(1e30))
        self.refuse(changes, "block 1: ", "the loss is", "layer mlp.", code=NUMERIC, may_write=True)
        # Two groups: the other one does not know of it, and must not wait for ever.
        changes |= {"parallel.shards": 1, "parallel.stages": 2}
        self.refuse(changes, "block 1: ", "layer mlp.", code=NUMERIC, ranks=(2,), may_write=True)

    def test_scale_beyond_fp16(self):
        """Named with its layer and weight before anything is tuned, at any number of iterations."""
        outlier = self.spoil("model.layers.1.mlp.up_proj.weight", lambda w: w[3, 5].fill_(-1e7))
        words = ("layer 'model.layers.1.mlp.up_proj': its largest weight is 1e+07: a scale of 1.25e+06",
                 "fp16 ends at 65504", "quantization.ignore_layers")
        head = self.spoil("lm_head.weight", lambda w: w[3, 5].fill_(1e7), "head") | {"quantization.quant_lm_head": True}
        for changes, ranks, *words in ((outlier | {"tuning.iters": 0}, 1, *words), (outlier, 2, *words),
                                       (head, 1, "layer 'lm_head': its largest weight is 1e+07")):
            for start in (1, 2):  # what was found once is found again
                self.fail_with(["quantize", self.config(changes)], ranks, NUMERIC, *words)
                self.assertEqual(list((self.folder / "out").iterdir()), [])
            self.tearDown()

    def test_weight_that_is_not_finite(self):
        for value, ranks in ((float("nan"), (1, 2)), (float("inf"), (1,))):
            changes = self.spoil("model.layers.1.self_attn.k_proj.weight", lambda w: w[3, 5].fill_(value))
            self.refuse(changes, "model.layers.1.self_attn.k_proj.weight", code=NUMERIC, ranks=ranks, may_write=True)

    def test_norm_and_embedding_that_are_not_finite(self):
        for tensor in ("model.layers.0.input_layernorm.weight", "model.embed_tokens.weight"):
            changes = self.spoil(tensor, lambda w: w.view(-1)[:].fill_(float("nan")))
            self.refuse(changes, tensor, code=NUMERIC, ranks=(1,), may_write=True)

    def test_what_is_only_copied_is_looked_at_before_a_block_is_tuned(self):
        for tensor, value in (("lm_head.weight", float("nan")), ("model.norm.weight", float("inf")),
                              ("model.layers.1.mlp.down_proj.weight", float("nan"))):
            changes = self.spoil(tensor, lambda w: w.view(-1)[-1:].fill_(value))
            config = self.config(changes)
            self.fail_with(["quantize", config], next(self.turn)[0], NUMERIC, "calibrate",
                           f"model.safetensors: tensor '{tensor}': holds a value that is not finite")
            self.assertEqual(list((self.folder / "out").glob("*")), [])
            self.tearDown()


class CommandLineTest(BadInputCase):
    def test_help_names_every_section_and_the_exit_codes(self):
        result = self.succeed(["--help"])
        for word in ("plan", "quantize", "eval", "calibration.tokens", "quantization.bits", "tuning.iters",
                     "parallel.shards", "output.path", "run.eval_tokens", "Exit codes", "llm_compressor, mxfp4"):
            self.assertIn(word, result.out)
        for command in ("plan", "quantize", "eval"):
            words = self.succeed([command, "--help"]).out
            self.assertIn("--set", words)
            self.assertIn("tuning.iters", words)

    def test_version(self):
        self.assertRegex(self.succeed(["--version"]).out, r"^roundtable \d+\.\d+\.\d+\n$")

    def test_unknown_command_and_none(self):
        for arguments in (["frobnicate"], [], ["quantize"], ["quantize", "config.yaml", "--frobnicate"]):
            result = program.run(arguments)
            self.assertEqual(result.code, BAD_INPUT, result)
            self.assertEqual(result.out, "")
            self.assertTrue(result.err)

    def test_config_that_is_missing_or_no_yaml(self):
        path = self.folder / "bad.yaml"
        for ranks in (1, 2):
            self.fail_with(["quantize", self.folder / "nowhere.yaml"], ranks, BAD_INPUT, self.folder / "nowhere.yaml")
        path.write_text("model: [\n")
        self.fail_with(["quantize", path], 1, BAD_INPUT, path)

    def test_unknown_key_names_line_key_and_the_valid_ones(self):
        path = self.folder / "unknown.yaml"
        path.write_text("model:\n  path: x\ntuning:\n  iters: 3\n  iterations: 4\n")
        for ranks in (1, 2):
            self.fail_with(["quantize", path], ranks, BAD_INPUT, f"{path}:5", "iterations", "iters", "batch_size")

    def test_ill_typed_value_names_line_and_key(self):
        path = self.folder / "ill-typed.yaml"
        path.write_text("model:\n  path: x\nquantization:\n  bits: four\n")
        self.fail_with(["quantize", path], 1, BAD_INPUT, f"{path}:4", "bits", "2, 3, 4 or 8")
        path.write_text("model:\n  path: x\nquantization:\n  bits: 5\n")
        self.fail_with(["plan", path], 2, BAD_INPUT, f"{path}:4", "bits", "2, 3, 4 or 8")

    def test_unknown_key_on_the_command_line(self):
        for setting in ("tuning.iterations=3", "frobnicate.x=3", "nothing"):
            self.fail_with(["quantize", self.config({}), "--set", setting], 1, BAD_INPUT, setting.split("=")[0])

    def test_plan_checks_the_same_and_writes_nothing(self):
        before = program.digests(self.folder / "model")
        plan = self.succeed(["plan", self.config({}), "--json"], 2).json
        self.assertEqual((plan["groups"] * plan["shards"], plan["stages"]), (2, plan["groups"]))
        self.assertFalse((self.folder / "out").exists())
        self.fail_with(["plan", self.config({"calibration.n_samples": 9})], 2, BAD_INPUT, "9 samples")
        self.assertEqual(program.digests(self.folder / "model"), before)

    def test_eval(self):
        tokens = str(self.folder / "tokens.safetensors")
        self.fail_with(["eval", self.config({})], 1, BAD_INPUT, "run.eval_tokens")
        self.fail_with(["eval", self.config({"run.eval_tokens": tokens, "run.logits": str(self.folder / "l")})], 2,
                       BAD_INPUT, "run.logits", "single rank")
        self.fail_with(["eval", self.config({"run.eval_tokens": str(self.folder / "nowhere.safetensors")})], 2,
                       BAD_INPUT, "nowhere.safetensors")
        config = self.config({"run.eval_tokens": tokens})
        nowhere = str(self.folder / "nowhere")
        self.fail_with(["eval", config, "--against", nowhere], 2, BAD_INPUT, nowhere, "config.json")
        quantized = self.model("quantized")
        (quantized / "config.json").write_text(json.dumps(
            json.loads((quantized / "config.json").read_text()) |
            {"quantization_config": {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}}))
        self.fail_with(["eval", config, "--against", str(quantized)], 1, BAD_INPUT,
                       f"--against: {quantized} is a quantized model; give the directory of the float model")


if __name__ == "__main__":
    unittest.main()
