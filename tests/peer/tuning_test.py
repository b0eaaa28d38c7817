"""The tuner against auto-round's: with all samples in every step, and in fp32, both walk the same way.

Sampling plays no part (the batch is the whole set), nor do bf16 or torch.compile. What is left is the order in which
floats are summed: a gradient within rounding of zero can have one sign there and the other here, and a sign step then
moves that one v up instead of down. Each test prints how far the two runs are apart.

    tuning_test.py [TuningTest.test_llama_w4 ...]
"""

import json
import os
import pathlib
import sys
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))

import peer_autoround
import program
import tiny_model
import torch
from auto_round import AutoRound
from auto_round.algorithms.quantization.sign_round import quantizer as sign_round
from safetensors.torch import load_file

ROWS, SEQLEN = 8, 32
ITERS = 20

# A family is a row: its name in tiny_model, and changes to its config.
FAMILIES = {
    "llama": {},
}

# What is set: keys of ours beside their defaults, arguments of theirs. Every family runs the first, Llama all.
SETTINGS = {
    "w4": ({}, {}),
    "w3-channel": ({"quantization.bits": 3, "quantization.group_size": -1}, {"bits": 3, "group_size": -1}),
    "w4-asym": ({"quantization.scheme": "asym"}, {"sym": False}),
    "momentum": ({"tuning.momentum": 0.9}, {"momentum": 0.9}),
    "adamw": ({"tuning.optimizer": "adamw", "tuning.lr": 0.02}, {"enable_adam": True, "lr": 0.02}),
    "accumulate": ({"tuning.batch_size": 2, "tuning.gradient_accumulate_steps": 4},
                   {"batch_size": 2, "gradient_accumulate_steps": 4}),
    "two-blocks": ({"tuning.n_blocks": 2}, {"nblocks": 2}),
    "last": ({"tuning.not_use_mse": True, "tuning.lr": 0.2}, {"not_use_best_mse": True, "lr": 0.2}),
    "max-gap": ({"tuning.dynamic_max_gap": 2, "tuning.lr": 0.2}, {"dynamic_max_gap": 2, "lr": 0.2}),
    "no-minmax": ({"tuning.enable_minmax_tuning": False}, {"enable_minmax_tuning": False}),
    "float-input": ({"tuning.use_quant_input": False}, {"enable_quanted_input": False}),
    "minmax-lr": ({"tuning.minmax_lr": 0.01}, {"minmax_lr": 0.01}),
    "mixed": ({"quantization.weight_config": {"model.layers.0.mlp.up_proj": {"bits": 8},
                                              "[qk]_proj": {"bits": 2, "group_size": 64},
                                              ".*v_proj": {"scheme": "asym"}},
               "quantization.ignore_layers": ["layers.2.mlp", "model.layers.1.self_attn.o_proj"]},
              {"layer_config": {"model.layers.0.mlp.up_proj": {"bits": 8},
                                "[qk]_proj": {"bits": 2, "group_size": 64},
                                ".*v_proj": {"sym": False}},
               "ignore_layers": "layers.2.mlp,model.layers.1.self_attn.o_proj"}),
}


class Losses:
    """Collects the loss of each iteration, block by block, while auto-round tunes."""

    def __enter__(self):
        self.blocks = []
        self.debug, self.block = sign_round.logger.debug, sign_round.SignRoundQuantizer.quantize_block

        def debug(message, *args, **kwargs):
            if str(message).startswith("iter %d loss"):
                self.blocks[-1].append(args[1])
            self.debug(message, *args, **kwargs)

        def quantize_block(quantizer, *args, **kwargs):
            self.blocks.append([])
            return self.block(quantizer, *args, **kwargs)

        sign_round.logger.debug = debug
        sign_round.SignRoundQuantizer.quantize_block = quantize_block
        return self

    def __exit__(self, *_):
        sign_round.logger.debug = self.debug
        sign_round.SignRoundQuantizer.quantize_block = self.block


def unpack(words, bits):
    """qweight [in / 32 * bits, out] -> integers [in, out] (see src/quant/packing.h)."""
    runs = words.view(-1, bits, words.shape[1]).to(torch.int64) & 0xFFFFFFFF
    out = []
    for value in range(32):
        word, shift = divmod(value * bits, 32)
        both = runs[:, word] | (runs[:, word + 1] << 32 if word + 1 < bits else 0)
        out.append((both >> shift) & (2 ** bits - 1))
    return torch.stack(out, 1).reshape(-1, words.shape[1])


