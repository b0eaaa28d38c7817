"""Goes over every causal language model of the installed transformers and the text parts of its models for text and
images, with tiny random configs: exports each as graphs, which compares them with transformers in Python, and runs these
graphs in the program (tests/graph/graph_check.cc). Prints a line per model and "N of M".

  tests/peer/coverage.py --graph-check PROGRAM [--limit SECONDS] [--table FILE | --check FILE] [MODEL_TYPE ...]

--table writes src/graph/COVERAGE.md; with names, their lines alone. --check compares such a file with the named models,
and looks whether it has a line for every model.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")
MOST_MEMORY = 14 << 30
# Largest relative differences of outputs and of gradients: launch/graph_export/check.py has the same.
OUTPUT, GRADIENT = 1e-4, 1e-3


def in_program(program, graph, exporter, model):
    """Runs graph_check. -> largest differences, or what it found wrong."""
    from graph_samples import samples_of
    from safetensors.torch import save_file
    samples = os.path.join(graph, "..", "samples.safetensors")
    save_file(samples_of(exporter, model), samples)
    done = subprocess.run([program, graph, samples, "--output", str(OUTPUT), "--gradient", str(GRADIENT)], text=True,
                          capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = done.stdout.splitlines()
    if done.returncode != 0:
        bad = [line for line in lines if line.startswith("FAIL")] or [done.stderr.strip() or f"exit code {done.returncode}"]
        return {"error": f"in the program: {bad[0].replace(graph, '')}", "fault": True}
    if len(lines) != 2 + 2 * len(model["kinds"]):
        return {"error": f"in the program: {len(lines)} comparisons for {len(model['kinds'])} kinds", "fault": True}
    words = [line.split() for line in lines]
    return {"program_output": max(float(line[line.index("output") + 1].rstrip(",")) for line in words),
            "program_gradient": max(float(line[line.index("gradients") + 1]) for line in words)}


def look_at(name, program):
    """-> a row of the table, as a dictionary."""
    import tiny_configs
    import torch
    from graph_export import folder as graph_folder
    from graph_export.errors import BadInput, reason
    from graph_export.export import Exporter
    from graph_export.model_source import Source
    with tempfile.TemporaryDirectory() as folder:
        graph = os.path.join(folder, "graph")
        try:
            tiny_configs.config_of(name).save_pretrained(folder)
            torch.manual_seed(0)
            exporter = Exporter(Source(folder), tiny_configs.SEQLEN, torch.float32, lambda line: None)
            model, constants = exporter.run()
            graph_folder.write(graph, model, constants)
            found = in_program(program, graph, exporter, model)
        except BadInput as error:
            return {"error": str(error).replace(f"{folder}/config.json: ", "")}
        except Exception as error:
            return {"error": reason(error), "fault": True}
    return {"class": model["architecture"], "kinds": len(model["kinds"]), "blocks": len(model["blocks"]),
            "carried": sorted(set(model["boundary"]) - {"hidden"}),
            "tokens": any(i["kind"] == "tokens" for kind in model["kinds"] for i in kind["inputs"]), **model["check"], **found}


def in_child(name, program, limit):
    """A model that takes too long or dies takes no other with it."""
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as result:
        child = os.fork()
        if child == 0:
            import signal
            signal.alarm(limit)
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                row = look_at(name, program)
            except BaseException as error:
                row = {"error": f"{type(error).__name__}: {error}", "fault": True}
            json.dump(row, result)
            result.flush()
            os._exit(0)
        os.waitpid(child, 0)
        result.seek(0)
        text = result.read()
    return json.loads(text) if text else {"error": f"it takes more than {limit} s or too much memory", "fault": True}


def look_at_all(names, program, limit):
    """name -> entry of the table."""
    import coverage_table
    import tiny_configs
    found = {}
    for name in names:
        if name in tiny_configs.LEFT_OUT:
            found[name] = coverage_table.Entry(coverage_table.LEFT_OUT, tiny_configs.LEFT_OUT[name])
            continue
        started = time.time()
        row = in_child(name, program, limit)
        found[name] = coverage_table.entry_of(row)
        numbers = " ".join(f"{row[key]:.1e}" for key in ("output", "gradient", "program_output", "program_gradient") if key in row)
        print(f"{name}: {found[name].state}: {found[name].text} {numbers} {time.time() - started:.0f} s"
              f"{' FAULT' if row.get('fault') else ''}", flush=True)
    return found


def versions():
    import torch
    import transformers
    return f"transformers {transformers.__version__} with torch {torch.__version__.split('+')[0]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph-check", required=True, metavar="PROGRAM", help="build/tests/graph/graph_check")
    parser.add_argument("--limit", type=int, default=240, metavar="SECONDS", help="for one model")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--table", metavar="FILE", help="src/graph/COVERAGE.md: write it, or the lines of the named models in it")
    choice.add_argument("--check", metavar="FILE", help="src/graph/COVERAGE.md: compare its lines of the named models")
    parser.add_argument("names", nargs="*", metavar="MODEL_TYPE")
    arguments = parser.parse_args()
    import logging
    logging.disable(logging.WARNING)
    import coverage_table
    import tiny_configs
    import torch
    import graph_export.export  # noqa: F401: once, before the forks
    torch.set_num_threads(1)
    unknown = sorted(set(arguments.names) - set(tiny_configs.all_names()))
    if unknown:
        parser.error(f"{unknown[0]} is no model that this goes over")
    found = look_at_all(arguments.names or tiny_configs.all_names(), os.path.abspath(arguments.graph_check), arguments.limit)
    print(coverage_table.summary(found))
    if arguments.table:
        others = coverage_table.read(arguments.table)[0] if arguments.names and os.path.exists(arguments.table) else {}
        coverage_table.write(arguments.table, {**others, **found}, versions(), (OUTPUT, GRADIENT))
    if arguments.check:
        wrong = coverage_table.problems(arguments.check, found, tiny_configs.all_names(), versions())
        print("\n".join(wrong))
        return 1 if wrong else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
