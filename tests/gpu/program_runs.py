"""Runs of the program for check_gpus.py: inputs made once, configs from settings, the output of each run in a log."""

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "bench")]
os.environ.setdefault("ROUNDTABLE_BINARY", str(ROOT / "build/src/roundtable"))
os.environ.setdefault("ROUNDTABLE_MPIRUN", "mpirun --bind-to none --oversubscribe")

import program  # noqa: E402
import tiny_model  # noqa: E402

ON_GPU = {"parallel.backend": "nccl"}
ON_CPU = {"parallel.backend": "mpi"}


class NoGpu(Exception):
    """The program finds none; the text is one line for the user."""


class RunFailed(Exception):
    """A run that should have succeeded; the text is the program's own line."""


def gpus_of_this_node():
    import torch  # here, because it takes seconds
    return torch.cuda.device_count()


class Runs:
    """The node under test, and where runs put their files."""

    def __init__(self, folder, logs, build, ranks, limit, tiny):
        self.started = time.monotonic()
        self.folder, self.logs, self.build, self.limit, self.tiny = folder, logs, build, limit, tiny
        self.models = {}
        self.ranks = ranks or gpus_of_this_node()
        if self.ranks == 0:
            raise NoGpu("LibTorch finds no GPU on this node (CUDA 13 needs a driver of version 580 or newer)")
        plan = program.run(["plan", self.config("plan", self.model("llama") | ON_GPU), "--json"], self.ranks)
        if plan.code != 0:
            raise NoGpu((plan.errors or [f"roundtable plan ended with {plan.code}"])[0].removeprefix("error: "))
        self.devices = plan.json["devices"]

    def model(self, family):
        """The settings of a run on a tiny random model of this family, with evaluation."""
        if family not in self.models:
            folder = self.folder / family
            folder.mkdir()
            settings = tiny_model.make_inputs(folder, rows=16, seqlen=32, family=family)
            tiny_model.make_tokens(folder / "eval.safetensors", rows=8, seqlen=32, seed=9)
            self.models[family] = settings | {"run.eval_tokens": str(folder / "eval.safetensors"), "tuning.iters": 8}
        return self.models[family]

    def config(self, name, settings):
        return program.write_config(self.folder / f"{name}.yaml", settings | {"output.path": str(self.output(name))})

    def output(self, name):
        return self.folder / "out" / name

    def quantize(self, name, settings, ranks=1, seconds=240):
        """(summary, events of blocks) of a run into the output of this name."""
        command = program.command_line(["quantize", self.config(name, settings), "--json"], ranks)
        said = self.log(name, command, seconds)
        lines = pathlib.Path(f"{self.output(name)}.run/events.jsonl").read_text().splitlines()
        return json.loads(said.strip().splitlines()[-1]), [e for e in map(json.loads, lines) if e["event"] == "block"]

    def log(self, name, command, seconds, good=(0,)):
        """stdout of a command; all that it says goes to its log. Raises RunFailed with its last line of an error."""
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=seconds)
        (self.logs / f"{name}.log").write_text(done.stdout + done.stderr)
        if done.returncode not in good:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
            raise RunFailed(f"ended with {done.returncode}: {lines[0].strip() if lines else 'see its log'} ({name}.log)")
        return done.stdout

    def weights(self, name):
        """{file name: bytes} of the weights that a run has written."""
        return {path.name: path.read_bytes() for path in sorted(self.output(name).glob("*.safetensors"))}
