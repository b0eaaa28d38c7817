"""launch/prepare_model.py: what it refuses, and a small GGUF file that it turns into a model directory."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import gguf
import numpy
from safetensors import safe_open

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "launch", "prepare_model.py")
HIDDEN, HEADS, LAYERS, INNER = 64, 2, 2, 96


def byte_vocabulary():
    """GPT-2's stand-ins for the 256 bytes, so that any text has tokens."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def write_gguf(path):
    """Two random Llama blocks; the matrices in Q8_0. Returns the values of one norm and one dequantized matrix."""
    rng = numpy.random.default_rng(0)
    tokens = ["<|endoftext|>"] + byte_vocabulary() + ["th"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges(["t h"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)

    def matrix(name, rows, columns):
        packed = gguf.quantize(rng.standard_normal((rows, columns), dtype=numpy.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        return gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)

    matrix("token_embd.weight", len(tokens), HIDDEN)
    norm = rng.standard_normal(HIDDEN).astype(numpy.float32)
    writer.add_tensor("output_norm.weight", norm)
    for i in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", numpy.ones(HIDDEN, dtype=numpy.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{i}.{name}.weight", HIDDEN, HIDDEN)
        matrix(f"blk.{i}.ffn_gate.weight", INNER, HIDDEN)
        up = matrix(f"blk.{i}.ffn_up.weight", INNER, HIDDEN)
        matrix(f"blk.{i}.ffn_down.weight", HIDDEN, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return norm, up


class PrepareModelTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.gguf, self.out = self.path("tiny.gguf"), self.path("model")

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def start(self, *more):
        return subprocess.run([sys.executable, SCRIPT, "--gguf", self.gguf, "--out", self.out, *more],
                              capture_output=True, text=True)

    def assert_fails(self, *parts):
        before = sorted(os.listdir(self.folder.name))
        result = self.start()
        self.assertEqual(result.returncode, 2)
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        for part in parts:
            self.assertIn(part, errors[0])
        self.assertEqual(sorted(os.listdir(self.folder.name)), before)  # nothing is left behind

    def test_a_gguf_file_becomes_a_model_directory(self):
        norm, up = write_gguf(self.gguf)
        result = self.start()
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(os.path.join(self.out, "config.json"), encoding="utf-8") as f:
            text = f.read()
        config = json.loads(text)
        self.assertEqual((config["model_type"], config["num_hidden_layers"], config["rms_norm_eps"], config["dtype"]),
                         ("llama", LAYERS, 1e-5, "bfloat16"))
        self.assertNotIn("quantization_config", config)
        for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
            with open(os.path.join(self.out, name), encoding="utf-8") as f:
                self.assertNotIn(self.folder.name, f.read())
        with safe_open(os.path.join(self.out, "model.safetensors"), "pt") as f:
            import torch
            for name, values in (("model.norm.weight", norm), ("model.layers.1.mlp.up_proj.weight", up)):
                tensor = f.get_tensor(name)
                self.assertEqual(tensor.dtype, torch.bfloat16)
                self.assertTrue(torch.equal(tensor, torch.from_numpy(values.copy()).bfloat16()), name)

        # A complete model stays; an incomplete one is not overwritten.
        self.assertIn("complete already", self.start().stdout)
        os.remove(os.path.join(self.out, "model.safetensors"))
        self.assert_fails("isn't a complete model", "model.safetensors")

    def test_shards(self):
        write_gguf(self.gguf)
        result = self.start("--max-shard-size", "100KB")
        self.assertEqual(result.returncode, 0, result.stderr)
        shards = [n for n in os.listdir(self.out) if n.endswith(".safetensors")]
        self.assertGreater(len(shards), 1)
        self.assertIn("complete already", self.start().stdout)
        os.remove(os.path.join(self.out, shards[0]))
        self.assert_fails("isn't a complete model", shards[0])

    def test_missing_file(self):
        self.assert_fails("tiny.gguf: no such file")

    def test_not_a_gguf_file(self):
        with open(self.gguf, "wb") as f:
            f.write(b"PK\x03\x04 something else")
        self.assert_fails("tiny.gguf: not a GGUF file")

    def test_truncated_file(self):
        write_gguf(self.gguf)
        size = os.path.getsize(self.gguf)
        for kept in (8, 200, size - 5000):
            with self.subTest(kept):
                with open(self.gguf, "r+b") as f:
                    f.truncate(kept)
                self.assert_fails("tiny.gguf")
                write_gguf(self.gguf)

    def test_an_output_that_is_something_else(self):
        write_gguf(self.gguf)
        with open(self.out, "w", encoding="utf-8") as f:
            f.write("mine")
        self.assert_fails("isn't a directory")
        os.remove(self.out)
        os.mkdir(self.out)
        with open(os.path.join(self.out, "notes.txt"), "w", encoding="utf-8") as f:
            f.write("mine")
        self.assert_fails("isn't a complete model")


if __name__ == "__main__":
    unittest.main()
