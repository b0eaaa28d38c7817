"""SmolLM2-135M as GGUF in llama.cpp itself: its perplexity and its greedy text are ours."""

import sys
import unittest

from logits_test import RealModelCase, perplexity_of  # first: it hides the devices

import numpy
import torch

from llama_cpp import LlamaCpp


class SmolLM2Test(RealModelCase):
    NEW_TOKENS = 16

    def test_perplexity_and_text(self):
        ids = self.held_out(2, 256)
        output = self.rounded("q4_0", **{"quantization.group_size": 32, "output.formats": ["llm_compressor", "gguf"]})
        unrounded, ours = (self.ours(path, ids)[0]["perplexity"] for path in (self.model, output))
        with LlamaCpp(output / "gguf" / "model.gguf") as model:
            self.assertRegex("".join(model.messages), "Q4_0")
            theirs = perplexity_of(torch.from_numpy(model.logits(ids)), ids)
            print(f"perplexity {ours:.4f}, in llama.cpp {theirs:.4f}; float {unrounded:.4f}", file=sys.stderr)
            self.assertGreater(ours / unrounded, 1.05)  # that it was rounded shows
            self.assertAlmostEqual(theirs / ours, 1, delta=0.005)
            self.hold_text(output, model)

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
