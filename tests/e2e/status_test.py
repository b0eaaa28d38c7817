"""`roundtable status` tells how far a run is from its directory alone: while it works, after it was killed, left or
finished."""

import os
import pathlib
import signal
import unittest

import program
import tiny_model


class StatusTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, seqlen=16)
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 400,
            "parallel.shards": 1,
            "parallel.stages": 2,
            "output.path": str(cls.folder / "out"),
        })

    def status(self, path):
        """As JSON, having seen that the words say the same; no MPI, and nothing is changed."""
        before = {p: p.stat().st_mtime_ns for p in pathlib.Path(self.folder / "out.run").iterdir() if p.name == "journal"}
        status = self.succeed(["status", path, "--json"]).json
        words = self.succeed(["status", path]).out
        self.assertIn(f"run      {self.folder / 'out.run'}\n", words)
        for file, time_before in before.items():
            if status["state"] != "at work":
                self.assertEqual(file.stat().st_mtime_ns, time_before)
        return status, words

    def test_a_run_from_its_start_to_its_end(self):
        run = self.folder / "out.run"
        blocks = lambda: program.events(run, "block")
        job = program.start(["quantize", self.config], 2)
        try:
            program.wait_for(lambda: len(blocks()) >= 1 and (run / "ranks.json").exists(), job)
            for rank in program.ranks_of(job):  # so that it is not done before it was asked
                os.kill(rank, signal.SIGSTOP)
            status, words = self.status(run)
            self.assertEqual((status["state"], status["phase"]), ("at work", "tune"))
            self.assertGreaterEqual(status["blocks"]["done"], 1)
            self.assertEqual(status["blocks"]["all"], 4)
            self.assertEqual([(s["first"], s["last"]) for s in status["stages"]], [(0, 2), (2, 4)])
            self.assertIn("running", [s["state"] for s in status["stages"]])
            self.assertGreater(status["seconds_left"], 0)
            self.assertEqual([r["rank"] for r in status["ranks"]], [0, 1])
            for rank in status["ranks"]:
                self.assertEqual(rank["host"], os.uname().nodename)
                self.assertLess(rank["seconds_ago"], 30)
                self.assertGreater(rank["peak_bytes"], 1e6)
                self.assertEqual(rank["peak_device_bytes"], 0)
            for word in ("at work", "phase    tune, for 0:00:", "left", "blocks   ", "lower than",
                         "rank 1 on", "  peak "):
                self.assertIn(word, words)
        finally:
            program.kill(job)
        status, words = self.status(self.folder / "out")  # the output's name will do
        self.assertEqual(status["state"], "interrupted")
        self.assertIn("run the same command again: it resumes", words)
        self.assertIsNone(status["seconds_left"])
        # The coordinator writes a block into the journal first, and may have been killed before it wrote its event.
        logged = {e["block"]: (e["first_loss"], e["best_loss"]) for e in blocks()}
        self.assertIn(status["blocks"]["done"] - len(logged), (0, 1))
        losses = {loss["block"]: (loss["first"], loss["best"]) for loss in status["losses"]}
        self.assertEqual({block: losses[block] for block in logged}, logged)

        begun = len(program.events(run))
        job = program.start(["quantize", self.config])
        try:
            program.wait_for(lambda: "tune" in [e.get("phase") for e in program.events(run)[begun:]], job)
            job.send_signal(signal.SIGUSR1)
            self.assertEqual(job.wait(30), 75)
        finally:
            program.kill(job)
        self.assertEqual(self.status(run)[0]["state"], "stopped early")

        self.succeed(["quantize", self.config])
        status, words = self.status(run)
        self.assertEqual((status["state"], status["blocks"]), ("finished", {"done": 4, "all": 4}))
        self.assertEqual([s["state"] for s in status["stages"]], ["done", "done"])

        # Another machine may read while a record is being written, and meet a damaged one.
        journal = run / "journal"
        whole = journal.read_bytes()
        journal.write_bytes(whole + b"\x10\x00")
        self.assertEqual(self.status(run)[0]["state"], "finished")
        self.assertEqual(journal.read_bytes(), whole + b"\x10\x00")
        journal.write_bytes(whole[:-3] + b"xyz")
        self.fail_with(["status", run], 1, 2, journal, "does not match its checksum")

    def test_no_run(self):
        self.fail_with(["status", self.folder / "nowhere"], 1, 2, self.folder / "nowhere", "no run is here")


if __name__ == "__main__":
    unittest.main()
