"""A job may be killed at any instant: the same command resumes it, and it ends with the bytes of a run left in peace."""

import json
import os
import pathlib
import shutil
import struct
import unittest

import program
import tiny_model

BLOCK = "block"  # the event of a block that was tuned


class RestartTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, num_hidden_layers=6)
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 60,
            "parallel.shards": 1,
            "parallel.stages": 2,
        })

    def command(self, name, *settings):
        return program.quantize_command(self.config, self.folder / name, *settings)

    def run_directory(self, name):
        return self.folder / f"{name}.run"

    def tuned(self, name):
        """Blocks tuned so far, in order, over all starts."""
        return [e["block"] for e in program.events(self.run_directory(name), BLOCK)]

    def kill_after(self, name, n_blocks, ranks, *settings):
        job = program.start(self.command(name, *settings), ranks)
        try:
            program.wait_for(lambda: len(self.tuned(name)) >= n_blocks, job)
        finally:
            program.kill(job)
        self.assertFalse((self.folder / name / "config.json").exists(), "the job had ended before it was killed")
        return self.tuned(name)

    def hold_killed_against_undisturbed(self, name, ranks, *settings):
        self.succeed(self.command(f"{name}-undisturbed", *settings), ranks)
        before = self.kill_after(name, 2, ranks, *settings)
        written = {block: program.digests(self.folder / name) for block in before}
        again = self.kill_after(name, len(before) + 1, ranks, *settings)
        self.succeed(self.command(name, *settings), ranks)
        blocks = self.tuned(name)
        self.assertEqual(blocks[:len(again)], again)
        self.assertEqual(len(blocks), len(set(blocks)), "a block was tuned twice")
        want, have = (program.digests(self.folder / n) for n in (f"{name}-undisturbed", name))
        self.assertEqual(have, want)
        for digests in written.values():
            for file, digest in digests.items():
                if file.endswith(".safetensors"):
                    self.assertEqual(have[file], digest)

    def test_killed_twice_on_one_rank(self):
        self.hold_killed_against_undisturbed("one", 1)

    def test_killed_twice_on_two_groups(self):
        self.hold_killed_against_undisturbed("groups", 2)

    def test_killed_twice_on_two_shards(self):
        self.hold_killed_against_undisturbed("shards", 2, "parallel.shards=2", "tuning.amp=false")

    def test_a_run_killed_on_two_ranks_goes_on_with_one(self):
        before = self.kill_after("fewer", 2, 2)
        self.succeed(self.command("fewer"), 1)
        self.assertEqual(self.tuned("fewer")[:len(before)], before)
        self.assertEqual(len(self.tuned("fewer")), len(set(self.tuned("fewer"))), "a block was tuned twice")

    def test_killed_before_the_first_block(self):
        job = program.start(self.command("early"))
        try:
            program.wait_for(lambda: (self.run_directory("early") / "journal").exists(), job)
        finally:
            program.kill(job)
        self.succeed(self.command("early"))
        self.succeed(self.command("early-undisturbed"))
        self.assertEqual(program.digests(self.folder / "early"), program.digests(self.folder / "early-undisturbed"))

    def test_a_lost_shard_is_tuned_anew_with_what_follows_it(self):
        self.kill_after("lost", 2, 1)
        first = self.tuned("lost")
        (self.folder / "lost" / f"model-{first[0] + 1:05d}-of-00007.safetensors").unlink()
        result = self.succeed(self.command("lost"))
        self.assertIn("is missing or was changed", result.err)
        self.succeed(self.command("lost-undisturbed"))
        self.assertEqual(program.digests(self.folder / "lost"), program.digests(self.folder / "lost-undisturbed"))


