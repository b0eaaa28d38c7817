"""What models_test.py does not look at, for some families of models: what enters each block, in fp32 and in bf16, and
bf16 logits, compared with transformers; names and heads that differ from what transformers writes; experts without
tokens; the variants of RoPE.
"""

import json
import pathlib
import shutil
import unittest

import h5py
import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file

import program
import tiny_model
import unpacked

N_BLOCKS = 3
ROWS, SEQLEN = 8, 24
FP32_BOUND = 1e-4  # of the scale of what is compared


def relative(a, b):
    """Largest difference against the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def median_distance(a, b):
    """Of a token: where a rounding turns a router's choice, that token is far off, on either side."""
    return ((a - b).norm(dim=-1) / b.norm(dim=-1)).median().item()


def read_boundary(path):
    """The hidden states of a boundary file, whatever type it stores them in."""
    with h5py.File(path) as file:
        states = max((d for d in file.values() if isinstance(d, h5py.Dataset)), key=lambda d: d.size)
        raw = states[...]
    if raw.dtype == numpy.float32:
        return torch.from_numpy(raw)
    bits = torch.from_numpy(raw.view(numpy.int16).copy())
    return bits.view(torch.bfloat16).float()


def load(path, dtype=torch.float32):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


class FamilyCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ids = tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=ROWS, seqlen=SEQLEN)

    def theirs(self, model, ids=None):
        """Hidden states that enter each block, and logits."""
        with torch.no_grad():
            out = model(torch.from_numpy(self.ids if ids is None else ids).long(), output_hidden_states=True,
                        use_cache=False)
        return [h.float() for h in out.hidden_states[:N_BLOCKS]], out.logits.float()

    def eval(self, path, amp=False, tokens=None):
        """Our logits."""
        logits = self.folder / "logits.safetensors"
        config = program.write_config(self.folder / "eval.yaml", {
            "model.path": str(path), "run.eval_tokens": str(tokens or self.folder / "tokens.safetensors"),
            "run.logits": str(logits), "tuning.amp": amp, "parallel.threads": 1})
        self.succeed(["eval", config])
        return load_file(logits)["logits"]

    def quantize(self, path, output, ranks=1, **settings):
        config = program.write_config(self.folder / "config.yaml", {
            "model.path": str(path), "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": ROWS, "calibration.seqlen": SEQLEN, "quantization.group_size": 32,
            "tuning.iters": 3, "tuning.batch_size": 4, "tuning.amp": False, "parallel.threads": 1,
            "output.path": str(output)} | {key.replace("__", "."): value for key, value in settings.items()})
        return self.succeed(["quantize", config, "--json"], ranks)

    def boundaries(self, path, output, amp):
        """What enters each block of the float model, of a run whose stages are single blocks."""
        self.quantize(path, output, tuning__amp=amp, parallel__stages=N_BLOCKS, run__keep_boundaries=True)
        return [read_boundary(f"{output}.run/boundary-{block:05d}.h5") for block in range(N_BLOCKS)]

    def hold_fp32(self, path, output, model):
        states, _ = self.theirs(model)
        for block, (ours, theirs) in enumerate(zip(self.boundaries(path, output, False), states)):
            self.assertLess(relative(ours, theirs), FP32_BOUND, f"what enters block {block}")

    def hold_bf16(self, path, output, model, distance):
        """No farther from the truth than transformers in bf16 is, but for luck."""
        exact_states, exact_logits = self.theirs(model)
        rounded_states, rounded_logits = self.theirs(load(path, torch.bfloat16))
        ours = self.boundaries(path, output, True) + [self.eval(path, amp=True)]
        rounded, exact = rounded_states + [rounded_logits], exact_states + [exact_logits]
        for place in range(N_BLOCKS + 1):
            bound = 2 * distance(rounded[place], exact[place]) + 1e-3
            self.assertLess(distance(ours[place], exact[place]), bound, f"place {place}")

    def hold_quantized(self, path, output, conv1d=False):
        plain = pathlib.Path(f"{output}-plain")
        unpacked.multiply_out(output, plain, unpacked.load_all(path), conv1d)
        _, logits = self.theirs(load(plain))
        self.assertLess(relative(self.eval(output), logits), FP32_BOUND, "logits of the quantized model")

    def make(self, family, **changes):
        """bf16 numbers, so that both precisions start from the same weights."""
        path = tiny_model.make_model(self.folder / f"{family}-{len(list(self.folder.iterdir()))}", family,
                                     dtype=torch.bfloat16, num_hidden_layers=N_BLOCKS, **changes)
        return path, load(path)


