"""auto_gptq's checkpoints in GPTQModel itself, with its layer for CPUs, which computes in fp16."""

import pathlib
import sys
import unittest

from formats_test import FormatsCase, logits_of  # first: it hides the devices

sys.path.append(str(pathlib.Path(sys.prefix) / "gptqmodel"))  # for this test alone; launch/setup.sh puts it there

import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.nn_modules.qlinear.torch import TorchLinear

import tiny_model


def load(path):
    return GPTQModel.load(str(path), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16).model.eval()


class GptqModelTest(FormatsCase):
    def make(self, bits, scheme="sym"):
        tiny_model.make_model(self.folder / "llama", "llama", dtype=torch.bfloat16)
        return self.quantize(f"w{bits}-{scheme}", {
            "model.path": str(self.folder / "llama"), "output.formats": ["auto_gptq"], "quantization.bits": bits,
            "quantization.scheme": scheme})

    def test_sym(self):
        for bits in (2, 3, 4, 8):
            output = self.make(bits)
            ids, ours = self.reference(output)
            model = load(output)
            layers = [m for name, m in model.named_modules() if name.endswith("_proj")]
            self.assertEqual({type(layer) for layer in layers}, {TorchLinear})
            self.hold(f"w{bits}", model, ids, ours, 2e-2)

    def test_asym_is_loaded_only_from_its_own_hand(self):
        """Once this fails, the line on it in src/export/README.md can go."""
        with self.assertRaisesRegex(ValueError, "sym=False model .* only supported if produced by gptqmodel"):
            load(self.make(4, "asym"))


if __name__ == "__main__":
    unittest.main()
