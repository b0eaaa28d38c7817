"""A fault on one rank ends all ranks soon, with one report that names rank, host, phase, block and cause."""

import os
import signal
import socket
import time
import unittest

import numpy
from safetensors.numpy import load_file, save_file

import program
import tiny_model

HOST = socket.gethostname()
INTERNAL, MACHINE, NUMERIC = 1, 3, 4
TIME_LIMIT = 5  # of a rank without a step
END = 10        # seconds from a report to the end of all ranks
ROWS, SEQLEN = 16, 16


class FaultCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.settings = tiny_model.make_inputs(cls.folder, rows=ROWS, seqlen=SEQLEN) | {
            "tuning.iters": 10,
            "parallel.shards": 2,
            "parallel.stages": 2,
            "run.time_limit": str(TIME_LIMIT),
        }

    def command(self, name, **changes):
        settings = self.settings | {"output.path": str(self.folder / name)}
        settings |= {key.replace("__", "."): value for key, value in changes.items()}
        return ["quantize", program.write_config(self.folder / f"{name}.yaml", settings)]

    def one_report(self, text, *words):
        reports = [line for line in text.splitlines() if "error: " in line]
        self.assertEqual(len(reports), 1, text)
        for word in words:
            self.assertIn(word, reports[0], text)

    def strike(self, fault, command, code, *words, ranks=2):
        log = self.folder / "injected"
        log.unlink(missing_ok=True)
        result = program.run(command, ranks, **program.fault(fault, log))
        self.assertTrue(log.exists(), f"{fault} was not injected: {result}")
        self.assertEqual(result.code, code, result)
        self.one_report(result.out + result.err, *words)
        return result


class ErrorsTest(FaultCase):
    def test_one_phase_after_the_other(self):
        """Each start meets a fault a phase later than the one before; the last one ends with undisturbed bytes."""
        self.succeed(self.command("undisturbed"), 2)
        command = self.command("faulty")
        rank = lambda n, phase: f"rank {n} on {HOST}, {phase}"
        strike = lambda fault, code, *words: self.strike(fault, command, code, *words)
        # A block that rank 1 reads for both: the ranks agree on the error, and the rank that read is named.
        strike("1:read:6:EIO:model.safetensors", MACHINE, rank(1, "calibrate, block "), "model.safetensors",
               "Input/output error")
        strike("1:write:1:EIO:boundary-", MACHINE, rank(1, "calibrate, block 0: "), "boundary-00000.h5",
               "file write failed")
        strike("1:MPI_Iallreduce:5:EIO", MACHINE, rank(1, "tune, block 0: "), "MPI_Iallreduce")
        strike("0:write:1:throw:model-0000", INTERNAL, rank(0, "tune, block 0: "), "an injected exception")
        strike("0:write:1:ENOSPC:/journal", MACHINE, f"the coordinator, {rank(0, 'tune: ')}", "journal", "No space left")
        strike("0:fsync:1:EIO:model-00003-of", MACHINE, rank(0, "tune, block 2: "), "Input/output error")
        strike("0:write:1:ENOSPC:model-00005-of", MACHINE, rank(0, "assemble: "), "model-00005", "free some space")
        # Both ranks compare the files of earlier starts with the journal.
        strike("1:read:1:EIO:model-0000", MACHINE, "rank 1: ", "model-0000")
        strike("1:read:1:EIO:generation_config.json", MACHINE, rank(1, "prove: "), "generation_config.json")
        self.succeed(command, 2)
        self.assertEqual(program.digests(self.folder / "faulty"), program.digests(self.folder / "undisturbed"))

    def test_the_same_fault_on_all_ranks_is_reported_once(self):
        self.strike("*:write:1:ENOSPC:model-0000", self.command("all", parallel__shards=1), MACHINE, f" on {HOST}, tune, block ",
                    "No space left")

    def test_samples_of_one_rank_that_break_the_loss(self):
        """A token that only the second half of the samples holds, the only one that a steep norm lets through."""
        model = tiny_model.make_model(self.folder / "steep")
        tensors = load_file(model / "model.safetensors")
        embedding = tensors["model.embed_tokens.weight"]
        embedding[:, 5] = 0
        embedding[7, 5] = 1
        tensors["model.layers.0.input_layernorm.weight"][5] = 1e30
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        ids = numpy.full((ROWS, SEQLEN), 3)
        ids[ROWS // 2:, 4] = 7
        tiny_model.make_tokens(self.folder / "steep.safetensors", ids=ids)
        command = self.command("nan", model__path=str(model), tuning__amp=False,
                               calibration__tokens=str(self.folder / "steep.safetensors"))
        result = program.run(command, 2)
        self.assertEqual(result.code, NUMERIC, result)
        self.one_report(result.out + result.err, f"rank 1 on {HOST}, tune, block 0: ", "the loss is", "layer self_attn.")


class HangsTest(FaultCase):
    def hang(self, name, ready, stop, *words, environment=(), **changes):
        log = self.folder / f"{name}.log"
        job = program.start(self.command(name, **changes), 2, log, **dict(environment))
        try:
            program.wait_for(ready, job)
            stop(job)
            program.wait_for(lambda: "error: " in log.read_text(), None, TIME_LIMIT + 15)
            start = time.monotonic()
            code = job.wait(END)
            self.assertLess(time.monotonic() - start, END)
        finally:
            program.kill(job)
        self.assertEqual(code, MACHINE, log.read_text())
        self.assertEqual(program.ranks_of(job), [])
        self.one_report(log.read_text(), "run.time_limit", *words)

    def test_a_stopped_rank(self):
        for victim in (0, 1):
            name = f"stopped-{victim}"
            boundary = self.folder / f"{name}.run" / "boundary-00000.h5"
            self.hang(name, boundary.exists,
                      lambda job: (time.sleep(1.5), os.kill(sorted(program.ranks_of(job))[victim], signal.SIGSTOP)),
                      f"rank {victim} on {HOST}, tune, block 0: no sign of life", tuning__iters=1000000)

    def hang_inside(self, name, fault, *words, **changes):
        injected = self.folder / f"{name}.injected"
        self.hang(name, injected.exists, lambda job: None, *words, environment=program.fault(fault, injected), **changes)

    def test_a_call_that_does_not_return(self):
        self.hang_inside("file", "0:fsync:1:hang:model-00001", f"rank 0 on {HOST}, tune, block 0: hangs")
        self.hang_inside("mpi", "1:MPI_Iallreduce:3:hang", f"rank 1 on {HOST}, tune, block 0: hangs")
        self.hang_inside("coordinator", "0:fsync:6:hang:/journal", f"rank 0 on {HOST}, tune", "its coordinator hangs")

    def test_a_whole_job_that_was_stopped_goes_on(self):
        """As by a batch system that suspends jobs: nobody was silent."""
        name = "suspended"
        job = program.start(self.command(name, tuning__iters=1000000, run__max_time="15"), 2, self.folder / f"{name}.log")
        try:
            program.wait_for((self.folder / f"{name}.run" / "boundary-00000.h5").exists, job)
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in program.ranks_of(job):
                    os.kill(pid, number)
                time.sleep(TIME_LIMIT + 1 if number == signal.SIGSTOP else 0)
            self.assertEqual(job.wait(30), 75, (self.folder / f"{name}.log").read_text())
        finally:
            program.kill(job)


if __name__ == "__main__":
    unittest.main()
