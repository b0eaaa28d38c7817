"""calibration.cache: runs of one model share the float model's hidden states. A complete file spares another scheme its
float pass, any other is made again, and the bytes of every run are those of a run without the cache."""

import os
import pathlib
import re
import shutil
import unittest

import h5py
import numpy

import program
import tiny_model

FLOAT_PASS = re.compile(r"calibrate: \d+ blocks")
ALL_TAKEN = "2 of 2 boundaries come from"
BOUNDARIES = ["boundary-00000.h5", "boundary-00002.h5"]  # of two stages


class CacheCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.inputs = tiny_model.make_inputs(cls.folder) | {
            "tuning.iters": 10,
            "parallel.shards": 1,
            "parallel.stages": 2,
        }
        cls.config = program.write_config(cls.folder / "config.yaml", cls.inputs)

    def command(self, name, cache, *settings):
        shared = [f"calibration.cache={self.folder / cache}"] if cache else []
        return program.quantize_command(self.config, self.folder / name, *shared, *settings)

    def quantize(self, name, cache, *settings, ranks=1):
        return self.succeed(self.command(name, cache, *settings), ranks)

    def shared_folder(self, cache):
        """The only one of a cache."""
        folders = list((self.folder / cache).iterdir())
        self.assertEqual(len(folders), 1, folders)
        return folders[0]

    def names(self, cache):
        """Without tensors.json, which restart_test.py is about."""
        return sorted(p.name for p in self.shared_folder(cache).iterdir() if p.name != "tensors.json")

    def states(self, path):
        """Not the file's bytes: HDF5 notes the time."""
        with h5py.File(path) as file:
            return file["hidden_states"][:].astype(numpy.float32)

    def assert_same_bytes(self, name, other):
        want = program.digests(self.folder / other)
        self.assertTrue(any(file.endswith(".safetensors") for file in want))
        self.assertEqual(program.digests(self.folder / name), want)

    def stop_in_calibrate(self, name, cache, *settings):
        """The job, which hangs in its first write to the second boundary."""
        injected = self.folder / f"{name}.injected"
        job = program.start(self.command(name, cache, *settings),
                            **program.fault("0:write:1:hang:boundary-00002", injected))
        try:
            program.wait_for(injected.exists, job)
        except BaseException:
            program.kill(job)
            raise
        return job


