"""The tuning against auto-round itself: the same steps from the same start, in fp32, all samples in each step.

With all samples in each step sampling plays no part: every iteration's loss and the integers can be compared. What is
left is the order of summation, and a sign step turns a gradient that is zero but for that noise into a full step: the
test shows that where integers differ it is in such weights.

auto-round 0.16.1 leaves the last position of each sample out of its loss (calibration/llm.py); that is switched off
here, by its own function saying that no position is masked.
"""

import os
import pathlib
import re
import sys
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import numpy
import torch
import auto_round.calib_dataset
from auto_round import AutoRound
from auto_round.algorithms.quantization.base import BaseQuantizer
from auto_round.algorithms.quantization.sign_round.quantizer import SignRoundQuantizer
from safetensors.torch import load_file

import program
import tiny_model

ROWS, SEQLEN, GROUP, ITERS = 8, 32, 32, 20

# name -> family, ours, the peer's
CASES = {
    "llama W4": ("llama", {}, {}),
    "llama W2": ("llama", {"quantization.bits": 2}, {"bits": 2}),
    "llama W3 asym": ("llama", {"quantization.bits": 3, "quantization.scheme": "asym"}, {"bits": 3, "sym": False}),
    "opt W4": ("opt", {}, {}),
    "gpt2 W4": ("gpt2", {}, {}),
    "accumulated": ("llama", {"tuning.batch_size": 2, "tuning.gradient_accumulate_steps": 4},
                    {"batch_size": 2, "gradient_accumulate_steps": 4}),
    "two blocks": ("llama", {"tuning.n_blocks": 2}, {"nblocks": 2}),
    "last kept": ("llama", {"tuning.not_use_mse": True}, {"not_use_best_mse": True}),
    "early stop": ("llama", {"tuning.dynamic_max_gap": 2, "tuning.lr": 0.2}, {"dynamic_max_gap": 2, "lr": 0.2}),
    "momentum": ("llama", {"tuning.momentum": 0.9}, {"momentum": 0.9}),
    "adamw": ("llama", {"tuning.optimizer": "adamw"}, {"enable_adam": True, "lr": 0.01}),
    "float input": ("llama", {"tuning.use_quant_input": False}, {"enable_quanted_input": False}),
    "scales fixed": ("llama", {"tuning.enable_minmax_tuning": False}, {"enable_minmax_tuning": False}),
    "own rates": ("llama", {"tuning.lr": 0.03, "tuning.minmax_lr": 0.01}, {"lr": 0.03, "minmax_lr": 0.01}),
}


class Losses:
    """Each iteration's loss, block after block, out of the peer's quantizer."""

    def __init__(self):
        self.blocks = []
        quantize_block, get_loss = SignRoundQuantizer.quantize_block, SignRoundQuantizer._get_loss
        step = SignRoundQuantizer._step

        def quantize(quantizer, *args, **kwargs):
            self.blocks.append([0.0])
            result = quantize_block(quantizer, *args, **kwargs)
            if self.blocks[-1][-1] == 0.0:  # opened by the last step
                self.blocks[-1].pop()
            return result

        def loss(quantizer, output, *args, **kwargs):
            result = get_loss(quantizer, output, *args, **kwargs)
            # Accumulated losses are sums, of which the peer's own mean is taken over all elements of a step.
            elements = ROWS * output[0].numel() if quantizer.gradient_accumulate_steps != 1 else 1
            self.blocks[-1][-1] += result.item() / elements
            return result

        def one_step(quantizer, *args, **kwargs):
            self.blocks[-1].append(0.0)
            return step(quantizer, *args, **kwargs)

        SignRoundQuantizer.quantize_block, SignRoundQuantizer._get_loss = quantize, loss
        SignRoundQuantizer._step = one_step


LOSSES = Losses()
torch.set_num_threads(1)
BaseQuantizer._compute_valid_token_mask = lambda quantizer, input_ids: None


