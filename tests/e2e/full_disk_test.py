"""A disk that is full in each phase, or read-only: one line that names the file and the fix. Every file that has its name
is complete, none is lost, and once there is space the same command ends with the bytes of an undisturbed run."""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import unittest

import program
import tiny_model
from restart_disk_test import MACHINE, DiskCase

BAD_INPUT, START_AGAIN = 2, 75
FORMATS = ["auto_round:auto_gptq", "qdq", "gguf"]
# HDF5 over MPI-IO does not say why it could not write.
FIX = "free some space|check the space"


def records(output):
    """Of a run's journal: | size u32 | ~size u32 | checksum u64 | JSON | each (src/rundir/journal.h)."""
    path = pathlib.Path(f"{output}.run") / "journal"
    data = path.read_bytes() if path.exists() else b""
    found, at = [], 0
    while at + 16 <= len(data):
        end = at + 16 + struct.unpack_from("<I", data, at)[0]
        if end > len(data):
            break  # torn
        found.append(json.loads(data[at + 16:end]))
        at = end
    return found


def standing(output):
    """name -> digest of every file that has its final name."""
    return {name: digest for name, digest in program.digests(output).items() if ".tmp-" not in name}


class FullDiskCase(DiskCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = program.digests(cls.undisturbed)

    def hold(self, output, before, result, phase, file=""):
        """`result` is that of a run that met a full disk in `phase`; `before` stood before it."""
        self.assertEqual(result.code, MACHINE, result)
        self.assertEqual(len(result.errors), 1, result)
        error = result.errors[0]
        self.assertRegex(error, FIX)
        self.assertIn(file, error)
        self.assertIn(f", {phase}" if phase != "plan" else "error: /", error)  # plan's errors are no rank's
        after = standing(output)
        self.assertLessEqual(after.items(), self.whole.items())
        self.assertLessEqual(before.items(), after.items())

    def hold_finished(self, output, ranks=1):
        self.finish(output, ranks)
        blocks = [r["block"] for r in records(output) if r["type"] == "block"]
        self.assertEqual(sorted(blocks), [0, 1, 2, 3], "a block was lost, or tuned twice")


class EachWriteTest(FullDiskCase):
    """One run that meets a full disk a file later in each start."""

    ROWS = 16
    # Of such a size that qdq has several files.
    SETTINGS = {"tuning.iters": 8, "output.formats": FORMATS, "output.max_shard_size": "400KB"}

    @classmethod
    def prepare_model(cls, path):
        tiny_model.save_byte_tokenizer(path)

    # phase, ranks, the fault's rank, the call that fails, the file.
    #
    # Events of a start that finds all done: start; phase_start and phase of calibrate, tune, assemble, prove, formats,
    # evaluate; summary. After evaluate begins the summary, which is no phase of its own.
    FAULTS = [
        ("plan", 1, 0, "write:1", "/journal"),
        ("plan", 1, 0, "write:1", ".run/config.yaml"),
        ("plan", 2, 0, "write:1", "/events.jsonl"),
        ("calibrate", 2, 1, "write:1", "/boundary-00000.h5"),
        ("calibrate", 1, 0, "fsync:1", "/boundary-00000.h5"),
        ("calibrate", 1, 0, "write:1", "/journal"),
        ("tune", 2, 1, "write:1", "/model-0000"),
        ("tune", 2, 0, "write:1", "/journal"),
        ("tune", 2, 0, "write:7", "/events.jsonl"),
        ("assemble", 1, 0, "write:1", "/model-00005-of"),
        ("assemble", 1, 0, "write:1", "/config.json"),
        ("assemble", 1, 0, "write:1", "/model.safetensors.index.json"),
        ("assemble", 1, 0, "write:2", "/journal"),
        ("prove", 1, 0, "write:8", "/events.jsonl"),
        ("formats", 2, 1, "write:1", "/qdq/model-0000"),
        ("formats", 1, 0, "write:1", "/gguf/journal"),
        ("formats", 1, 0, "write:2", "/gguf/model.gguf"),
        ("evaluate", 1, 0, "write:2", "/journal"),  # the file of gguf is on record
        ("evaluate", 1, 0, "write:1", "/README.md"),
        ("evaluate", 2, 0, "write:1", "/gguf/README.md"),
        ("evaluate", 1, 0, "write:14", "/events.jsonl"),
        ("evaluate", 1, 0, "write:1", "/journal"),
    ]

    def test_no_space_for_each_file(self):
        output, log = self.folder / "out", self.folder / "injected"
        for phase, ranks, rank, call, file in self.FAULTS:
            before = standing(output)
            log.unlink(missing_ok=True)
            result = program.run(self.command(output), ranks, **program.fault(f"{rank}:{call}:ENOSPC:{file}", log))
            what = f"{phase}, {file}: {result}"
            self.assertTrue(log.exists(), f"no fault was injected into {what}")
            with self.subTest(what):
                self.hold(output, before, result, phase, file)
        self.hold_finished(output)

    def test_standard_output(self):
        command = program.command_line(["plan", self.config, "--set", f"output.path={self.folder / 'planned'}"], 1)
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=program.TIMEOUT)
        self.assertEqual(done.returncode, MACHINE, done.stderr)
        self.assertRegex(done.stderr, "(?m)^error: .*No space left on device; free some space")


