"""A job that is asked to leave (SIGUSR1, SIGTERM, run.max_time) ends with 75 on all ranks, in every phase, and the same
command resumes it, to the bytes of a run that was not disturbed."""

import os
import pathlib
import signal
import time
import unittest

import program
import tiny_model

START_AGAIN = 75
LEAVE_SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "leave_in_time.sh"


class LeaveTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, num_hidden_layers=4)
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 60,
            "parallel.shards": 1,
            "parallel.stages": 2,
            "run.eval_tokens": str(cls.folder / "tokens.safetensors"),
        })
        result = program.run(["quantize", cls.config, "--set", f"output.path={cls.folder / 'undisturbed'}"])
        assert result.code == 0, result

    def command(self, name, *settings):
        return program.quantize_command(self.config, self.folder / name, *settings)

    def events(self, name, kind):
        return program.events(self.folder / f"{name}.run", kind)

    def leave(self, name, condition, send, ranks=1, settings=(), before=(), seconds=30):
        """Starts a job, sends it what `send(job)` sends once condition() holds, and sees it leave with one line."""
        log = self.folder / f"{name}.log"
        job = program.start(self.command(name, *settings), ranks, log, before)
        try:
            program.wait_for(condition, job)
            send(job)
            code = job.wait(seconds)
        finally:
            program.kill(job)
        text = log.read_text()
        self.assertEqual(code, START_AGAIN, text)
        lines = [line for line in text.splitlines() if "stopped early" in line]
        self.assertEqual(len(lines), 1, text)
        self.assertIn("the same command", lines[0])
        self.assertNotIn("error: ", text)
        return lines[0]

    def go_on(self, name, ranks=1, *settings, undisturbed="undisturbed"):
        before = [e["block"] for e in self.events(name, "block")]
        self.succeed(self.command(name, *settings), ranks)
        blocks = [e["block"] for e in self.events(name, "block")]
        self.assertEqual(sorted(blocks), [0, 1, 2, 3], "a block was tuned twice")
        self.assertEqual(blocks[:len(before)], before)
        self.assertEqual(program.digests(self.folder / name), program.digests(self.folder / undisturbed))

    def finished(self, name, phase):
        return lambda: phase in [e["phase"] for e in self.events(name, "phase")]

    def test_every_phase(self):
        """The signal comes when a phase was finished, and meets the next or the one after."""
        met = []
        for after, ranks in (("", 2), ("calibrate", 1), ("tune", 2), ("assemble", 1), ("prove", 2)):
            name = f"after-{after}"
            journal = self.folder / f"{name}.run" / "journal"
            condition = self.finished(name, after) if after else lambda: journal.exists() and journal.stat().st_size
            line = self.leave(name, condition, lambda job: os.kill(job.pid, (signal.SIGUSR1, signal.SIGTERM)[ranks == 1]),
                              ranks)
            self.assertIn("(SIGTERM)" if ranks == 1 else "(SIGUSR1)", line)
            met.append(self.events(name, "leave")[-1]["phase"])
            self.go_on(name, ranks)
        self.assertEqual((met[0], met[1], met[4]), ("calibrate", "tune", "evaluate"))

    def test_a_signal_to_one_rank_makes_all_leave(self):
        for name, settings in (("groups", ("parallel.shards=1",)), ("shards", ("parallel.shards=2",))):
            def send(job):
                os.kill(sorted(program.ranks_of(job))[1], signal.SIGUSR1)
            line = self.leave(name, lambda: self.events(name, "block"), send, 2, settings)
            self.assertIn("of 4 blocks are on disk in", line)
            self.succeed(self.command(name, *settings), 2)
            self.assertEqual(sorted(e["block"] for e in self.events(name, "block")), [0, 1, 2, 3])

    def test_the_time_is_up(self):
        endless = ("tuning.iters=1000000", "run.max_time=3")
        line = self.leave("time", lambda: True, lambda job: None, 2, endless)
        self.assertIn("(run.max_time) in tune: 0 of 4 blocks are on disk", line)
        self.fail_with(self.command("time", "run.max_time=3 minutes"), 1, 2, "run.max_time", "HH:MM:SS")

    def test_a_second_signal_leaves_at_once(self):
        """One rank is stopped, so that no step of the other ends."""
        name = "twice"
        job = program.start(self.command(name, "parallel.shards=2", "tuning.iters=1000000"), 2)
        try:
            program.wait_for((self.folder / f"{name}.run" / "boundary-00000.h5").exists, job)
            time.sleep(0.5)
            first, second = sorted(program.ranks_of(job))
            os.kill(second, signal.SIGSTOP)
            os.kill(first, signal.SIGUSR1)
            time.sleep(1.5)
            self.assertIsNone(job.poll())
            os.kill(first, signal.SIGUSR1)
            self.assertEqual(job.wait(10), START_AGAIN)
        finally:
            program.kill(job)
        # Still restartable: the next start resumes, and has a time of its own.
        self.leave(name, lambda: True, lambda job: None, 2, ("parallel.shards=2", "tuning.iters=1000000", "run.max_time=2"))

    def test_sigterm_to_mpirun_through_the_script(self):
        name = "script"
        self.leave(name, lambda: self.events(name, "block"), lambda job: os.kill(job.pid, signal.SIGTERM), 2,
                   before=(str(LEAVE_SCRIPT),))
        self.go_on(name, 2)


if __name__ == "__main__":
    unittest.main()
