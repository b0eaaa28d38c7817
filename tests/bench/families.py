#!/usr/bin/env python3
"""The step over its matrix products for small random blocks in the shapes of several families, ours and auto-round's;
`launch/bench.sh --families` starts this script.

  tests/bench/families.py --out FILE [--families gemma3,qwen3,phi3,gpt2,deepseek_v3] [--iters 40] [--repeats 2]
                          [--blocks 3] [--ranks 2] [--tools ours,peer] [--json]

W4 in groups of 64, steps of 4 samples of 256 tokens, on two threads in all: `--ranks 2` of one thread, or 1 of two.
In a round each family is measured in turn: Roundtable, auto-round, and then the products of a step alone
(gemm_limit.py), in as many processes. Ratios are those of one round; the table has their medians. `ours / products` and
`auto-round / products` say how far a tool is from one that spends no time on anything but products. The first block
does not count (speed.py). The last line of stdout is a JSON object, which is written to --out too: rows [{family, step,
products, over_products, peer_step, peer_over_products, peer_over_ours}], and rounds with every single number.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import statistics
import sys
import tempfile

import gemm_limit
from both_tools import Task, ToolFailed, run_ours, run_peer
from speed import THREADS, a_step, describe_machine, say, whole_from
from speed_report import table

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "e2e"))
SAMPLES, BATCH, SEQLEN, VOCAB = 32, 4, 256, 512
GOAL = 1.2


@dataclasses.dataclass(frozen=True)
class Family:
    model_type: str
    config: dict
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int = 0
    reads_input: tuple = gemm_limit.READ_THE_INPUT
    in_out: bool = False  # weights are [in, out] on disk


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


def make_inputs(family, blocks, folder):
    """(model, tokens)"""
    import torch  # here, because every process of gemm_limit.py reads this file
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from tiny_model import make_tokens, save_tokenizer
    torch.manual_seed(1)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    config = CONFIG_MAPPING[family.model_type](num_hidden_layers=blocks, vocab_size=VOCAB, max_position_embeddings=1024, **tokens,
                                               **family.config)
    config.architectures = None
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder / "model")
    save_tokenizer(folder / "model")
    make_tokens(folder / "tokens.safetensors", rows=SAMPLES, seqlen=SEQLEN, vocab=VOCAB)
    return folder / "model", folder / "tokens.safetensors"


def read_block(family, model):
    """The block's products by the matrices in its file."""
    from safetensors import safe_open
    linears = []
    with safe_open(model / "model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            found = re.search(r"\.(?:layers|h)\.0\.(.+)\.weight$", name)
            shape = file.get_slice(name).get_shape()
            if found and len(shape) == 2:
                name = found[1] if family.in_out else found[1].split(".")[-1]
                linears.append((name, *(reversed(shape) if family.in_out else shape)))
    return gemm_limit.Block(tuple(linears), family.heads, family.kv_heads, family.head_dim, family.value_dim, family.reads_input)


def measure(a, name, number, folder, logs):
    """{ours, peer: seconds of a step, products: theirs alone} of one family in one round."""
    family = FAMILIES[name]
    model, tokens = make_inputs(family, a.blocks, folder)
    task = Task(model, tokens, a.blocks, a.iters, BATCH)
    block = read_block(family, model)
    found = {}
    if "ours" in a.tools:
        ran = run_ours(task, folder / "ours", a.ranks, THREADS // a.ranks, logs / f"{name}-{number}-ours.log")
        found["ours"] = a_step(ran, a.iters)["step"]
    limits = gemm_limit.measure(block, a.ranks, THREADS // a.ranks, BATCH, SEQLEN)
    if "peer" in a.tools:
        found["peer"] = a_step(run_peer(task, folder / "peer", THREADS, logs / f"{name}-{number}-peer.log"), a.iters)["step"]
    found["products"] = sum(limits.values())
    say(f"round {number}  {name:12} " + ", ".join(f"{what} {seconds:.4f} s" for what, seconds in found.items()))
    return found


def row_of(name, rounds):
    """Medians over the rounds; ratios are those of one round."""
    def median(pick):
        values = [pick(r[name]) for r in rounds]
        return statistics.median(values) if None not in values else None

    def ratio(r, above, below):
        return r[above] / r[below] if above in r and below in r else None

    return {"family": name, "step": median(lambda r: r.get("ours")), "products": median(lambda r: r["products"]),
            "over_products": median(lambda r: ratio(r, "ours", "products")), "peer_step": median(lambda r: r.get("peer")),
            "peer_over_products": median(lambda r: ratio(r, "peer", "products")),
            "peer_over_ours": median(lambda r: ratio(r, "peer", "ours"))}


def text_of(rows):
    def cell(value, digits):
        return "-" if value is None else f"{value:.{digits}f}"
    header = ["", "s per step", "products", "ours / products", "auto-round", "auto-round / products", "auto-round / ours"]
    return "\n".join(table(header, [[row["family"], *(cell(row[key], 4 if key.endswith(("step", "products")) and "over" not in key else 2)
                                                      for key in list(row)[1:])] for row in rows]))


def read_names(known):
    def names(text):
        found = text.split(",")
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"knows {', '.join(known)}, not '{unknown[0]}'")
        return found
    return names


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", type=read_names(list(FAMILIES)), default=list(FAMILIES), help="names, with commas")
    parser.add_argument("--tools", type=read_names(["ours", "peer"]), default=["ours", "peer"])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the JSON file")
    parser.add_argument("--iters", type=whole_from(1), default=40, help="steps per block")
    parser.add_argument("--repeats", type=whole_from(1), default=2, help="rounds")
    parser.add_argument("--blocks", type=whole_from(2), default=3, help="of each model")
    parser.add_argument("--ranks", type=int, choices=[1, 2], default=1,
                        help="of Roundtable, on two threads in all; with 2 a step also sums their gradients")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, all other text on stderr")
    return parser.parse_args()


def main():
    a = read_arguments()
    machine = describe_machine()
    if machine["busy_before"] > 0.1:
        say(f"warning: others use {100 * machine['busy_before']:.0f} % of this machine: the figures will be wrong")
    logs = a.out.parent / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    rounds = []
    for number in range(1, a.repeats + 1):
        rounds.append({})
        for name in a.families:
            with tempfile.TemporaryDirectory(prefix="roundtable-bench-") as folder:
                rounds[-1][name] = measure(a, name, number, pathlib.Path(folder), logs)
    rows = [row_of(name, rounds) for name in a.families]
    settings = {"iters": a.iters, "blocks": a.blocks, "ranks": a.ranks, "batch_size": BATCH, "seqlen": SEQLEN, "samples": SAMPLES,
                "bits": Task.bits, "group_size": Task.group_size, "goal": GOAL}
    results = {"rows": rows, "rounds": rounds, "settings": settings, "machine": machine}
    a.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text_of(rows), file=sys.stderr if a.json else sys.stdout)
    print(json.dumps(results))


if __name__ == "__main__":
    try:
        main()
    except ToolFailed as error:
        sys.exit(f"error: {error}")
