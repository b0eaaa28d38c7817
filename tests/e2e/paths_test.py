"""Paths and what lies there: nothing of the user's is overwritten, what cannot be read or written is said before any work,
and a stop from the keyboard is answered at once."""

import os
import shutil
import signal
import unittest

from safetensors.numpy import load_file

import program
import tiny_model

BAD_INPUT, MACHINE, START_AGAIN = 2, 3, 75
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 135\n"


class PathsCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.settings = tiny_model.make_inputs(cls.folder, rows=8, seqlen=16, num_hidden_layers=2) | {
            "tuning.iters": 2, "output.path": str(cls.folder / "out")}
        cls.tokens = cls.folder / "tokens.safetensors"

    def tearDown(self):
        for suffix in ("", ".run"):
            shutil.rmtree(f"{self.folder / 'out'}{suffix}", ignore_errors=True)

    def config(self, **changes):
        settings = self.settings | {key.replace("__", "."): str(value) for key, value in changes.items()}
        return program.write_config(self.folder / "config.yaml", settings)

    def folder_with(self, name, **files):
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file, text in files.items():
            (folder / file.replace("__", ".")).write_text(text)
        return folder

    def model(self):
        path = self.folder / "copy"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.folder / "model", path)
        return path

    def refuse(self, arguments, *words, ranks=1):
        """Nothing in the folder of this test changes."""
        before = program.digests(self.folder)
        result = self.fail_with(arguments, ranks, BAD_INPUT, *words)
        self.assertEqual(program.digests(self.folder), before)
        self.assertFalse((self.folder / "out").exists())
        return result


class OwnershipTest(PathsCase):
    def test_a_folder_of_the_user_is_no_run_directory(self):
        mine = self.folder_with("mine", config__yaml="my: own", events__jsonl="{}")
        for command, ranks in (("plan", 1), ("quantize", 2)):
            self.refuse([command, self.config(run__directory=mine)], f"run.directory: {mine}: holds files (", ranks=ranks)
        mine = self.folder_with("mine", journal="Monday")
        self.refuse(["quantize", self.config(run__directory=mine)], mine / "journal", "is not a journal")

    def test_logits_overwrite_nothing(self):
        for path in (self.tokens, self.folder / "model" / "model.safetensors"):
            config = self.config(run__eval_tokens=self.tokens, run__logits=path)
            self.refuse(["eval", config], f"run.logits: {path}: is a file that eval has not written")
        own = self.folder / "logits.safetensors"
        for _ in range(2):  # its own file may be written again
            self.succeed(["eval", self.config(run__eval_tokens=self.tokens, run__logits=own)])
        self.assertEqual(list(load_file(own)), ["logits"])

    def test_a_conversion_overwrites_nothing(self):
        self.succeed(["quantize", self.config(output__path=self.folder / "finished")])
        mine = self.folder_with("mine", thesis__txt="ten years of work")
        convert = ["convert", self.folder / "finished", "--format", "qdq", "--output"]
        self.refuse(convert + [mine], f"output: {mine}: is not empty (thesis.txt)")
        # A run's own output is not a conversion's.
        self.refuse(convert + [self.folder / "finished"], "finished.run: its journal is not one of roundtable convert")
        # Nor is a folder that the user has filled since.
        self.succeed(convert + [f"{self.folder / 'converted'}//"])
        self.assertTrue((self.folder / "converted.run" / "journal").exists())
        self.folder_with("converted", README__md="ten years of work")
        self.refuse(convert + [self.folder / "converted"], "converted: is not empty (README.md)", "knows no file in it")


class SpellingTest(PathsCase):
    def test_a_trailing_slash_is_no_folder(self):
        self.succeed(["quantize", self.config(output__path=f"{self.folder / 'out'}/", model__path=f"{self.folder}//model/")])
        self.assertTrue((self.folder / "out.run" / "journal").exists())
        self.assertFalse((self.folder / "out" / ".run").exists())
        self.assertIn("finished already", self.succeed(["quantize", self.config()]).out)

    def test_home_is_expanded_and_variables_are_refused(self):
        result = program.run(["plan", self.config(), "--set", "output.path=~/o", "--cluster", "~/none.yaml"], 1,
                             HOME=str(self.folder))
        self.assertIn(f"error: {self.folder}/none.yaml: ", result.err)
        result = program.run(["plan", self.config(), "--set", "output.path=~/o"], 1, HOME=str(self.folder))
        self.assertIn(f"boundaries in {self.folder}/o.run", result.out, result)
        self.refuse(["plan", self.config(output__path="$SCRATCH/o")], "output.path", "variables are not expanded")
        self.refuse(["convert", "$X/a", "--format", "qdq", "--output", "b"], "SOURCE: '$X/a' holds a $", ranks=2)

    def test_a_relative_path_says_where_it_was_searched(self):
        self.refuse(["plan", self.config(model__path="no/model")], f"no/model/config.json: ",
                    f"check the path (it is relative to {os.getcwd()})")