class SharedCacheTest(CacheCase):
    def test_a_second_scheme_makes_no_float_pass(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                cache = f"cache-{ranks}"
                w4, w3 = f"w4-{ranks}", f"w3-{ranks}"
                first = self.quantize(w4, cache, ranks=ranks)
                self.assertRegex(first.err, FLOAT_PASS)
                self.assertNotIn("are taken from", first.err)
                self.assertEqual(self.names(cache), ["about.json", *BOUNDARIES], "a finished stage's boundary stays")
                files = {p: p.stat() for p in self.shared_folder(cache).iterdir()}

                second = self.quantize(w3, cache, "quantization.bits=3", ranks=ranks)
                self.assertRegex(second.err, rf"info: .*{ALL_TAKEN} {self.shared_folder(cache)}: no float pass")
                self.assertNotRegex(second.err, FLOAT_PASS)
                self.assertEqual({p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in files},
                                 {p: (s.st_ino, s.st_mtime_ns) for p, s in files.items()})
                for name, settings in ((w4, []), (w3, ["quantization.bits=3"])):
                    self.assertEqual(list(pathlib.Path(f"{self.folder / name}.run").glob("*.h5*")), [])
                    self.quantize(f"{name}-alone", "", *settings, ranks=ranks)
                    self.assert_same_bytes(name, f"{name}-alone")

    def test_of_other_stages_those_that_stand_are_taken(self):
        self.quantize("two-stages", "stages")
        result = self.quantize("four-stages", "stages", "parallel.stages=4")
        self.assertIn("2 of 4 boundaries come from", result.err)
        self.assertRegex(result.err, FLOAT_PASS)
        self.assertEqual(self.names("stages"), ["about.json", *(f"boundary-{i:05d}.h5" for i in range(4))])
        self.quantize("four-stages-alone", "", "parallel.stages=4")
        self.assert_same_bytes("four-stages", "four-stages-alone")

    def test_what_changes_the_states_gets_a_folder_of_its_own(self):
        tiny_model.make_model(self.folder / "other model", seed=7)
        tiny_model.make_tokens(self.folder / "other.safetensors", rows=16, seqlen=32, seed=8)
        self.quantize("first", "folders", "tuning.iters=1")
        others = [f"model.path={self.folder}/other model", f"calibration.tokens={self.folder}/other.safetensors",
                  "calibration.seqlen=16", "calibration.n_samples=8", "tuning.amp=false", "tuning.micro_batch=1"]
        for i, setting in enumerate(others):
            with self.subTest(setting=setting):
                result = self.quantize(f"other-{i}", "folders", "tuning.iters=1", setting)
                self.assertNotIn("are taken from", result.err)
                self.assertEqual(len(list((self.folder / "folders").iterdir())), 2 + i)
        # And what does not change them, none.
        same = ["quantization.group_size=16", "tuning.iters=0", "tuning.seed=1", "tuning.n_blocks=2"]
        for i, setting in enumerate(same):
            with self.subTest(setting=setting):
                self.assertIn(ALL_TAKEN, self.quantize(f"same-{i}", "folders", "tuning.iters=1", setting).err)

    def test_ranks_share_where_they_do_not_change_the_bytes(self):
        one_thread = ["run.reproducible=true", "parallel.threads=1"]
        self.quantize("reproducible-1", "ranks", *one_thread)
        self.assertIn(ALL_TAKEN, self.quantize("reproducible-2", "ranks", *one_thread, ranks=2).err)
        self.assert_same_bytes("reproducible-1", "reproducible-2")

    def test_plan_says_where_the_boundaries_go(self):
        for cache, words in (("planned", f"boundaries in {self.folder / 'planned'}, where they stay for other runs"),
                             ("", f"boundaries in {self.folder / 'out'}.run")):
            _, config, *changes = self.command("out", cache)
            self.assertRegex(self.succeed(["plan", config, *changes]).out, rf"\n  disk .*; {words}\n")
        self.assertFalse((self.folder / "planned").exists())


class DamageTest(CacheCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("run")
        case.quantize("w4", "whole")
        case.quantize("w3-alone", "", "quantization.bits=3")

    def test_what_cannot_be_taken_is_made_anew(self):
        def cut_short(path):
            os.truncate(path, path.stat().st_size // 2)

        def change_a_byte(path):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

        def another_blocks(path):
            shutil.copyfile(path.with_name(BOUNDARIES[0]), path)

        def another_runs(path):
            self.quantize("other", "", "tuning.iters=1", "run.keep_boundaries=true")
            shutil.copyfile(self.folder / "other.run" / path.name, path)

        damages = {"empty": lambda path: path.write_bytes(b""), "text": lambda path: path.write_text("no HDF5\n"),
                   "cut": cut_short, "byte": change_a_byte, "block": another_blocks, "run": another_runs}
        for name, damage in damages.items():
            for ranks in (1, 2) if name in ("cut", "byte") else (1,):
                with self.subTest(damage=name, ranks=ranks):
                    cache = f"{name}-{ranks}"
                    if ranks == 1:
                        shutil.copytree(self.folder / "whole", self.folder / cache)
                    else:
                        self.quantize(f"first-{cache}", cache, ranks=ranks)
                        self.quantize(f"alone-{cache}", "", "quantization.bits=3", ranks=ranks)
                    spoilt = self.shared_folder(cache) / BOUNDARIES[1]
                    want = self.states(spoilt)
                    damage(spoilt)
                    result = self.quantize(f"w3-{cache}", cache, "quantization.bits=3", ranks=ranks)
                    self.assertRegex(result.err, rf"warning: .*{spoilt} is cut short, damaged or of another model or other samples: it is made again")
                    self.assertIn("1 of 2 boundaries come from", result.err)
                    self.assertTrue(numpy.array_equal(self.states(spoilt), want))
                    self.assertEqual(self.names(cache), ["about.json", *BOUNDARIES])
                    self.assert_same_bytes(f"w3-{cache}", "w3-alone" if ranks == 1 else f"alone-{cache}")

    def test_a_folder_that_cannot_be_made_is_one_line(self):
        (self.folder / "a file").write_text("")
        self.fail_with(self.command("refused", "a file"), 1, 2, self.folder / "a file", "cannot be made")


class RestartTest(CacheCase):
    def test_a_run_killed_in_calibrate_leaves_nothing_that_is_taken(self):
        job = self.stop_in_calibrate("killed", "killed-cache")
        try:
            left = self.names("killed-cache")
            self.assertEqual(left[:2], ["about.json", BOUNDARIES[0]])
            self.assertEqual(len(left), 3, left)
            self.assertTrue(left[2].startswith(f"{BOUNDARIES[1]}.tmp-"), left)
            # Another run, while this one stands there in the middle of its file.
            other = self.quantize("other", "killed-cache", "quantization.bits=3")
            self.assertIn("1 of 2 boundaries come from", other.err)
            self.assertEqual(self.names("killed-cache"), ["about.json", *BOUNDARIES, left[2]])
        finally:
            program.kill(job)
        result = self.quantize("killed", "killed-cache")
        self.assertIn(ALL_TAKEN, result.err)
        self.assertEqual(self.names("killed-cache"), ["about.json", *BOUNDARIES])
        self.quantize("killed-alone", "")
        self.quantize("other-alone", "", "quantization.bits=3")
        self.assert_same_bytes("killed", "killed-alone")
        self.assert_same_bytes("other", "other-alone")

    def test_a_run_killed_in_calibrate_goes_on(self):
        program.kill(self.stop_in_calibrate("alone-killed", "alone-cache"))
        result = self.quantize("alone-killed", "alone-cache")
        self.assertIn("1 of 2 boundaries come from", result.err)
        self.assertRegex(result.err, FLOAT_PASS)
        self.assertEqual(self.names("alone-cache"), ["about.json", *BOUNDARIES])
        self.quantize("undisturbed", "")
        self.assert_same_bytes("alone-killed", "undisturbed")

    def test_two_runs_that_start_together(self):
        schemes = {"together-4": "quantization.bits=4", "together-3": "quantization.bits=3"}
        logs = {name: self.folder / f"{name}.log" for name in schemes}
        jobs = {name: program.start(self.command(name, "together", bits), log=logs[name])
                for name, bits in schemes.items()}
        try:
            for name, job in jobs.items():
                self.assertEqual(job.wait(program.TIMEOUT), 0, logs[name].read_text())
        finally:
            for job in jobs.values():
                program.kill(job)
        self.assertEqual(self.names("together"), ["about.json", *BOUNDARIES])
        for name, bits in schemes.items():
            self.quantize(f"{name}-alone", "", bits)
            self.assert_same_bytes(name, f"{name}-alone")

    def kill_after_a_block(self, name, cache):
        """A run that takes longer than the others here; the setting that makes it so."""
        longer = "tuning.iters=60"
        tuned = lambda: program.events(self.folder / f"{name}.run", "block")
        job = program.start(self.command(name, cache, longer))
        try:
            program.wait_for(lambda: len(tuned()) >= 1, job)
        finally:
            program.kill(job)
        self.assertLess(len(tuned()), tiny_model.N_BLOCKS, "the job had ended before it was killed")
        return longer

    def test_a_run_goes_on_with_or_without_the_cache(self):
        for name, before, after in (("with", "", "new"), ("without", "old", "")):
            with self.subTest(goes_on=name):
                longer = self.kill_after_a_block(name, before)
                self.quantize(name, after, longer)
                self.assertEqual(list(pathlib.Path(f"{self.folder / name}.run").glob("*.h5.tmp*")), [])
                self.quantize(f"{name}-alone", "", longer)
                self.assert_same_bytes(name, f"{name}-alone")
        self.assertEqual(self.names("old"), ["about.json", *BOUNDARIES], "the run that left it has removed none")


if __name__ == "__main__":
    unittest.main()
