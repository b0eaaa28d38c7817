#!/usr/bin/env python3
"""The step over its matrix products for small random blocks in the shapes of several families, ours and auto-round's;
`launch/bench.sh --families` starts this script.

  tests/bench/families.py --out FILE [--families gemma3,qwen3,phi3,gpt2,deepseek_v3] [--iters 40] [--repeats 2]
                          [--blocks 3] [--ranks 1] [--tools ours,peer] [--json]

W4 in groups of 64, steps of 4 samples of 256 tokens, on two threads in all: one rank, or `--ranks 2` of one thread each.
In a round each family is measured in turn: Roundtable, auto-round, and then the products of a step alone
(gemm_limit.py), in as many processes. Ratios are those of one round; the table has their medians. `ours / products` and
`auto-round / products` say how far a tool is from one that spends no time on anything but products. The first block
does not count (speed.py). The last line of stdout is a JSON object, which is written to --out too: rows [{family, step,
products, over_products, peer_step, peer_over_products, peer_over_ours}], and rounds with every single number.
"""

from small_blocks import Bench, Family, run

# gemma3 and qwen3 in the sizes of the 270M and the 0.6B model, gpt2 in its own; phi3 and deepseek_v3 with the ratios of theirs, narrow.
FAMILIES = {
    "gemma3": Family("gemma3_text", {"hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4, "num_key_value_heads": 1,
                                     "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 512}, 4, 1, 256),
    "qwen3": Family("qwen3", {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8,
                              "head_dim": 128}, 16, 8, 128),
    "phi3": Family("phi3", {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 8},
                   8, 8, 96, reads_input=("qkv_proj",)),
    "gpt2": Family("gpt2", {"n_embd": 768, "n_head": 12}, 12, 12, 64, reads_input=("attn.c_attn",), in_out=True),
    "deepseek_v3": Family("deepseek_v3", {
        "hidden_size": 1024, "intermediate_size": 2560, "num_attention_heads": 8, "num_key_value_heads": 8, "q_lora_rank": 384,
        "kv_lora_rank": 128, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "first_k_dense_replace": 99},
        8, 8, 192, 128, reads_input=("q_a_proj", "kv_a_proj_with_mqa")),
}

BENCH = Bench(FAMILIES, "family", samples=32, batch=4, seqlen=256, goal=1.2)

if __name__ == "__main__":
    run(BENCH, __doc__.splitlines()[0])