class ReadableTest(PathsCase):
    def test_pointers_of_git_lfs(self):
        for file in ("model.safetensors", "tokenizer.json"):
            model = self.model()
            (model / file).write_text(POINTER)
            self.refuse(["plan", self.config(model__path=model)], f"{model / file}: is a git-lfs pointer", "git lfs pull")
        tokens = self.folder / "pointer.safetensors"
        tokens.write_text(POINTER)
        self.refuse(["plan", self.config(calibration__tokens=tokens)], f"{tokens}: is a git-lfs pointer")

    def test_links_to_nothing(self):
        for file in ("config.json", "model.safetensors"):
            model = self.model()
            (model / file).unlink(missing_ok=True)
            (model / file).symlink_to("../../blobs/4d7a")
            self.refuse(["plan", self.config(model__path=model)],
                        f"{model / file}: is a link to ../../blobs/4d7a, where there is no file")


class LaunchTest(PathsCase):
    def test_srun_without_pmi(self):
        srun = {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}
        for task in ("0", "1"):
            result = program.run(["plan", self.config()], 1, SLURM_PROCID=task, **srun)
            self.assertEqual(result.code, BAD_INPUT, result)
            self.assertEqual(len(result.errors), 1 - int(task), result)
            self.assertEqual("srun started 4 processes" in result.err, task == "0", result)

    def test_threads_that_cannot_be_started(self):
        """The first two threads of a rank are Open MPI's, the third is the watchdog's, the fourth reads weights."""
        log = self.folder / "injected"
        for n in (3, 4):
            result = program.run(["quantize", self.config()], 2, **program.fault(f"1:thread:{n}+:EAGAIN", log))
            self.assertEqual(result.code, MACHINE, result)
            self.assertEqual(len(result.errors), 1, result)
            self.assertIn("rank 1 on ", result.errors[0])
            self.assertIn("a thread cannot be started: Resource temporarily unavailable; raise the limits", result.errors[0])
            self.tearDown()

    def test_two_jobs_where_there_are_no_locks(self):
        no_locks = program.fault("*:lock:1+:ENOLCK")
        command = ["quantize", self.config(), "--set", "tuning.iters=100000"]
        elsewhere = self.folder / "elsewhere"
        job = program.start(command, **no_locks)
        try:
            program.wait_for(lambda: (self.folder / "out.run" / "boundary-00000.h5").exists(), job)
            for directory in (self.folder / "out.run", elsewhere):
                result = program.run(command + ["--set", f"run.directory={directory}"], **no_locks)
                self.assertEqual(result.code, BAD_INPUT, result)
                self.assertIn("another job is at work here", result.errors[0])
            self.assertFalse(elsewhere.exists())
        finally:
            program.kill(job)
        # The dead job is not in the way, and a run that ends leaves no sign of its own.
        result = program.run(command + ["--set", "run.max_time=0.001"], **no_locks)
        self.assertEqual(result.code, START_AGAIN, result)
        signs = [p.name for p in self.folder.rglob(".at-work-*")]
        self.assertEqual(signs, [])

    def test_ctrl_c(self):
        log = self.folder / "log"
        for ranks in (1, 2):
            job = program.start(["quantize", self.config(), "--set", "tuning.iters=100000"], ranks, log)
            program.wait_for(lambda: program.events(self.folder / "out.run", "stage_start"), job)
            job.send_signal(signal.SIGINT)
            code = job.wait(60)
            text = log.read_text()
            self.assertRegex(text, r"(?m)^info: asked to stop\. .* Run the same command again: it resumes\.$")
            self.assertEqual(text.count("asked to stop"), 1, text)
            if ranks == 1:
                self.assertEqual(code, START_AGAIN, text)
                self.assertRegex(text, r"info: stopped early \(Ctrl-C\) in tune: .* run the same command again")
            self.tearDown()


if __name__ == "__main__":
    unittest.main()
