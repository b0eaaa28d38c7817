"""What a disk can do to a run: files cut short, left-overs, and a clock that was set back (full_disk_test.py: no space,
read-only). Nothing finished is lost, nothing half-finished is taken for finished, and the last start ends with
undisturbed bytes."""

import os
import pathlib
import shutil
import struct
import unittest

import program
import tiny_model

MACHINE = 3


class DiskCase(program.Case):
    ROWS = 64
    SETTINGS = {}  # beside those of all classes

    @classmethod
    def prepare_model(cls, path):
        """What a class changes of the model's directory."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, rows=cls.ROWS)
        cls.prepare_model(cls.folder / "model")
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 30,
            "parallel.shards": 1,
            "parallel.stages": 2,
            "run.keep_boundaries": True,
            "run.eval_tokens": str(cls.folder / "tokens.safetensors"),
        } | cls.SETTINGS)
        cls.undisturbed = cls.folder / "undisturbed"
        result = program.run(["quantize", cls.config, "--set", f"output.path={cls.undisturbed}"])
        assert result.code == 0, result

    def command(self, output):
        return program.quantize_command(self.config, output)

    def tuned(self, output):
        return [e["block"] for e in program.events(f"{output}.run", "block")]

    def finish(self, output, ranks=1, **environment):
        result = program.run(self.command(output), ranks, **environment)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(program.digests(output), program.digests(self.undisturbed))
        return result


class DamageTest(DiskCase):
    """One killed run, copied and spoilt in many ways."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.killed = cls.folder / "killed"
        case = cls("run")
        job = program.start(case.command(cls.killed))
        try:
            program.wait_for(lambda: len(case.tuned(cls.killed)) >= 3, job)
        finally:
            program.kill(job)
        cls.before = case.tuned(cls.killed)
        assert len(cls.before) == 3, "the job had ended before it was killed"

    def copy(self, name):
        output = self.folder / name
        for suffix in ("", ".run"):
            shutil.copytree(f"{self.killed}{suffix}", f"{output}{suffix}")
        # The path is not in the fingerprint, so that a run may be moved.
        return output, pathlib.Path(f"{output}.run")

    def anew(self, output):
        return self.tuned(output)[len(self.before):]

    def test_a_torn_last_record_loses_that_block_alone(self):
        output, run = self.copy("torn")
        journal = (run / "journal").read_bytes()
        at = 0
        while True:  # to the head of the last record
            size = struct.unpack_from("<I", journal, at)[0]
            if at + 16 + size == len(journal):
                break
            at += 16 + size
        for cut in (at + 1, at + 16, len(journal) - 1):
            output, run = self.copy(f"torn-{cut}")
            (run / "journal").write_bytes(journal[:cut])
            self.finish(output)
            self.assertEqual(self.anew(output), [self.before[-1], 3])

    def test_a_boundary_cut_short_is_made_anew(self):
        output, run = self.copy("boundary")
        boundary = run / "boundary-00002.h5"
        os.truncate(boundary, boundary.stat().st_size // 2)
        self.finish(output)
        self.assertEqual(self.anew(output), [3])

    def test_a_boundary_with_another_byte_is_refused_and_made_anew_once_removed(self):
        output, run = self.copy("flipped")
        boundary = run / "boundary-00002.h5"
        data = bytearray(boundary.read_bytes())
        data[len(data) // 2] ^= 1
        boundary.write_bytes(data)
        self.fail_with(self.command(output), 1, MACHINE, boundary, "checksums", "remove this file")
        boundary.unlink()
        self.finish(output)

    def test_a_shard_cut_short_is_tuned_anew_with_what_follows_it(self):
        output, _ = self.copy("shard")
        shard = output / "model-00001-of-00005.safetensors"
        os.truncate(shard, shard.stat().st_size - 1)
        result = self.finish(output)
        self.assertIn("is missing or was changed", result.err)
        self.assertEqual(sorted(self.anew(output)), [0, 1, 3])

    def test_left_over_temporary_files_are_removed_and_no_others(self):
        output, run = self.copy("stale")
        stale = [output / "model-00004-of-00005.safetensors.tmp-elsewhere-12345", run / "boundary-00002.h5.tmp",
                 run / "config.yaml.tmp-elsewhere-1"]
        mine = [run / "notes.tmp", run / "tmp-notes-1"]
        for path in stale + mine:
            path.write_text("half a file")
        self.finish(output)
        self.assertEqual([p for p in stale if p.exists()], [])
        self.assertEqual([p for p in mine if p.exists()], mine)

    def test_the_last_shard_of_a_finished_run_cut_short_is_written_anew(self):
        output, run = self.copy("last")
        self.finish(output)
        shard = output / "model-00005-of-00005.safetensors"
        os.truncate(shard, shard.stat().st_size - 1)
        result = self.finish(output)
        self.assertNotIn("finished already", result.out)
        self.assertIn("finished already", self.finish(output).out)

    def test_a_clock_that_was_set_back(self):
        output, _ = self.copy("clock")
        clock = {"LD_PRELOAD": program.FAULT_SHIM, "ROUNDTABLE_CLOCK": str(-86400 * 365)}
        self.finish(output, 2, **clock)
        self.assertEqual(self.anew(output), [3])
        times = [e["time"] for e in program.events(f"{output}.run")]
        self.assertLess(times[-1], times[0], "the clock was not set back")
        self.assertIn("finished", self.succeed(["status", output]).out)


if __name__ == "__main__":
    unittest.main()
