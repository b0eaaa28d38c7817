#!/usr/bin/env python3
"""Perplexity of a float or quantized model directory on a token set, by transformers (and auto-round) on CPU.

  tests/bench/perplexity.py --model DIR --tokens FILE [--dtype float32|bfloat16] [--batch 8]

exp of the mean next-token cross entropy, inside each row (seqlen - 1 predictions per row). The last line of stdout
is one JSON object {perplexity, loss, tokens, dtype, quantized}. Logits' softmax is always fp32.
"""

import argparse
import json
import math
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()


@torch.inference_mode()
def mean_loss(model, tokens, batch):
    total, count = 0.0, 0
    for rows in tokens.split(batch):  # [batch, seqlen]
        logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
        total += loss.item()
        count += rows[:, 1:].numel()
    return total / count, count


def main():
    parser = argparse.ArgumentParser(description="Perplexity of a model directory on a token set.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()

    quantized = getattr(AutoConfig.from_pretrained(arguments.model), "quantization_config", None) is not None
    if quantized:
        import auto_round  # noqa: F401  registers the quantized layers with transformers
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype), device_map="cpu"
                                                 if quantized else None).eval()
    # auto-round forces fp16 on its layers, which is slow on a CPU and rounds scale * integer once more. Cast back: the
    # stored fp16 scales are exact in fp32.
    model = model.to(getattr(torch, arguments.dtype))
    # The rotary frequencies are not stored: fp16 has rounded them, so they are computed again.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    tokens = load_file(arguments.tokens)["input_ids"].long()
    loss, count = mean_loss(model, tokens, arguments.batch)
    print(json.dumps({"perplexity": math.exp(loss), "loss": loss, "tokens": count, "dtype": arguments.dtype,
                      "quantized": quantized}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