class FinishedRunTest(program.Case):
    """What a second start does with a run that is complete."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, rows=8, seqlen=16)
        tiny_model.make_model(cls.folder / "other model", seed=7)
        tiny_model.make_tokens(cls.folder / "other tokens.safetensors", rows=8, seqlen=16, seed=8)
        cls.finished = cls.folder / "finished"
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 2,
            "parallel.stages": 2,
            "output.path": str(cls.finished),
        })
        cls.first = program.run(["quantize", cls.config, "--json"])

    def setUp(self):
        self.assertEqual(self.first.code, 0, self.first)

    def copy(self, name):
        """The finished run, to be spoilt."""
        for suffix in ("", ".run"):
            shutil.copytree(f"{self.finished}{suffix}", self.folder / (name + suffix))
        return self.folder / name, self.folder / f"{name}.run"

    def state(self, output):
        kept = {f"{suffix}/{file}": digest for suffix in ("", ".run")
                for file, digest in program.digests(f"{output}{suffix}").items()}
        kept.pop(".run/events.jsonl")  # a log may grow
        return kept

    def test_it_only_prints_the_summary_again(self):
        for ranks in (1, 2):
            before = self.state(self.finished)
            result = self.succeed(["quantize", self.config, "--json"], ranks)
            self.assertIn("this run is finished already", result.out)
            self.assertEqual(result.json, self.first.json)
            self.assertEqual(self.state(self.finished), before)
            self.assertEqual(program.events(f"{self.finished}.run", BLOCK)[4:], [])

    def test_another_config_model_or_token_set_is_refused_by_name(self):
        before = self.state(self.finished)
        for setting, name in [("quantization.bits=3", "quantization.bits"),
                              ("tuning.iters=3", "tuning.iters"),
                              ("tuning.seed=1", "tuning.seed"),
                              ("parallel.stages=1", "number of stages"),
                              (f"model.path={self.folder / 'other model'}", "model.path"),
                              (f"calibration.tokens={self.folder / 'other tokens.safetensors'}",
                               "calibration.tokens")]:
            for ranks in (1, 2) if name == "quantization.bits" else (1,):
                self.fail_with(["quantize", self.config, "--set", setting], ranks, 2,
                               self.finished, f"differs in: {name}; ", "choose another output.path")
            self.assertEqual(self.state(self.finished), before, setting)

    def test_what_does_not_change_the_result_may_change(self):
        for setting in ("parallel.threads=2", "run.keep_boundaries=true"):
            result = self.succeed(["quantize", self.config, "--set", setting])
            self.assertIn("this run is finished already", result.out)

    def test_what_is_added_after_the_end_is_named_with_its_command(self):
        tokens = self.folder / "other tokens.safetensors"
        result = self.succeed(["quantize", self.config, "--set", f"run.eval_tokens={tokens}"])
        self.assertIn("this run is finished already", result.out)
        self.assertIn(f"roundtable eval CONFIG --set model.path={self.finished} --set run.eval_tokens={tokens}", result.err)
        self.fail_with(["quantize", self.config, "--set", "output.formats=auto_round:auto_gptq,llm_compressor"], 1, 2,
                       f"roundtable convert {self.finished} --format llm_compressor --output {self.finished}-llm_compressor")

    def test_a_torn_tail_of_the_journal_is_cut_off(self):
        journal = (pathlib.Path(f"{self.finished}.run") / "journal").read_bytes()
        payload = json.dumps({"type": "summary"}).encode()
        torn = {"head": b"\x20\x00", "payload": struct.pack("<IIQ", len(payload), ~len(payload) & 0xFFFFFFFF, 0) + payload[:-3]}
        # The last record itself cut short: the run was not finished, and is now.
        torn_last = journal[:-5]
        for name, bytes in [*((n, journal + tail) for n, tail in torn.items()), ("last", torn_last)]:
            output, run_directory = self.copy(f"torn-{name}")
            (run_directory / "journal").write_bytes(bytes)
            result = self.succeed(["quantize", self.config, "--set", f"output.path={output}"])
            self.assertEqual("this run is finished already" in result.out, name != "last")
            self.assertEqual(len(program.events(run_directory, BLOCK)), 4, "none again")
            self.assertEqual(program.digests(output), program.digests(self.finished))
            if name != "last":
                self.assertEqual((run_directory / "journal").read_bytes(), journal)

    def test_a_changed_byte_in_the_journal_is_refused(self):
        output, run_directory = self.copy("flipped")
        journal = bytearray((run_directory / "journal").read_bytes())
        for at in (2, 8, 40, len(journal) // 2, len(journal) - 2):  # 2: the size of the first record
            spoilt = bytearray(journal)
            spoilt[at] ^= 1
            (run_directory / "journal").write_bytes(spoilt)
            before = self.state(output)
            for ranks in (1, 2) if at == 8 else (1,):
                self.fail_with(["quantize", self.config, "--set", f"output.path={output}"], ranks, 2,
                               run_directory / "journal",
                               "damaged head" if at == 2 else "does not match its checksum", "remove")
            self.assertEqual(self.state(output), before)

    def test_a_second_job_on_the_same_run_is_refused(self):
        output = self.folder / "busy"
        command = ["quantize", self.config, "--set", f"output.path={output}", "--set", "tuning.iters=100000"]
        job = program.start(command)
        try:
            program.wait_for(lambda: (self.folder / "busy.run" / "boundary-00002.h5").exists(), job)
            for ranks in (1, 2):
                self.fail_with(command, ranks, 2, "another job is at work")
            # With a run directory of its own, too; and nothing is left of it.
            elsewhere = self.folder / "elsewhere"
            self.fail_with(command + ["--set", f"run.directory={elsewhere}"], 1, 2, output, "another job is at work")
            self.assertFalse(elsewhere.exists())
        finally:
            program.kill(job)
        # The locks of the dead job are not in the way of the next one, which leaves when its time is up.
        result = program.run(command + ["--set", "run.max_time=1"])
        self.assertEqual(result.code, 75, result)

    def test_a_changed_shard_is_tuned_anew_and_mends_the_output(self):
        output, run_directory = self.copy("spoilt")
        shard = output / "model-00003-of-00005.safetensors"
        bytes = bytearray(shard.read_bytes())
        bytes[-100] ^= 1
        shard.write_bytes(bytes)
        result = self.succeed(["quantize", self.config, "--set", f"output.path={output}"])
        self.assertIn("model-00003-of-00005.safetensors is missing or was changed", result.err)
        self.assertEqual(program.digests(output), program.digests(self.finished))


class VerifiedRunTest(program.Case):
    """Every file of a finished run is compared with what was written, those of further formats too."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, rows=8, seqlen=16, num_hidden_layers=2)
        (cls.folder / "model" / "LICENSE").write_text("do as you like")
        cls.output = cls.folder / "out"
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 2,
            "parallel.shards": 1,
            "parallel.stages": 2,
            "output.path": str(cls.output),
            "output.formats": ["auto_round:auto_gptq", "llm_compressor"],
        })

    def test_what_is_missing_or_damaged_is_made_again_or_named(self):
        self.succeed(["quantize", self.config])
        before = program.digests(self.output)
        other = self.output / "llm_compressor"
        for path in (self.output / "tokenizer.json", self.output / "LICENSE", other / "config.json", other / "README.md"):
            path.unlink()
        index = self.output / "model.safetensors.index.json"
        os.truncate(index, 100)
        (self.output / "config.json").write_text("{}")
        weights = bytearray((other / "model.safetensors").read_bytes())
        weights[-5] ^= 1
        (other / "model.safetensors").write_bytes(weights)
        result = self.succeed(["quantize", self.config], 2)
        for name in ("tokenizer.json", "LICENSE", "config.json", "model.safetensors.index.json", "llm_compressor/config.json",
                     "llm_compressor/model.safetensors", "llm_compressor/README.md"):
            self.assertIn(f"{self.output}/{name} is missing or was changed: it is made again", result.err)
        self.assertEqual(program.digests(self.output), before)
        self.assertEqual(len(program.events(f"{self.output}.run", BLOCK)), 2, "no block was tuned again")

        (self.output / "README.md").write_text("my own words")
        self.assertIn(f"this run is finished already, and its {len(before)} files are as they were written",
                      self.succeed(["quantize", self.config], 2).out)

        for folder in (self.output, self.folder / "model"):
            (folder / "LICENSE").unlink()
        self.fail_with(["quantize", self.config], 1, 2, self.output / "LICENSE", "is missing or was changed",
                       f"put it into {self.folder / 'model'}")
        self.assertEqual((self.output / "README.md").read_text(), "my own words")


