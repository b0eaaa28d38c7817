"""Runs the program on the stand-in's devices and, for comparison, on the CPU; reads what the stand-in reports."""

import json
import os
import pathlib

from safetensors.torch import load_file

import program
import unpacked

ON_CPU = os.environ["ROUNDTABLE_BINARY"]
ON_STANDIN = os.environ["ROUNDTABLE_STANDIN_BINARY"]
ROUNDING = 1e-5  # of the largest gradient of a tensor: another order of summation in fp32
BF16_ROUNDING = 2 ** -8  # the same: one rounding to bf16 of a rank's part that is up here and down there ...
BF16_SHARE = 0.01  # ... which so few elements meet


class Case(program.Case):
    """`self.cpu(...)` and `self.standin(...)` run a command; a class's folder also holds the messages of NCCL."""

    def cpu(self, arguments, ranks=1):
        program.BINARY = ON_CPU
        return self.succeed([*arguments, "--set", "parallel.backend=mpi"], ranks)

    def run_standin(self, arguments, ranks=1, **environment):
        program.BINARY = ON_STANDIN
        return program.run(arguments, ranks, STANDIN_FOLDER=str(self.folder), STANDIN_REPORT=str(self.folder / "report"),
                           **environment)

    def standin(self, arguments, ranks=1, **environment):
        result = self.run_standin(arguments, ranks, **environment)
        self.assertEqual(result.code, 0, result)
        return result

    def report(self, rank=0):
        """What a rank of the last run did: contexts by device, operators, kernels, sums, messages, peak_bytes ..."""
        return json.loads((self.folder / f"report.{rank}").read_text())


def losses(run_directory):
    return {event["block"]: event["losses"] for event in program.events(run_directory, "block")}


def first_gradients(run_directory):
    """Those that run.save_gradients leaves: of the first step of each stage's first block, before any sign step."""
    return {f"{path.name} {name}": tensor for path in sorted(pathlib.Path(run_directory).glob("gradients-*"))
            for name, tensor in load_file(path).items()}


def integers_that_differ(one, other):
    """Of two checkpoints: elements of tensors that are not equal, of all."""
    a, b = unpacked.load_all(one), unpacked.load_all(other)
    assert set(a) == set(b), set(a) ^ set(b)
    return (sum(int((a[name] != b[name]).sum()) for name in a), sum(tensor.numel() for tensor in a.values()))


def other_gradients(one, other, in_bf16):
    """Of two run directories: None, or the first tensor whose gradients of the first step are others, not only otherwise
    rounded. Without one, a sign that differs is that of a gradient that is zero within rounding."""
    a, b = first_gradients(one), first_gradients(other)
    assert a and set(a) == set(b), set(a) ^ set(b)
    for name in a:
        x, y = a[name].double(), b[name].double()
        error = (x - y).abs() / x.abs().max()
        most, share = (BF16_ROUNDING, BF16_SHARE) if in_bf16 else (ROUNDING, 0)
        if error.max() > most or (error > ROUNDING).double().mean() > share:
            return name
    return None
