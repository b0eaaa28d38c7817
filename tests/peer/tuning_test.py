"""The tuning against auto-round itself: the same steps from the same start, in fp32, all samples in each step.

With all samples in each step sampling plays no part: every iteration's loss, the integers and the scales are compared.
Three things of auto-round 0.16.1 are set aside for that, and the last two tests show what the last two of them do:
  - It leaves each sample's last position out of its loss (calibration/llm.py): its own function says here that no
    position is masked.
  - It casts scales to fp16 inside autograd (data_type/int.py), so that their gradients, in which two sums nearly cancel,
    pass through fp16 and some change their sign. Here the cast keeps its value and passes gradients by in fp32.
  - A gradient that is zero but for the order of summation takes a step of full size in one direction or the other. With
    steps of 1/20 one such weight moves all others' gradients within ten iterations; the cases take steps of STEP.
"""

import inspect
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
from auto_round.algorithms.quantization.sign_roundv2.quantizer import SignRoundV2Quantizer
from auto_round.compressors.utils import IndexSampler
from auto_round.data_type import int as peer_formulas
from auto_round.data_type.register import QUANT_FUNC_WITH_DTYPE
from safetensors.torch import load_file

import program
import tiny_model

ROWS, SEQLEN, GROUP, ITERS = 8, 32, 32, 20
STEP = 0.005
NOISE = 1e-5

V2 = {"tuning.init_scale": "search", "tuning.minmax_scale_bound": 2, "tuning.outlier_suppressed_loss": "below_4_bits"}

# name -> family, ours, the peer's
CASES = {
    "llama W4": ("llama", {}, {}),
    "llama W2": ("llama", {"quantization.bits": 2}, {"bits": 2}),
    "llama W3 asym": ("llama", {"quantization.bits": 3, "quantization.scheme": "asym"}, {"bits": 3, "sym": False}),
    "opt W4": ("opt", {}, {}),
    "gpt2 W4": ("gpt2", {}, {}),
    "accumulated": ("llama", {"tuning.batch_size": 2, "tuning.gradient_accumulate_steps": 4},
                    {"batch_size": 2, "gradient_accumulate_steps": 4}),
    # At steps of STEP the peer parts from itself here when its input differs by 1e-7 (99.4 % of the integers, 27 % of the
    # scales are equal then): a gradient of its 14th iteration is zero but for the order of summation.
    "two blocks": ("llama", {"tuning.n_blocks": 2, "tuning.lr": STEP / 2}, {"nblocks": 2, "lr": STEP / 2}),
    "last kept": ("llama", {"tuning.not_use_mse": True}, {"not_use_best_mse": True}),
    "early stop": ("llama", {"tuning.dynamic_max_gap": 2, "tuning.lr": 0.2}, {"dynamic_max_gap": 2, "lr": 0.2}),
    "momentum": ("llama", {"tuning.momentum": 0.9}, {"momentum": 0.9}),
    "adamw": ("llama", {"tuning.optimizer": "adamw", "tuning.lr": 0.01}, {"enable_adam": True, "lr": 0.01}),
    "float input": ("llama", {"tuning.use_quant_input": False}, {"enable_quanted_input": False}),
    "scales fixed": ("llama", {"tuning.enable_minmax_tuning": False}, {"enable_minmax_tuning": False}),
    "floats": ("llama", {"quantization.data_type": "mx_fp", "output.formats": ["mxfp4"]},
               {"data_type": "mx_fp", "act_bits": 16}),
    # One sample per pass, since the peer leaves out the largest errors of a pass and we those of a sample.
    "V2 W2": ("llama", V2 | {"quantization.bits": 2, "tuning.batch_size": 1, "tuning.gradient_accumulate_steps": 8},
              {"bits": 2, "batch_size": 1, "gradient_accumulate_steps": 8, "enable_alg_ext": True}),
    "V2 floats": ("llama", V2 | {"quantization.data_type": "mx_fp", "output.formats": ["mxfp4"]},
                  {"data_type": "mx_fp", "act_bits": 16, "enable_alg_ext": True}),
    "own rates": ("llama", {"tuning.lr": 0.006, "tuning.minmax_lr": 0.002}, {"lr": 0.006, "minmax_lr": 0.002}),
}


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


