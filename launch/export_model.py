#!/usr/bin/env python3
"""Writes the graphs of a model: what each of its blocks computes, taken from the model's own code in transformers.

  launch/export_model.py MODEL_DIR --out DIR --seqlen N [--dtype bfloat16|float16|float32] [--trust-remote-code]

config.json is enough; no weights are read. src/graph/FORMAT.md describes the folder DIR. Before it is written, the graphs
are compared with transformers on a small sibling of the model: outputs and gradients. A model that cannot be exported is
refused in one line that says why.
"""

import argparse
import gc
import os
import resource
import sys
import time

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything comes from the folder

DTYPES = ("bfloat16", "float16", "float32")


def positive(text):
    value = int(text)
    if not 2 <= value <= 1 << 20:
        raise argparse.ArgumentTypeError("it takes a number from 2 to 1048576")
    return value


def parse():
    parser = argparse.ArgumentParser(
        description="Writes the graphs of a model: what each of its blocks computes, for one number of tokens and one dtype. "
        "config.json is enough; no weights are read. The graphs are compared with transformers before they are written.",
        epilog="Exit codes: 0: the folder is written; 1: a file cannot be read or written; 2: the model cannot be exported, or an "
        "option is wrong, and one line says why. src/graph/FORMAT.md describes the folder.")
    parser.add_argument("model", metavar="MODEL_DIR", help="the folder of the model; its config.json is read")
    parser.add_argument("--out", required=True, metavar="DIR", help="the graph folder to write; an older graph there is replaced")
    parser.add_argument("--seqlen", required=True, type=positive, metavar="N", help="tokens per sample")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="dtype of weights and hidden states (default bfloat16)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the Python code that lies in MODEL_DIR, if "
                        "transformers does not know the model. Only for models whose authors you trust")
    return parser.parse_args()


def main():
    arguments, started = parse(), time.time()
    import logging
    import warnings
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # PyTorch's and transformers' hints are about speed
    gc.disable()  # what the imports make stays, and to look through it again and again takes a second
    from graph_export.errors import BadInput
    from graph_export.export import export_model
    gc.freeze()
    gc.enable()
    try:
        model, size = export_model(arguments.model, arguments.out, arguments.seqlen, arguments.dtype,
                                   arguments.trust_remote_code, lambda line: print(line, flush=True))
    except BadInput as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    nodes = [len(kind["nodes"]) for kind in model["kinds"]]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{arguments.out}: {model['architecture']}, {len(model['blocks'])} blocks, {len(nodes)} kinds of "
          f"{min(nodes)} to {max(nodes)} nodes, {size / 1e6:.1f} MB; {time.time() - started:.1f} s, {memory:.1f} GiB of memory")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take PyTorch down in order takes a second
