"""What families.py and moe_speed.py share: a step over its matrix products for small random blocks, ours and auto-round's.

A bench is a set of kinds of blocks and the load of a step (Bench). run() measures each kind in turn, round after round,
and writes the table and the JSON object.
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
VOCAB = 512


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
    chosen: int = 0       # experts of a token


@dataclasses.dataclass(frozen=True)
class Bench:
    families: dict  # by name
    what: str       # a column's header: what the names are of
    samples: int    # of the calibration set
    batch: int      # of a step
    seqlen: int
    goal: float     # a step over its products


def make_inputs(family, bench, blocks, folder):
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
    make_tokens(folder / "tokens.safetensors", rows=bench.samples, seqlen=bench.seqlen, vocab=VOCAB)
    return folder / "model", folder / "tokens.safetensors"


def read_block(family, model):
    """The block's products by the matrices in its file. Routers, which stay as they are, do not count."""
    from safetensors import safe_open
    linears, experts = [], {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                found = re.search(r"\.(?:layers|h)\.0\.(.+)\.weight$", name)
                shape = file.get_slice(name).get_shape()
                if not found or len(shape) != 2 or (family.chosen and found[1].endswith("mlp.gate")):
                    continue
                expert = re.search(r"\.experts\.(\d+)\.(.+)$", found[1])
                if expert:
                    experts.setdefault(int(expert[1]), []).append((expert[2], *shape))
                    continue
                name = found[1] if family.in_out else found[1].split(".")[-1]
                linears.append((name, *(reversed(shape) if family.in_out else shape)))
    return gemm_limit.Block(tuple(linears), family.heads, family.kv_heads, family.head_dim, family.value_dim, family.reads_input,
                            len(experts), family.chosen, tuple(experts.get(0, ())))


def measure(a, bench, name, number, folder, logs):
    """{ours, peer: seconds of a step, products: theirs alone} of one family in one round."""
    family = bench.families[name]
    model, tokens = make_inputs(family, bench, a.blocks, folder)
    task = Task(model, tokens, a.blocks, a.iters, bench.batch)
    block = read_block(family, model)
    found = {}
    if "ours" in a.tools:
        ran = run_ours(task, folder / "ours", a.ranks, THREADS // a.ranks, logs / f"{name}-{number}-ours.log")
        found["ours"] = a_step(ran, a.iters)["step"]
    limits = gemm_limit.measure(block, a.ranks, THREADS // a.ranks, bench.batch, bench.seqlen)
    if "peer" in a.tools:
        found["peer"] = a_step(run_peer(task, folder / "peer", THREADS, logs / f"{name}-{number}-peer.log"), a.iters)["step"]
    found["products"] = sum(limits.values())
    say(f"round {number}  {name:12} " + ", ".join(f"{what} {seconds:.4f} s" for what, seconds in found.items()))
    return found


def row_of(what, name, rounds):
    """Medians over the rounds; ratios are those of one round."""
    def median(pick):
        values = [pick(r[name]) for r in rounds]
        return statistics.median(values) if None not in values else None

    def ratio(r, above, below):
        return r[above] / r[below] if above in r and below in r else None

    return {what: name, "step": median(lambda r: r.get("ours")), "products": median(lambda r: r["products"]),
            "over_products": median(lambda r: ratio(r, "ours", "products")), "peer_step": median(lambda r: r.get("peer")),
            "peer_over_products": median(lambda r: ratio(r, "peer", "products")),
            "peer_over_ours": median(lambda r: ratio(r, "peer", "ours"))}


def text_of(what, rows):
    def cell(value, digits):
        return "-" if value is None else f"{value:.{digits}f}"
    header = ["", "s per step", "products", "ours / products", "auto-round", "auto-round / products", "auto-round / ours"]
    return "\n".join(table(header, [[row[what], *(cell(row[key], 4 if key.endswith(("step", "products")) and "over" not in key else 2)
                                                  for key in list(row)[1:])] for row in rows]))


def read_names(known):
    def names(text):
        found = text.split(",")
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"knows {', '.join(known)}, not '{unknown[0]}'")
        return found
    return names


def read_arguments(bench, description):
    parser = argparse.ArgumentParser(description=description)
    names = list(bench.families)
    parser.add_argument("--families" if bench.what == "family" else f"--{bench.what}", dest="names", type=read_names(names),
                        default=names, help=f"some of {', '.join(names)}, with commas")
    parser.add_argument("--tools", type=read_names(["ours", "peer"]), default=["ours", "peer"])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the JSON file")
    parser.add_argument("--iters", type=whole_from(1), default=40, help="steps per block")
    parser.add_argument("--repeats", type=whole_from(1), default=2, help="rounds")
    parser.add_argument("--blocks", type=whole_from(2), default=3, help="of each model")
    parser.add_argument("--ranks", type=int, choices=[1, 2], default=1,
                        help="of Roundtable, on two threads in all; with 2 a step also sums gradients")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, all other text on stderr")
    return parser.parse_args()


def run(bench, description):
    """The whole of a script: from its arguments to the table and the JSON object."""
    a = read_arguments(bench, description)
    machine = describe_machine()
    if machine["busy_before"] > 0.1:
        say(f"warning: others use {100 * machine['busy_before']:.0f} % of this machine: the figures will be wrong")
    logs = a.out.parent / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    rounds = []
    try:
        for number in range(1, a.repeats + 1):
            rounds.append({})
            for name in a.names:
                with tempfile.TemporaryDirectory(prefix="roundtable-bench-") as folder:
                    rounds[-1][name] = measure(a, bench, name, number, pathlib.Path(folder), logs)
    except ToolFailed as error:
        sys.exit(f"error: {error}")
    rows = [row_of(bench.what, name, rounds) for name in a.names]
    settings = {"iters": a.iters, "blocks": a.blocks, "ranks": a.ranks, "batch_size": bench.batch, "seqlen": bench.seqlen,
                "samples": bench.samples, "bits": Task.bits, "group_size": Task.group_size, "goal": bench.goal}
    results = {"rows": rows, "rounds": rounds, "settings": settings, "machine": machine}
    a.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text_of(bench.what, rows), file=sys.stderr if a.json else sys.stdout)
    print(json.dumps(results))