class Losses:
    """Each iteration's loss, block after block, out of the peer's quantizer."""

    def __init__(self):
        self.blocks = []
        quantize_block, get_loss = SignRoundQuantizer.quantize_block, SignRoundQuantizer._get_loss
        get_loss_of_v2 = SignRoundV2Quantizer._get_loss
        next_batch = IndexSampler.next_batch

        def quantize(quantizer, *args, **kwargs):
            self.blocks.append([])
            return quantize_block(quantizer, *args, **kwargs)

        def draw(sampler):
            self.blocks[-1].append(0.0)
            return next_batch(sampler)

        def loss(quantizer, output, *args, **kwargs):
            suppressed = getattr(quantizer, "_use_outlier_suppressed_loss", False)
            result = (get_loss_of_v2 if suppressed else get_loss)(quantizer, output, *args, **kwargs)
            # Accumulated losses are sums, of which the peer's own mean is taken over all elements of a step; those
            # without outliers are means of a pass.
            elements = ROWS * output[0].numel() if quantizer.gradient_accumulate_steps != 1 else 1
            if suppressed:
                elements = quantizer.gradient_accumulate_steps
            self.blocks[-1][-1] += result.item() / elements
            return result

        def loss_of_v2(quantizer, *args, **kwargs):
            # Where it leaves out nothing it calls the first version's, which is counted already.
            return (loss if quantizer._use_outlier_suppressed_loss else get_loss_of_v2)(quantizer, *args, **kwargs)

        SignRoundQuantizer.quantize_block, SignRoundQuantizer._get_loss = quantize, loss
        SignRoundV2Quantizer._get_loss = loss_of_v2
        IndexSampler.next_batch = draw


class RoundToHalf(torch.autograd.Function):
    """x.to(fp16) whose gradient stays in fp32."""

    @staticmethod
    def forward(context, x):
        return x.half().float()

    @staticmethod
    def backward(context, gradient):
        return gradient


class ScaleGradient:
    """The peer's formulas, with the gradient of a scale as it is or (`exact`) with its one cast to fp16 passed by."""

    def __init__(self):
        self.exact = True
        for name, function in list(QUANT_FUNC_WITH_DTYPE.items()):
            if function in (peer_formulas.quant_tensor_sym, peer_formulas.quant_tensor_asym):
                QUANT_FUNC_WITH_DTYPE[name] = self.choice(function)
        peer_formulas.quant_tensor_sym = self.choice(peer_formulas.quant_tensor_sym)  # SignRoundV2 takes it from there

    def choice(self, function):
        lines = inspect.getsource(function).splitlines()
        source = "\n".join(line for line in lines if not line.startswith("@"))
        source, casts = re.subn(r"scale = (\(.*\))\.to\(scale_dtype\)", r"scale = round_to_half(\1)", source)
        source, own = re.subn(r"scale = scale\.to\(scale_dtype\)", "scale = round_to_half(scale)", source)
        assert casts == 1 and own == (function is peer_formulas.quant_tensor_sym), function
        names = vars(peer_formulas) | {"round_to_half": RoundToHalf.apply}
        exec(source, names)
        return lambda *args, **kwargs: (names[function.__name__] if self.exact else function)(*args, **kwargs)