class ChangedModelTest(program.Case):
    """A model of several MB, so that a start does not see all of it at once."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, rows=8, seqlen=16, hidden_size=128, intermediate_size=640)
        cls.weights = cls.folder / "model" / "model.safetensors"
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 2,
            "parallel.stages": 1,
            "output.path": str(cls.folder / "out"),
        })

    def change(self, tensor):
        """Flips a bit of a tensor, where no start looks at once (src/run/fingerprint.cc), and returns the bytes before."""
        before = self.weights.read_bytes()
        size = struct.unpack("<Q", before[:8])[0]
        begin, end = json.loads(before[8:8 + size])[tensor]["data_offsets"]
        piece, pieces = 64 << 10, 16
        step = (len(before) - piece) // pieces
        at = next(a for a in range(8 + size + begin, 8 + size + end) if a % step > piece + 1 and a < step * pieces)
        self.weights.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1:])
        return before

    def refuse(self, tensor, phase):
        before = self.change(tensor)
        self.fail_with(["quantize", self.config], 1, 2, phase, f"{self.weights}: tensor '{tensor}': is not what was read of it before",
                       "the model was changed")
        self.weights.write_bytes(before)

    def test_one_bit_that_changes_between_two_starts_is_found_before_anything_is_mixed(self):
        command = ["quantize", self.config]
        struck = lambda fault: self.assertEqual(program.run(command, **program.fault(fault)).code, 3)
        struck("0:fsync:1:EIO:model-00002-of")
        self.refuse("model.layers.3.mlp.up_proj.weight", "tune")  # a block that was not tuned yet
        struck("0:write:1:ENOSPC:model-00005-of")
        self.refuse("lm_head.weight", "assemble")
        self.succeed(command)

    def test_shared_boundaries_are_those_of_one_model(self):
        command = program.quantize_command(self.config, self.folder / "first", f"calibration.cache={self.folder / 'cache'}",
                                           "parallel.stages=2")
        self.succeed(command)
        before = self.change("model.layers.1.mlp.up_proj.weight")
        command[3] = f"output.path={self.folder / 'second'}"
        self.fail_with(command, 1, 2, "tensor 'model.layers.1.mlp.up_proj.weight'", "calibration.cache")
        self.weights.write_bytes(before)
        self.succeed(command)


if __name__ == "__main__":
    unittest.main()