class SmallDiskTest(FullDiskCase):
    """On a tmpfs of our own."""

    SETTINGS = {"output.formats": FORMATS[:2]}
    CARD_KB = 400

    @classmethod
    def prepare_model(cls, path):
        """With a line in its card that the output's card keeps, so that the last file of a run needs space."""
        (path / "README.md").write_text(f"---\nlicense_link: {'x' * 1000 * cls.CARD_KB}\n---\n")

    def setUp(self):
        self.disk = self.folder / "disk"
        self.disk.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "roundtable-test", self.disk], capture_output=True)
        if done.returncode != 0:
            self.skipTest(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.disk], check=True)

    def grant(self, kilobytes):
        """So much for the run in all; None: the whole disk."""
        filler = self.disk / "filler"
        filler.unlink(missing_ok=True)
        if kilobytes is not None:
            state = os.statvfs(self.disk)
            filler.write_bytes(bytes(state.f_blocks * state.f_frsize - 1024 * kilobytes))

    def begin(self, output, ranks):
        """A start that leaves at once. A run that has not begun is refused where the disk has less than it needs."""
        self.grant(100)
        for command in ("plan", "quantize"):
            self.fail_with([command, *self.command(output)[1:]], ranks, BAD_INPUT, f"output.path: {output}",
                           "the run needs about", "in this file system (boundaries ", "kB are free; free some space")
        self.assertFalse(output.exists() or pathlib.Path(f"{output}.run").exists())
        self.grant(None)
        result = program.run(self.command(output) + ["--set", "run.max_time=0.001"], ranks)
        self.assertEqual(result.code, START_AGAIN, result)

    def test_no_space_in_each_phase(self):
        # Two boundaries take 264 kB each, a block's shard 24 kB, the last one 260 kB, what goes along about 60 kB, the
        # files of qdq 760 kB, and 400 kB each model card, which is written when evaluate is done.
        granted = {"calibrate": 200, "tune": 600, "assemble": 780, "formats": 1300, "evaluate": 2050}
        files = {"calibrate": "boundary-", "assemble": "model-00005-of", "formats": "qdq/model", "evaluate": "README.md"}
        for ranks, phases in ((1, granted), (2, ("calibrate", "tune", "assemble"))):
            output = self.disk / f"out-{ranks}"
            self.begin(output, ranks)
            for phase in phases:
                with self.subTest(ranks=ranks, phase=phase):
                    self.grant(granted[phase])
                    before = standing(output)
                    self.hold(output, before, program.run(self.command(output), ranks), phase, files.get(phase, ""))
            self.grant(None)
            self.hold_finished(output, ranks)
            shutil.rmtree(output)
            shutil.rmtree(f"{output}.run")

    def test_read_only(self):
        output = self.disk / "read-only"
        remount = lambda how: subprocess.run(["mount", "-o", f"remount,{how}", self.disk], check=True)
        remount("ro")
        for command in ("plan", "quantize"):
            self.fail_with([command, *self.command(output)[1:]], 2, BAD_INPUT, f"output.path: {output}: cannot be written",
                           "Read-only file system")
        remount("rw")
        job = program.start(self.command(output))
        try:
            program.wait_for(lambda: len(self.tuned(output)) >= 2, job)
        finally:
            program.kill(job)
        remount("ro")
        self.fail_with(self.command(output), 1, BAD_INPUT, output, "Read-only file system")
        remount("rw")
        self.finish(output)


if __name__ == "__main__":
    unittest.main()