GRADIENT = ScaleGradient()
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
    settings = dict(settings)
    nblocks = settings.pop("nblocks", 1)
    arguments = {"bits": 4, "group_size": GROUP, "sym": True, "iters": ITERS, "batch_size": ROWS,
                 "lr": STEP} | settings
    rounder = AutoRound(str(model), seqlen=SEQLEN, nsamples=ROWS, amp=False, enable_torch_compile=False,
                        dataset="NeelNanda/pile-10k", device_map="cpu", **arguments)
    rounder.nblocks = nblocks  # 0.16.1 loses it on the way from AutoRound's arguments
    quantized, _ = rounder.quantize()
    layers = {}
    for name, module in quantized.named_modules():
        if getattr(module, "scale", None) is None or not hasattr(module, "weight"):
            continue
        weight = module.weight.detach().float()
        if type(module).__name__ == "Conv1D":
            weight = weight.t()
        scale = module.scale.float().view(weight.shape[0], -1)
        if settings.get("data_type") == "mx_fp":
            scale = torch.pow(2.0, scale)
        grouped = weight.reshape(weight.shape[0], scale.shape[1], -1)
        levels = (grouped / scale.unsqueeze(-1)).view(weight.shape)
        layers[name] = levels if settings.get("data_type") == "mx_fp" else levels.round(), scale
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
        for name in [n.removesuffix(".weight_packed") for n in tensors if n.endswith(".weight_packed")]:  # mxfp4
            packed = tensors[name + ".weight_packed"].long()
            bits = torch.stack((packed % 16, packed // 16), 2).flatten(1)
            layers[name] = E2M1[bits], torch.pow(2.0, tensors[name + ".weight_scale"].float() - 127)
    blocks = {e["block"]: e["losses"] for e in program.events(output.with_name(output.name + ".run"), "block")}
    return [blocks[block] for block in sorted(blocks)], layers


class TuningCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tokens = tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=ROWS, seqlen=SEQLEN)
        for family in ("llama", "opt", "gpt2"):
            own = {"ffn_dim": 128} if family == "opt" else {"n_inner": 128} if family == "gpt2" else {}
            tiny_model.make_model(cls.folder / family, family, intermediate_size=128, num_hidden_layers=2, **own)

    def ours(self, name, family, settings):
        output = self.folder / re.sub(r"\W", "-", name)
        config = program.write_config(self.folder / f"{output.name}.yaml", {
            "model.path": str(self.folder / family), "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": ROWS, "calibration.seqlen": SEQLEN, "quantization.bits": 4,
            "quantization.group_size": GROUP, "tuning.iters": ITERS, "tuning.batch_size": ROWS, "tuning.amp": False,
            "tuning.lr": STEP, "tuning.init_scale": "one", "tuning.minmax_scale_bound": 1,
            "tuning.outlier_suppressed_loss": "never", "output.path": str(output)} | settings)
        self.succeed(["quantize", config])
        losses, layers = ours(output, settings.get("quantization.bits", 4))
        return losses[::settings.get("tuning.n_blocks", 1)], layers

    def peers(self, family, settings, tokens=None, exact=True):
        GRADIENT.exact = exact
        return peer(self.folder / family, self.tokens if tokens is None else tokens, settings)


def share_of_equal(layers, others, part):
    """Of all integers (part 0) or scales (part 1)."""
    equal = sum((layers[name][part] == others[name][part]).sum().item() for name in layers)
    return equal / sum(layers[name][part].numel() for name in layers)


def difference(losses, others):
    """The largest relative one of all iterations of all blocks."""
    return max(abs(a / b - 1) for block, theirs in zip(losses, others) for a, b in zip(block, theirs))


def say(name, losses, layers, others):
    other_losses, other_layers = others
    print(f"{name}: losses within {difference(losses, other_losses):.1e}; equal are "
          f"{100 * share_of_equal(layers, other_layers, 0):.3f} % of the integers and "
          f"{100 * share_of_equal(layers, other_layers, 1):.2f} % of the scales", file=sys.stderr)


class EqualTest(TuningCase):
    """One test a case of CASES: how a run ends, ours and theirs."""

    def compare(self, name):
        family, own, theirs = CASES[name]
        losses, layers = self.ours(name, family, own)
        peer_losses, peer_layers = self.peers(family, theirs)
        self.assertEqual([len(block) for block in losses], [len(block) for block in peer_losses])
        self.assertEqual(set(layers), set(peer_layers))
        say(name, losses, layers, (peer_losses, peer_layers))
        self.assertLess(difference(losses, peer_losses), 1e-3)
        self.assertGreaterEqual(share_of_equal(layers, peer_layers, 0), 0.995)
        self.assertGreaterEqual(share_of_equal(layers, peer_layers, 1), 0.995)


class WhyOthersDifferTest(TuningCase):
    def test_the_peers_scale_gradients_pass_through_fp16(self):
        losses, layers = self.ours("fp16", "llama", {})
        as_it_is = self.peers("llama", {}, exact=False)
        say("the peer with scales' gradients in fp16", losses, layers, as_it_is)
        self.assertLess(share_of_equal(layers, as_it_is[1], 1), 0.9)

    def test_large_steps_amplify_noise(self):
        # The peer against itself, its input different by NOISE, which changes the sign of a few gradients near zero.
        model = tiny_model.new_model("llama", intermediate_size=128, num_hidden_layers=2)
        with torch.no_grad():
            embedding = model.model.embed_tokens.weight
            embedding.mul_(1 + NOISE * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3)))
        model.save_pretrained(self.folder / "llama-noisy")
        tiny_model.save_tokenizer(self.folder / "llama-noisy")
        equal = {}
        for step in (STEP, 1 / ITERS):
            theirs, noisy = self.peers("llama", {"lr": step}), self.peers("llama-noisy", {"lr": step})
            say(f"the peer against itself with noise of {NOISE}, steps of {step}", *theirs, noisy)
            equal[step] = share_of_equal(theirs[1], noisy[1], 0)
        self.assertGreater(equal[STEP], 0.97)
        self.assertLess(equal[1 / ITERS], 0.95)
        losses, layers = self.ours("large steps", "llama", {"tuning.lr": 1 / ITERS})
        say(f"steps of {1 / ITERS}", losses, layers, theirs)
        self.assertLess(difference([losses[0][:4]], [theirs[0][0][:4]]), 1e-5)  # before anything parts


def add_case(name):
    setattr(EqualTest, "test_" + re.sub(r"\W", "_", name), lambda self: self.compare(name))


for each in CASES:
    add_case(each)


if __name__ == "__main__":
    unittest.main()
