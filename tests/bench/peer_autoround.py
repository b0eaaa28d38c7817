#!/usr/bin/env python3
"""Runs auto-round on a model directory and one of our token sets, to compare Roundtable with.

  tests/bench/peer_autoround.py --model DIR --tokens FILE --out DIR --bits 4 [--iters 200] [--group-size 64]
                                [--batch-size 4] [--n-samples N] [--seqlen N] [--asym] [--alg-ext] [--seed 42]
                                [--blocks N]

Samples, their order and the settings are the same; everything else is auto-round's default (bf16 autocast,
torch.compile). CPU only. The checkpoint is auto_round:auto_gptq. The last line of stdout is one JSON object:
  seconds_total            quantize() and save
  seconds_per_block        [block] from the end of the block before (the first: from its start) to its end
  tuning_seconds           [block] the part of it inside the tuner; in the first block this includes the compilation
  losses                   [block] {first, best, best_iter}
  samples_sha256           of the int32 token ids that auto-round's calibration really drew
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file

import auto_round
import auto_round.calib_dataset
from auto_round import AutoRound
from auto_round.algorithms.quantization.sign_round import quantizer as sign_round
from auto_round.logger import logger

LOSS = re.compile(r"loss iter 0: (\S+) -> iter (\d+): (\S+)")


class Stopped(Exception):
    """--blocks: enough blocks have been timed."""


class Watch:
    """Times each block's tuning and reads its losses from the log line that it ends with."""

    def __init__(self, blocks):
        self.blocks, self.tuning, self.whole, self.losses, self.mark = blocks, [], [], [], None
        original = sign_round.SignRoundQuantizer.quantize_block
        infoclean = logger.infoclean

        def quantize_block(quantizer, *args, **kwargs):
            start = time.perf_counter()
            if self.mark is None:
                self.mark = start
            result = original(quantizer, *args, **kwargs)
            end = time.perf_counter()
            self.tuning.append(end - start)
            # What comes before a block's tuner (its float outputs) and after the one before it belong to the block.
            self.whole.append(end - self.mark)
            self.mark = end
            print(f"block {len(self.whole) - 1}: {self.whole[-1]:.1f} s, tuning {self.tuning[-1]:.1f} s", flush=True)
            if len(self.whole) == self.blocks:
                raise Stopped
            return result

        def read_losses(message, *args, **kwargs):
            found = LOSS.search(str(message))
            if found:
                self.losses.append({"first": float(found[1]), "best": float(found[3]), "best_iter": int(found[2])})
            infoclean(message, *args, **kwargs)

        sign_round.SignRoundQuantizer.quantize_block = quantize_block
        logger.infoclean = read_losses


def feed(tokens):
    """Puts `tokens` in the place of auto-round's dataset. Returns the digest of what was drawn.

    A tensor given as `dataset` would not work: auto-round then makes an attention mask that hides the last token of
    each sample and every token that equals the pad token. Only a dataset named by a string runs without a mask, so its
    loader is replaced.
    """
    drawn = hashlib.sha256()

    def get_dataloader(tokenizer, seqlen, dataset_name, seed, bs, nsamples):
        assert tokens.shape == (nsamples, seqlen), (tokens.shape, nsamples, seqlen)
        for rows in tokens.split(bs):
            drawn.update(rows.int().numpy().tobytes())
            yield {"input_ids": rows, "attention_mask": torch.ones_like(rows)}

    auto_round.calib_dataset.get_dataloader = get_dataloader
    return drawn


def flatten(out):
    """Moves files up: auto-round writes into out/<model>-w4g64 if it tunes, but into out itself if it only rounds."""
    inner = [os.path.join(out, name) for name in os.listdir(out)]
    if not os.path.exists(os.path.join(out, "config.json")) and len(inner) == 1:
        for name in os.listdir(inner[0]):
            os.rename(os.path.join(inner[0], name), os.path.join(out, name))
        os.rmdir(inner[0])


def main():
    parser = argparse.ArgumentParser(description="Runs auto-round on one of our token sets.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--gradient-accumulate-steps", type=int, default=1)
    parser.add_argument("--n-samples", type=int, default=0, help="the first N of the token set (all)")
    parser.add_argument("--seqlen", type=int, default=0, help="the first N tokens of each sample (all)")
    parser.add_argument("--asym", action="store_true")
    parser.add_argument("--alg-ext", action="store_true", help="auto-round's SignRoundV2 (enable_alg_ext)")
    parser.add_argument("--plain-rtn", action="store_true", help="with --iters 0: rounding to nearest, no search for scales")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--blocks", type=int, default=0, help="stop after N blocks, for timing; nothing is saved")
    arguments = parser.parse_args()

    if os.path.exists(arguments.out) and os.listdir(arguments.out):
        print(f"error: {arguments.out} is not empty; choose another --out", file=sys.stderr)
        return 1
    tokens = load_file(arguments.tokens)["input_ids"]
    tokens = tokens[:arguments.n_samples or None, :arguments.seqlen or None].contiguous()
    digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    drawn = feed(tokens.long())
    watch = Watch(arguments.blocks)

    # With iters 0 auto-round searches each group's scale by default (its "optimized" rounding).
    extra = {"disable_opt_rtn": True} if arguments.plain_rtn else {}
    if arguments.alg_ext:
        extra["enable_alg_ext"] = True
    start = time.perf_counter()
    rounder = AutoRound(arguments.model, bits=arguments.bits, group_size=arguments.group_size, sym=not arguments.asym,
                        iters=arguments.iters, seqlen=tokens.shape[1], nsamples=tokens.shape[0],
                        batch_size=arguments.batch_size,
                        gradient_accumulate_steps=arguments.gradient_accumulate_steps, seed=arguments.seed,
                        dataset="NeelNanda/pile-10k", device_map="cpu", **extra)
    try:
        rounder.quantize_and_save(arguments.out, format="auto_round:auto_gptq")
        flatten(arguments.out)
    except Stopped:
        pass
    seconds = time.perf_counter() - start

    # Plain rounding (iters 0) draws no samples.
    if arguments.iters > 0 and drawn.hexdigest() != digest:
        print(f"error: auto-round drew other samples than those in {arguments.tokens}; this script fits auto-round "
              "0.16.1", file=sys.stderr)
        return 1
    print(json.dumps({"bits": arguments.bits, "iters": arguments.iters, "seconds_total": round(seconds, 2),
                      "seconds_per_block": [round(s, 2) for s in watch.whole],
                      "tuning_seconds": [round(s, 2) for s in watch.tuning], "losses": watch.losses,
                      "group_size": arguments.group_size, "batch_size": arguments.batch_size,
                      "seqlen": tokens.shape[1], "n_samples": tokens.shape[0], "samples_sha256": digest,
                      "torch_compile": bool(getattr(rounder, "enable_torch_compile", False)),
                      "auto_round": auto_round.__version__, "threads": torch.get_num_threads()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
