"""`roundtable round` compared with auto-round's model-free mode on the same files, and with dd of the same bytes.

  python tests/bench/round_speed.py                  # 1 GB of random weights in bf16, in one file per block
  python tests/bench/round_speed.py --model DIR      # a model of yours
  python tests/bench/round_speed.py --gb 0.2 --rounds 3 --folder /scratch

Both tools round to 4 bits, sym, in groups of 128, into auto_round:auto_gptq, on two cores. Rows: ours on 1, 2 and 4 ranks
that share the cores, with and without the search of scales; auto-round with and without its own (disable_opt_rtn). dd
reads the input and writes as many bytes as our output has, with as many processes as there are ranks. Seconds are those
of whole processes: auto-round's hold 10 s of imports, and ours the start of MPI; the tools' own seconds are a column.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import save_file

from both_tools import BINARY, MPIRUN, ToolFailed, last_json, run
from speed_report import table

THREADS = 2
RANKS = (1, 2, 4)
HIDDEN, INNER = 2048, 5632
PEER = """
import sys, time
from auto_round import AutoRound
rounder = AutoRound(sys.argv[1], scheme="W4A16", model_free=True, disable_opt_rtn=sys.argv[3] == "one", device_map="cpu")
start = time.monotonic()
rounder.quantize_and_save(sys.argv[2], format="auto_round:auto_gptq")
print('{"seconds": %f}' % (time.monotonic() - start))
"""


def make_model(path, gb):
    """A Llama in name and shape: random weights, one file per block."""
    path.mkdir(parents=True)
    shapes = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
    blocks = max(1, round(gb * 1e9 / sum(2 * out * inputs for out, inputs in shapes.values())))
    generator = torch.Generator().manual_seed(1)
    index = {}
    for block in range(blocks):
        tensors = {f"model.layers.{block}.{name}.weight": torch.randn(shape, generator=generator).mul_(0.02).bfloat16()
                   for name, shape in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{block}.{name}.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
        if block == 0:
            tensors["model.norm.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
            tensors["model.embed_tokens.weight"] = torch.zeros(1024, HIDDEN, dtype=torch.bfloat16)
            tensors["lm_head.weight"] = torch.ones(1024, HIDDEN, dtype=torch.bfloat16)
        file = f"model-{block + 1:05d}-of-{blocks:05d}.safetensors"
        save_file(tensors, path / file, metadata={"format": "pt"})
        index |= {name: file for name in tensors}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (path / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": blocks, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 1024,
        "tie_word_embeddings": False}))


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def environment():
    return os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}


def ours(model, out, ranks, init_scale, log):
    config = out.parent / "round.yaml"
    config.write_text(json.dumps({"model": {"path": str(model)}, "output": {"path": str(out)},
                                  "parallel": {"threads": max(1, THREADS // ranks)},
                                  "tuning": {"init_scale": init_scale}}))
    said = run("roundtable round", [*MPIRUN, "-n", str(ranks), str(BINARY), "round", str(config), "--json"], log,
               environment() | {"OMP_NUM_THREADS": str(max(1, THREADS // ranks))})
    return last_json(said)["seconds"]


def theirs(model, out, init_scale, log):
    return last_json(run("auto-round", [sys.executable, "-c", PEER, str(model), str(out), init_scale], log,
                         environment()))["seconds"]


def dd(files, written, folder, copies):
    """Seconds to read the files and to write as many bytes as `written`, by so many processes at a time."""
    part = max(1, written // copies // (1 << 20))
    commands = []
    for copy in range(copies):
        reads = " && ".join(f"dd if={path} of=/dev/null bs=4M status=none" for path in files[copy::copies]) or "true"
        write = f"dd if=/dev/zero of={folder}/dd-{copy} bs=1M count={part} conv=fsync status=none"
        commands.append(f"{reads} && {write}")
    start = time.monotonic()
    jobs = [subprocess.Popen(["sh", "-c", command]) for command in commands]
    if any(job.wait() for job in jobs):
        raise ToolFailed("dd failed")
    seconds = time.monotonic() - start
    for copy in range(copies):
        (folder / f"dd-{copy}").unlink()
    return seconds


def measure(model, folder, rounds):
    """{row: [(seconds of the process, the tool's own seconds)]}"""
    found, sizes = {}, {}
    turns = [(f"ours, {ranks} rank{'s' if ranks > 1 else ''}, {scale}", lambda out, log, r=ranks, s=scale: ours(model, out, r, s, log))
             for scale in ("search", "one") for ranks in RANKS]
    turns += [(f"auto-round, {scale}", lambda out, log, s=scale: theirs(model, out, s, log)) for scale in ("search", "one")]
    for _ in range(rounds):
        for name, turn in turns:
            out = folder / "out"
            start = time.monotonic()
            own = turn(out, folder / "log.txt")
            found.setdefault(name, []).append((time.monotonic() - start, own))
            sizes[name] = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
            print(f"{name}: {found[name][-1][0]:.1f} s, its own {own:.1f} s", file=sys.stderr, flush=True)
            for path in (out, folder / "out.run"):
                shutil.rmtree(path, ignore_errors=True)
        for copies in RANKS:
            seconds = dd(sorted(model.glob("*.safetensors")), sizes["ours, 1 rank, search"], folder, copies)
            found.setdefault(f"dd, {copies} at a time", []).append((seconds, seconds))
    return found, sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, help="a model directory, instead of random weights")
    parser.add_argument("--gb", type=float, default=1.0, help="size of the random weights")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", help="where everything is written; default: the folder for temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = pathlib.Path(name)
        model = arguments.model
        if model is None:
            model = folder / "model"
            make_model(model, arguments.gb)
        found, sizes = measure(model, folder, arguments.rounds)
        moved = bytes_of(model) + sizes["ours, 1 rank, search"]
    rows = [[name, f"{statistics.median(w for w, _ in runs):.1f}", f"{statistics.median(o for _, o in runs):.1f}",
             f"{moved / 1e6 / statistics.median(o for _, o in runs):.0f}"] for name, runs in found.items()]
    print("\n".join(table(["", "process, s", "its own, s", "MB/s read and written"], rows)))
    print(json.dumps({"runs": found, "bytes": sizes, "moved": moved}))


if __name__ == "__main__":
    try:
        main()
    except ToolFailed as error:
        sys.exit(f"error: {error}")