class Checkpoint:
    """A quantized model directory."""

    def __init__(self, path):
        self.tensors = {}
        for file in sorted(pathlib.Path(path).glob("*.safetensors")):
            self.tensors |= load_file(file)
        self.config = json.loads((pathlib.Path(path) / "config.json").read_text())["quantization_config"]

    def layers(self):
        return sorted(name[:-len(".qweight")] for name in self.tensors if name.endswith(".qweight"))

    def scheme(self, layer):
        extra = self.config.get("extra_config", {}).get(layer, {})
        return {key: extra.get(key, self.config[key]) for key in ("bits", "group_size", "sym")}

    def integers(self, layer):
        return unpack(self.tensors[f"{layer}.qweight"], self.scheme(layer)["bits"])


class TuningTest(program.Case):
    def ours(self, name, model, tokens, settings):
        output = self.folder / f"{name}-ours"
        config = program.write_config(self.folder / f"{name}.yaml", {
            "model.path": str(model), "calibration.tokens": str(tokens), "calibration.n_samples": ROWS,
            "calibration.seqlen": SEQLEN, "quantization.group_size": 32, "tuning.iters": ITERS,
            "tuning.batch_size": ROWS, "tuning.amp": False, "parallel.threads": 2, "output.path": str(output),
        } | settings)
        self.succeed(["quantize", config])
        blocks = {event["block"]: event["losses"] for event in program.events(f"{output}.run") if "losses" in event}
        joint = settings.get("tuning.n_blocks", 1)
        return [blocks[block] for block in sorted(blocks) if block % joint == 0], Checkpoint(output)

    def theirs(self, name, model, ids, arguments):
        output = self.folder / f"{name}-theirs"
        peer_autoround.feed(torch.from_numpy(ids).long())
        settings = {"bits": 4, "group_size": 32, "sym": True, "iters": ITERS, "batch_size": ROWS} | arguments
        with Losses() as losses:
            AutoRound(str(model), seqlen=SEQLEN, nsamples=ROWS, dataset="NeelNanda/pile-10k", device_map="cpu",
                      amp=False, enable_torch_compile=False, **settings
                      ).quantize_and_save(str(output), format="auto_round:auto_gptq")
        peer_autoround.flatten(str(output))
        return losses.blocks, Checkpoint(output)

    def run_both(self, name, family, settings, arguments):
        """Losses and checkpoint of ours, then of theirs, from one model and one token set."""
        model = tiny_model.make_model(self.folder / name, family, **FAMILIES[family])
        tokens = self.folder / f"{name}.safetensors"
        ids = tiny_model.make_tokens(tokens, rows=ROWS, seqlen=SEQLEN)
        return *self.ours(name, model, tokens, settings), *self.theirs(name, model, ids, arguments)

    def compare(self, name, family, settings, arguments):
        ours, mine, theirs, other = self.run_both(name, family, settings, arguments)
        self.assertEqual([len(block) for block in ours], [len(block) for block in theirs])
        worst = max(abs(a / b - 1) for one, two in zip(ours, theirs) for a, b in zip(one, two))

        self.assertEqual(mine.layers(), other.layers())
        equal = total = apart = 0
        for layer in mine.layers():
            self.assertEqual(mine.scheme(layer), other.scheme(layer), layer)
            q, p = mine.integers(layer), other.integers(layer)
            equal += int((q == p).sum())
            total += q.numel()
            apart = max(apart, int((q - p).abs().max()))
        print(f"{name}: {sum(map(len, ours))} losses within {worst:.1e}, {100 * equal / total:.3f} % of {total} "
              f"integers equal, the others at most {apart} apart", file=sys.stderr)
        self.assertLess(worst, 1e-3)
        self.assertGreaterEqual(equal / total, 0.995)
        return ours, mine


def add_test(family, name):
    def test(self):
        self.compare(f"{family}-{name}", family, *SETTINGS[name])

    setattr(TuningTest, f"test_{family}_{name.replace('-', '_')}", test)


for each_family in FAMILIES:
    for each in SETTINGS if each_family == "llama" else list(SETTINGS)[:1]:
        add_test(each_family, each)


if __name__ == "__main__":
    unittest.main()
