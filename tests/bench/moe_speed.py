#!/usr/bin/env python3
"""The step over its matrix products for small random blocks with many experts, ours and auto-round's.

  tests/bench/moe_speed.py --out FILE [--experts 64,128] [--iters 20] [--repeats 2] [--blocks 3] [--ranks 1]
                           [--tools ours,peer] [--json]

Blocks as Qwen3-MoE has them: hidden size 512, experts of width 256, of which a token chooses 8. W4 in groups of 64,
steps of 8 samples of 512 tokens, on two threads in all: one rank, or `--ranks 2` of one thread each. In a round each
number of experts is measured in turn, as in families.py. The products alone give each expert as many tokens as the others; a
router's own products do not count. Run it in the environment of launch/setup.sh --peer, on an idle machine. The last
line of stdout is a JSON object, which is written to --out too: as that of families.py, with `experts` in the place of
`family`.
"""

from small_blocks import Bench, Family, run

HIDDEN, WIDTH, CHOSEN, HEADS, KV_HEADS, HEAD_DIM = 512, 256, 8, 8, 4, 64


def family(experts):
    return Family("qwen3_moe", {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "moe_intermediate_size": WIDTH,
                                "num_experts": experts, "num_experts_per_tok": CHOSEN, "num_attention_heads": HEADS,
                                "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "norm_topk_prob": True},
                  HEADS, KV_HEADS, HEAD_DIM, chosen=CHOSEN)


BENCH = Bench({str(experts): family(experts) for experts in (64, 128)}, "experts", samples=32, batch=8, seqlen=512, goal=1.5)

if __name__ == "__main__":
    run(BENCH, __doc__.splitlines()[0])
