"""SmolLM2-135M as GGUF in llama.cpp itself: its perplexity and its greedy text are ours."""

import sys
import unittest

from logits_test import RealModelCase, load, logits_of, perplexity_of  # first: it hides the devices

import numpy
import torch

from llama_cpp import LlamaCpp


def q8_0(x):
    """To 8 bits and back in blocks of 32, as llama.cpp does with what enters a product (quantize_row_q8_0)."""
    blocks = x.reshape(-1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return (torch.round(blocks / torch.where(scale > 0, scale, 1)) * scale.half().float()).reshape(x.shape)


def load_with_rounded_activations(path):
    model = load(path)
    for module in model.modules():
        if type(module).__name__.endswith("Linear"):
            module.register_forward_pre_hook(lambda module, inputs: (q8_0(inputs[0]), *inputs[1:]))
    return model


def divergence(p, q):
    """Kullback and Leibler's, the mean over positions of logits."""
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


class SmolLM2Test(RealModelCase):
    NEW_TOKENS = 16
    CHECKPOINTS = {}  # of init_scale

    def test_perplexity_and_text(self):
        """llama.cpp's perplexity is what transformers finds with activations rounded as llama.cpp rounds them."""
        ids = self.held_out(2, 256)
        output = self.checkpoint("one")
        with self.in_llama_cpp(output) as model:
            ours = self.ours(output, ids)[0]["perplexity"]
            theirs = perplexity_of(torch.from_numpy(model.logits(ids)), ids)
            alike = perplexity_of(logits_of(load_with_rounded_activations(output), ids), ids)
            print(f"perplexity {ours:.4f}, in llama.cpp {theirs:.4f}, with its activations {alike:.4f}",
                  file=sys.stderr)
            unrounded = self.ours(self.model, ids)[0]["perplexity"]
            self.assertGreater(ours / unrounded, 1.05)  # that it was rounded shows
            self.assertAlmostEqual(theirs / ours, 1, delta=0.005)
            self.assertAlmostEqual(theirs / alike, 1, delta=0.002)
            self.hold_text(output, model)

    def test_distributions_from_searched_scales(self):
        """With these weights rounding activations moves a sample's loss by 0.7 % up or down, and the perplexity of a few
        samples by more than a wrong weight might. The divergence of each position's distribution has no such luck."""
        ids = self.held_out(2, 256)
        output = self.checkpoint("search")
        with self.in_llama_cpp(output) as model:
            theirs = torch.from_numpy(model.logits(ids)).double()
        apart = {name: divergence(theirs, logits_of(load(path), ids).double())
                 for name, path in (("ours", output), ("scales of 1", self.checkpoint("one")), ("float", self.model))}
        print("llama.cpp's distributions apart, in nats:", apart, file=sys.stderr)
        self.assertLess(apart["ours"], 0.005)
        self.assertGreater(apart["scales of 1"], 10 * apart["ours"])
        self.assertGreater(apart["float"], 10 * apart["ours"])

    def checkpoint(self, init_scale):
        """Made once for both tests."""
        if init_scale not in self.CHECKPOINTS:
            self.CHECKPOINTS[init_scale] = self.rounded(f"q4_0-{init_scale}", **{
                "tuning.init_scale": init_scale, "quantization.group_size": 32,
                "output.formats": ["llm_compressor", "gguf"]})
        return self.CHECKPOINTS[init_scale]

    def in_llama_cpp(self, output):
        model = LlamaCpp(output / "gguf" / "model.gguf")
        self.assertRegex("".join(model.messages), "Q4_0")
        return model

    def hold_text(self, output, model):
        """Given the words that llama.cpp writes, our argmax names each next one, or one as likely to a hair: llama.cpp
        rounds activations to 8 bits."""
        starts = [model.tokenize(prompt) for prompt in self.PROMPTS]
        self.assertEqual(starts, [self.tokenizer(prompt).input_ids for prompt in self.PROMPTS])
        written = [model.greedy(start, self.NEW_TOKENS) for start in starts]
        rows = numpy.zeros((len(starts), max(map(len, starts)) + self.NEW_TOKENS), dtype=numpy.int32)
        for row, start, text in zip(rows, starts, written):
            row[:len(start) + len(text)] = start + text
        _, logits = self.ours(output, rows, "greedy")
        equal = 0
        for scores, start, text in zip(logits, starts, written):
            print(self.tokenizer.decode(start + text), file=sys.stderr)
            scores = scores[len(start) - 1:len(start) - 1 + len(text)]
            behind = scores.amax(-1) - scores[torch.arange(len(text)), torch.tensor(text)]
            self.assertLess(behind.max().item(), 0.25)  # nats
            equal += (behind == 0).sum().item()
        self.assertGreaterEqual(equal, 0.9 * self.NEW_TOKENS * len(starts))


if __name__ == "__main__":
    unittest.main()
