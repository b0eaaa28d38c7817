"""Matrices of published checkpoints, bit for bit as transformers and compressed-tensors dequantize them.

  tests/peer/published_test.py model_published_tool

Each test writes random tensors in one storage, asks the reference for their values, and compares them with what the
tool reads.
"""

import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

TOOL = ""
FP8 = torch.float8_e4m3fn


def read(tensors, specs, config=None):
    """What the tool makes of a checkpoint of these tensors."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config or {}))
        (folder / "specs.json").write_text(json.dumps(specs))
        subprocess.run([TOOL, folder, folder / "specs.json", folder / "out.safetensors"], check=True)
        return load_file(folder / "out.safetensors")


def spec(name, shape, transposed=False, stack="", index=0, experts=1):
    return {"name": name, "shape": list(shape), "transposed": transposed, "stack": stack, "index": index,
            "experts": experts}


def fp8_of(*shape):
    return torch.randn(shape).mul(100).clamp(-448, 448).to(FP8)


class Published(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)

    def same(self, got, want):
        self.assertEqual(got.dtype, want.dtype)
        self.assertTrue(torch.equal(got, want), (got.float() - want.float()).abs().max())

    def test_fp8(self):
        """Blocks, rows and tensors; scales in fp32, bf16, E8M0 and E8M0 as bytes."""
        scales = {
            "blocks": torch.rand(3, 2).add(0.01),
            "rows": torch.rand(384, 1),
            "tensor": torch.rand(1, 1),
            "bf16": torch.rand(3, 2).to(torch.bfloat16),
            "e8m0": torch.randint(100, 140, (3, 2), dtype=torch.uint8).view(torch.float8_e8m0fnu),
            "bytes": torch.randint(100, 140, (384, 8), dtype=torch.uint8),
        }
        tensors, want = {}, {}
        for name, scale in scales.items():
            weight = fp8_of(384, 256)
            tensors |= {f"{name}.weight": weight, f"{name}.weight_scale_inv": scale}
            want[f"{name}.weight"] = Fp8Dequantize(None)._dequantize_one(weight, scale, torch.bfloat16)
        got = read(tensors, [spec(name, (384, 256)) for name in want])
        for name in want:
            with self.subTest(name):
                self.same(got[name], want[name])

    def test_fp4_of_deepseek_v4(self):
        weight = torch.randint(-128, 128, (96, 64), dtype=torch.int8)
        scale = torch.randint(110, 130, (96, 4), dtype=torch.uint8).view(torch.float8_e8m0fnu)
        got = read({"a.weight": weight, "a.scale": scale}, [spec("a.weight", (96, 128))])
        self.same(got["a.weight"], Fp8Dequantize(None)._dequantize_one(weight, scale, torch.bfloat16))

    def test_mxfp4_of_gpt_oss(self):
        blocks = torch.randint(0, 256, (3, 48, 2, 16), dtype=torch.uint8)
        scales = torch.randint(0, 250, (3, 48, 2), dtype=torch.uint8)
        want = convert_moe_packed_tensors(blocks, scales)  # [experts, in, out]
        got = read({"e.down_proj_blocks": blocks, "e.down_proj_scales": scales},
                   [spec(f"e.{i}", (48, 64), True, "e.down_proj", i, 3) for i in range(3)])
        for i in range(3):
            self.same(got[f"e.{i}"], want[i].t().contiguous())

    def test_compressed_tensors(self):
        """Packed integers by groups and by rows, with and without zero points; FP8."""
        tensors, want = {}, {}
        for case in itertools.product((torch.bfloat16, torch.float16, torch.float32), (4, 8), (True, False),
                                      ("group", "channel")):
            stored, matrix = self.packed(*case)
            layer = "_".join(map(str, case)).replace("torch.", "")
            tensors |= {f"{layer}.{name}": value for name, value in stored.items()}
            want[f"{layer}.weight"] = matrix
        got = read(tensors, [spec(name, (64, 96)) for name in want])
        for name in want:
            with self.subTest(name):
                self.same(got[name], want[name])

    def packed(self, dtype, bits, symmetric, strategy):
        """Tensors of a layer, and its values. The model is bf16, or fp16 where its scales are."""
        args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy=strategy,
                                group_size=32 if strategy == "group" else None)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        groups = 3 if strategy == "group" else 1
        weight = torch.randn(64, 96).to(dtype)
        state = {"weight": weight, "weight_scale": torch.rand(64, groups).add(0.1).div(2 ** (bits - 2)).to(dtype)}
        if not symmetric:
            state["weight_zero_point"] = torch.randint(-3, 4, (64, groups), dtype=torch.int8)
        compressor = BaseCompressor.get_value_from_registry("pack-quantized")
        stored = compressor.compress(dict(state), scheme)
        want = compressor.decompress(dict(stored), scheme)["weight"]
        return stored, want.float() if dtype == torch.float16 else want.to(torch.bfloat16)

    def test_compressed_tensors_fp8(self):
        for strategy, shape in (("tensor", (1,)), ("channel", (64, 1))):
            args = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy=strategy)
            scheme = QuantizationScheme(targets=["Linear"], weights=args)
            stored = {"weight": fp8_of(64, 96), "weight_scale": torch.rand(shape).to(torch.bfloat16)}
            compressor = BaseCompressor.get_value_from_registry("float-quantized")
            want = compressor.decompress(dict(stored), scheme)["weight"]
            got = read({f"a.{name}": value for name, value in stored.items()}, [spec("a.weight", (64, 96))])
            self.same(got["a.weight"], want.to(torch.bfloat16))


if __name__ == "__main__":
    TOOL = sys.argv.pop(1)
    unittest.main()