class FamiliesTest(FamilyCase):
    """models_test.py compares the logits of all types in fp32."""

    def test_what_enters_each_block(self):
        for family, changes in (("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
                                ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
                                ("qwen2", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2})):
            with self.subTest(family):
                path, model = self.make(family, **changes)
                self.hold_fp32(path, self.folder / f"{path.name}-fp32", model)
                if family == "gpt2":
                    self.check_names_without_prefix(path)

    def test_in_bf16(self):
        """Each of our kernels is in one of these."""
        for family, changes in (("llama", {"tie_word_embeddings": True}), ("gemma3", {}), ("phi3", {}), ("gpt2", {}),
                                ("mixtral", {})):
            with self.subTest(family):
                path, model = self.make(family, **changes)
                self.hold_bf16(path, self.folder / f"{path.name}-bf16", model,
                               median_distance if family == "mixtral" else distance)

    def check_names_without_prefix(self, path):
        """GPT-2's own checkpoint, saved from the model without its head: no prefix, and causal masks beside."""
        bare = self.folder / "gpt2-bare"
        shutil.copytree(path, bare)
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in
                   load_file(bare / "model.safetensors").items()}
        for block in range(N_BLOCKS):
            tensors[f"h.{block}.attn.bias"] = torch.ones(1, 1, 256, 256).tril()
        save_file(tensors, bare / "model.safetensors", metadata={"format": "pt"})
        self.assertTrue(torch.equal(self.eval(bare), self.eval(path)))
        self.quantize(bare, self.folder / "gpt2-bare-w4")
        self.hold_quantized(bare, self.folder / "gpt2-bare-w4", conv1d=True)

    def test_a_stored_head_of_a_tied_model(self):
        """It goes to the output, whose config.json no longer ties it: some readers would take the embedding."""
        path = tiny_model.make_model(self.folder / "tied", num_hidden_layers=N_BLOCKS, tie_word_embeddings=True)
        tensors = load_file(path / "model.safetensors")
        head = torch.randn(tiny_model.VOCAB, 64, generator=torch.Generator().manual_seed(4))
        save_file(tensors | {"lm_head.weight": head}, path / "model.safetensors", metadata={"format": "pt"})
        output = self.folder / "tied-w4"
        result = self.quantize(path, output)
        self.assertIn("tie_word_embeddings is true, but the checkpoint has a lm_head.weight", result.out)
        self.assertIs(json.loads((output / "config.json").read_text())["tie_word_embeddings"], False)
        self.assertTrue(torch.equal(unpacked.load_all(output)["lm_head.weight"], head))
        self.hold_quantized(path, output)


class ExpertsTest(FamilyCase):
    def test_experts_that_see_no_token(self):
        """The same token at every place: all positions look alike, and choose the same few experts in each block."""
        self.ids[:] = 77
        tiny_model.make_tokens(self.folder / "tokens.safetensors", ids=self.ids)
        path = tiny_model.make_model(self.folder / "moe", "qwen3_moe", num_hidden_layers=N_BLOCKS, num_experts=8)
        result = self.quantize(path, self.folder / "tuned", ranks=2, parallel__stages=1, tuning__iters=10,
                               tuning__not_use_mse=True)
        self.quantize(path, self.folder / "rounded", tuning__iters=0)
        idle_experts = []
        tuned, rounded = unpacked.load_all(self.folder / "tuned"), unpacked.load_all(self.folder / "rounded")
        for event in program.events(f"{self.folder}/tuned.run"):
            if event["event"] != "block":
                continue
            idle, block = event["experts_without_tokens"], event["block"]
            self.assertTrue(0 < len(idle) <= 6, idle)
            idle_experts += [f"model.layers.{block}.{expert}" for expert in idle]
            equal = set()
            for expert in range(8):
                parts = [f"model.layers.{block}.mlp.experts.{expert}.{layer}.{part}"
                         for layer in ("gate_proj", "up_proj", "down_proj") for part in ("qweight", "scales", "qzeros")]
                if all(torch.equal(tuned[part], rounded[part]) for part in parts):
                    equal.add(f"mlp.experts.{expert}")
            self.assertLessEqual(set(idle), equal, f"block {block}: rounded to nearest")
            self.assertLess(len(equal), 8, f"block {block}: the others are tuned")
            self.assertIn(f"block {block}: no token of the tuning steps reached {', '.join(idle)}: rounded to nearest",
                          result.out + result.err)
        self.assertEqual(result.json["experts_without_tokens"], idle_experts)


class RopeTest(FamilyCase):
    """Variants of RoPE, by the logits alone."""

    def hold(self, seqlen=SEQLEN, **changes):
        path = tiny_model.make_model(self.folder / f"rope-{len(list(self.folder.iterdir()))}", "llama",
                                     num_hidden_layers=N_BLOCKS, **changes)
        ids = tiny_model.make_tokens(self.folder / "long.safetensors", rows=2, seqlen=seqlen, seed=5)
        _, logits = self.theirs(load(path), ids)
        self.assertLess(relative(self.eval(path, tokens=self.folder / "long.safetensors"), logits), FP32_BOUND)

    def rope(self, type, **parameters):
        return {"rope_type": type, "rope_theta": 100.0} | parameters

    def test_linear(self):
        self.hold(rope_parameters=self.rope("linear", factor=4.0))

    def test_dynamic_within_and_beyond_the_models_length(self):
        self.hold(rope_parameters=self.rope("dynamic", factor=4.0))
        self.hold(seqlen=48, max_position_embeddings=16, rope_parameters=self.rope("dynamic", factor=4.0))

    def test_llama3(self):
        self.hold(rope_parameters=self.rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                            original_max_position_embeddings=64))

    def test_yarn(self):
        yarn = self.rope("yarn", factor=4.0, original_max_position_embeddings=64)
        self.hold(rope_parameters=yarn)
        self.hold(rope_parameters=yarn | {"beta_fast": 8.0, "beta_slow": 2.0, "truncate": False})
        self.hold(rope_parameters=yarn | {"mscale": 1.5, "mscale_all_dim": 0.5})
        self.hold(rope_parameters=yarn | {"attention_factor": 1.3})


if __name__ == "__main__":
    unittest.main()
