"""Goes over every causal LM of the installed transformers, with tiny random configs: exports it, which compares it with
transformers, and prints a table and "N of M".

  tests/peer/coverage.py [--limit SECONDS] [--table FILE] [MODEL_TYPE ...]
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
MOST_MEMORY = 14 << 30


def export_one(name):
    """-> a row of the table, as a dictionary."""
    import tiny_configs
    from graph_export.errors import BadInput, reason
    from graph_export.export import export_model
    with tempfile.TemporaryDirectory() as folder:
        try:
            tiny_configs.config_of(name).save_pretrained(folder)
            model, _ = export_model(folder, os.path.join(folder, "graph"), tiny_configs.SEQLEN, "float32")
        except BadInput as error:
            return {"error": str(error).replace(f"{folder}/config.json: ", "")}
        except Exception as error:
            return {"error": reason(error), "fault": True}
    kinds = model["kinds"]
    used = {node["op"].split("::")[1] for kind in kinds for node in kind["nodes"] if node["op"].startswith("rt::")}
    return {"nodes": [len(kind["nodes"]) for kind in kinds], "own": sorted(used), "batch": model["batch"],
            "carried": sorted(set(model["boundary"]) - {"hidden"}),
            "tokens": any(i["kind"] == "tokens" for kind in kinds for i in kind["inputs"]), **model["check"]}


def in_child(name, limit):
    """A model that takes too long or dies takes no other with it."""
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as result:
        child = os.fork()
        if child == 0:
            import signal
            signal.alarm(limit)
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                row = export_one(name)
            except BaseException as error:
                row = {"error": f"{type(error).__name__}: {error}", "fault": True}
            json.dump(row, result)
            result.flush()
            os._exit(0)
        os.waitpid(child, 0)
        result.seek(0)
        text = result.read()
    return json.loads(text) if text else {"error": f"more than {limit} s or too much memory", "fault": True}


def line(name, row):
    if "error" in row:
        return f"| {name} | no | {row['error'].replace('|', '/')[:600]} |"
    more = [f"takes {', '.join(row['carried'])}"] * bool(row["carried"]) + ["takes tokens"] * row["tokens"] + \
        [f"batch {row['batch']}"] * bool(row["batch"])
    return f"| {name} | {', '.join(map(str, row['nodes'][:6]))} nodes | {'; '.join(more)[:600]} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=240, metavar="SECONDS", help="for one model")
    parser.add_argument("--table", metavar="FILE", help="where to write the table too")
    parser.add_argument("names", nargs="*", metavar="MODEL_TYPE")
    arguments = parser.parse_args()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import logging
    logging.disable(logging.WARNING)
    import tiny_configs
    import torch
    import graph_export.export  # noqa: F401: once, before the forks
    torch.set_num_threads(1)
    lines, good, names = [], 0, arguments.names or tiny_configs.all_names()
    for name in names:
        started = time.time()
        row = in_child(name, arguments.limit)
        good += "error" not in row
        lines.append(line(name, row))
        print(lines[-1], f"{time.time() - started:.0f} s", row.get("output", ""), row.get("gradient", ""),
              "FAULT" if row.get("fault") else "", flush=True)
    summary = f"{good} of {len(names)}"
    print(summary)
    if arguments.table:
        with open(arguments.table, "w", encoding="utf-8") as file:
            file.write("\n".join([f"{summary} models are exported.", "", "| model_type | kinds | |", "|---|---|---|", *lines]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