def peer(model, tokens, settings):
    """auto-round on a model directory -> the losses of each block, and {layer: integers - zero point, scales}."""
    def get_dataloader(tokenizer, seqlen, dataset_name, seed, bs, nsamples):
        for rows in torch.from_numpy(tokens).long().split(bs):
            yield {"input_ids": rows, "attention_mask": torch.ones_like(rows)}

    auto_round.calib_dataset.get_dataloader = get_dataloader
    LOSSES.blocks = []
    arguments = {"bits": 4, "group_size": GROUP, "sym": True, "iters": ITERS, "batch_size": ROWS} | settings
    rounder = AutoRound(str(model), seqlen=SEQLEN, nsamples=ROWS, amp=False, enable_torch_compile=False,
                        dataset="NeelNanda/pile-10k", device_map="cpu", **arguments)
    quantized, _ = rounder.quantize()
    layers = {}
    for name, module in quantized.named_modules():
        if getattr(module, "scale", None) is None or not hasattr(module, "weight"):
            continue
        weight = module.weight.detach().float()
        if type(module).__name__ == "Conv1D":
            weight = weight.t()
        scale = module.scale.float().view(weight.shape[0], -1)
        grouped = weight.reshape(weight.shape[0], scale.shape[1], -1)
        layers[name] = (grouped / scale.unsqueeze(-1)).round().view(weight.shape), scale
    return LOSSES.blocks, layers


def unpack(words, bits, axis):
    """int32 words -> integers along `axis`; 3 bits run over the borders of words."""
    words = numpy.moveaxis(words.numpy().view(numpy.uint32), axis, -1)
    stream = numpy.unpackbits(numpy.ascontiguousarray(words).view(numpy.uint8), axis=-1, bitorder="little")
    values = stream.reshape(*stream.shape[:-1], -1, bits) @ (1 << numpy.arange(bits))
    return torch.from_numpy(numpy.moveaxis(values, -1, axis).astype(numpy.int64))


def ours(output, bits):
    """Our checkpoint and event log -> the same."""
    layers = {}
    for path in sorted(output.glob("*.safetensors")):
        tensors = load_file(path)
        for name in [n.removesuffix(".qweight") for n in tensors if n.endswith(".qweight")]:
            q = unpack(tensors[name + ".qweight"], bits, 0).t()
            scale = tensors[name + ".scales"].float().t()
            zero = unpack(tensors[name + ".qzeros"], bits, 1).t() + 1
            width = q.shape[1] // scale.shape[1]
            layers[name] = (q - zero.repeat_interleave(width, 1)).float(), scale
    events = program.events(output.with_name(output.name + ".run"))
    blocks = {e["block"]: e["losses"] for e in events if e["event"] == "block"}
    return [blocks[block] for block in sorted(blocks)], layers


class TuningTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tokens = tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=ROWS, seqlen=SEQLEN)
        for family in ("llama", "opt", "gpt2"):
            own = {"ffn_dim": 128} if family == "opt" else {"n_inner": 128} if family == "gpt2" else {}
            tiny_model.make_model(cls.folder / family, family, intermediate_size=128, num_hidden_layers=2, **own)

    def both(self, case):
        family, own, theirs = CASES[case]
        output = self.folder / re.sub(r"\W", "-", case)
        config = program.write_config(self.folder / f"{output.name}.yaml", {
            "model.path": str(self.folder / family), "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": ROWS, "calibration.seqlen": SEQLEN, "quantization.bits": 4,
            "quantization.group_size": GROUP, "tuning.iters": ITERS, "tuning.batch_size": ROWS, "tuning.amp": False,
            "output.path": str(output)} | own)
        self.succeed(["quantize", config])
        losses, layers = ours(output, own.get("quantization.bits", 4))
        return (losses[::own.get("tuning.n_blocks", 1)], layers), peer(self.folder / family, self.tokens, theirs)

    def compare(self, case):
        (losses, layers), (peer_losses, peer_layers) = self.both(case)
        self.assertEqual([len(block) for block in losses], [len(block) for block in peer_losses])
        worst = max(abs(a / b - 1) for block, theirs in zip(losses, peer_losses) for a, b in zip(block, theirs))
        self.assertEqual(set(layers), set(peer_layers))
        same = total = scales = groups = 0
        for name, (q, scale) in layers.items():
            peer_q, peer_scale = peer_layers[name]
            same += (q == peer_q).sum().item()
            total += q.numel()
            scales += (scale == peer_scale).sum().item()
            groups += scale.numel()
        print(f"{case}: losses within {worst:.1e}; {100 * same / total:.3f} % of {total} integers and "
              f"{100 * scales / groups:.2f} % of {groups} scales are equal", file=sys.stderr)
        return worst, same / total


def add_case(name):
    def test(self):
        worst, same = self.compare(name)
        self.assertLess(worst, 1e-3)
        self.assertGreaterEqual(same, 0.995)
    setattr(TuningTest, "test_" + re.sub(r"\W", "_", name), test)


for each in CASES:
    add_case(each)


if __name__ == "__main__":
    unittest.main()
