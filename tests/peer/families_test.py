"""Quantized checkpoints of every family load with auto-round in transformers, and compute there what `eval` computes.

See logits_test.py for why the model is cast back to fp32 and its RoPE made anew.
"""

import os
import pathlib
import sys
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import torch
import transformers

import program
import tiny_model
from logits_test import LogitsCase

# Layers of a block that auto-round's own must stand in for; those of the MoE families are experts.
LAYERS = {"qwen3": 7, "phi3": 4, "gemma2": 7, "gemma3": 7, "opt": 6, "gpt2": 4, "gpt_neox": 4}


def load(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu",
                                                              attn_implementation="eager").to(torch.float32)
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RotaryEmbedding"):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, type(module)(model.config))
    return model.eval()


class FamiliesTest(LogitsCase):
    def hold(self, family):
        source = tiny_model.make_model(self.folder / family, family, dtype=torch.bfloat16, num_hidden_layers=2)
        tiny_model.make_tokens(self.folder / "tokens.safetensors", rows=8, seqlen=32)
        output = self.folder / f"{family}-w4"
        config = program.write_config(self.folder / f"{family}.yaml", {
            "model.path": str(source), "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": 8, "calibration.seqlen": 32, "quantization.group_size": 32, "tuning.iters": 3,
            "tuning.batch_size": 4, "tuning.amp": False, "parallel.threads": 1, "output.path": str(output)})
        self.succeed(["quantize", config])
        model = load(output)
        packed = [name for name, module in model.named_modules() if hasattr(module, "qweight")]
        self.assertEqual(len(packed), 2 * LAYERS[family], packed)
        ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=4, seqlen=40, seed=11)
        self.compare(output, model, ids, 1e-4)


for family in LAYERS:
    setattr(FamiliesTest, f"test_{family}", lambda self, family=family: self.hold(family))


if __name__ == "__main__":
    unittest.main()
