"""Peak memory of a rank: it is what plan says, and does not grow with the number of blocks, of which there are 3 and 15
of 8 MB each.

A rank that kept its blocks (in bf16, 8 MB each) would grow by 100 MB. Half of that is allowed: with equal work the
peaks of two runs of 2 ranks differ by up to 17 MB, which is MPI's buffers and the allocator's arenas.
"""

import sys
import unittest

from program import Case, write_config
from tiny_model import make_model, make_tokens

import torch

BLOCK_BYTES = 2 * (4 * 512 * 512 + 3 * 512 * 2048)
ALLOWED = 12 * BLOCK_BYTES // 2


class MemoryTest(Case):
    def peak_bytes(self, blocks, ranks):
        name = f"{blocks}-{ranks}"
        model = make_model(self.folder / f"model-{name}", dtype=torch.bfloat16, num_hidden_layers=blocks, hidden_size=512,
                           intermediate_size=2048, num_attention_heads=8, num_key_value_heads=8)
        tokens = self.folder / "tokens.safetensors"
        make_tokens(tokens, rows=8, seqlen=32)
        config = write_config(self.folder / f"{name}.yaml", {
            "model.path": str(model), "calibration.tokens": str(tokens), "calibration.n_samples": 8,
            "calibration.seqlen": 32, "quantization.bits": 4, "quantization.group_size": 64, "tuning.iters": 2,
            "tuning.batch_size": 4, "parallel.threads": 1, "parallel.shards": ranks,
            "run.eval_tokens": str(tokens), "output.path": str(self.folder / f"out-{name}")})
        return self.succeed(["quantize", config, "--json"], ranks).json["peak_bytes"]

    def test_the_peak_is_what_plan_says(self):
        """Of a block of 100 MB, so that the program itself is the smaller part."""
        model = make_model(self.folder / "wide", dtype=torch.bfloat16, num_hidden_layers=2, hidden_size=2048,
                           intermediate_size=5632, num_attention_heads=16, num_key_value_heads=4)
        tokens = self.folder / "wide.safetensors"
        make_tokens(tokens, rows=16, seqlen=128)
        config = write_config(self.folder / "wide.yaml", {
            "model.path": str(model), "calibration.tokens": str(tokens), "calibration.n_samples": 16,
            "calibration.seqlen": 128, "quantization.group_size": 64, "tuning.iters": 2, "tuning.batch_size": 8,
            "parallel.threads": 1, "output.path": str(self.folder / "out-wide")})
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                settings = [config, "--set", f"parallel.shards={ranks}", "--set",
                            f"output.path={self.folder / f'out-wide-{ranks}'}", "--json"]
                planned = self.succeed(["plan", *settings], ranks).json["bytes_a_rank"]
                peak = max(self.succeed(["quantize", *settings], ranks).json["peak_bytes"]["tune"])
                print(f"{ranks} ranks: plan says {planned / 1e6:.0f} MB, the peak is {peak / 1e6:.0f} MB", file=sys.stderr)
                self.assertLess(abs(peak / planned - 1), 0.15)

    def test_the_peak_falls_with_the_ranks_that_divide_experts(self):
        """Of blocks of 76 million weights, nearly all of them in 24 experts."""
        model = make_model(self.folder / "experts", family="qwen3_moe", dtype=torch.bfloat16, num_hidden_layers=2,
                           hidden_size=1024, moe_intermediate_size=1024, num_experts=24, num_attention_heads=8,
                           num_key_value_heads=2, head_dim=64)
        tokens = self.folder / "experts.safetensors"
        make_tokens(tokens, rows=8, seqlen=64)
        config = write_config(self.folder / "experts.yaml", {
            "model.path": str(model), "calibration.tokens": str(tokens), "calibration.n_samples": 8,
            "calibration.seqlen": 64, "quantization.group_size": 64, "tuning.iters": 2, "tuning.batch_size": 8,
            "parallel.threads": 1, "parallel.stages": 1, "output.path": str(self.folder / "out-experts")})
        peaks = {}
        for ranks in (1, 2, 4):
            with self.subTest(ranks=ranks):
                settings = [config, "--set", f"parallel.shards={ranks}", "--set",
                            f"output.path={self.folder / f'out-experts-{ranks}'}", "--json"]
                planned = self.succeed(["plan", *settings], ranks).json["bytes_a_rank"]
                peaks[ranks] = max(self.succeed(["quantize", *settings], ranks).json["peak_bytes"]["tune"])
                print(f"{ranks} ranks divide experts: plan says {planned / 1e6:.0f} MB, the peak is "
                      f"{peaks[ranks] / 1e6:.0f} MB", file=sys.stderr)
                self.assertLess(abs(peaks[ranks] / planned - 1), 0.15)
        self.assertLess(peaks[4], peaks[1] / 2)

    def test_more_blocks_take_no_more_memory(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                few, many = self.peak_bytes(3, ranks), self.peak_bytes(15, ranks)
                print(f"{ranks} ranks: peak bytes with 3 blocks {few}, with 15 blocks {many}", file=sys.stderr)
                for phase, bytes_by_rank in many.items():
                    before = few[phase]
                    self.assertLess(max(bytes_by_rank) - max(before), ALLOWED, phase)


if __name__ == "__main__":
    unittest.main()
