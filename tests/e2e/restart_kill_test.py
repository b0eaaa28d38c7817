"""kill -9 of any rank, rank 0 with its coordinator too, at seeded instants of every phase: the same command goes on each
time, and ends with the bytes of a run left in peace.

  ROUNDTABLE_KILLS=30 restart_kill_test.py      more of them (default 5), by hand
"""

import os
import random
import signal
import time
import unittest

import program
import tiny_model

KILLS = int(os.environ.get("ROUNDTABLE_KILLS", "5"))
PHASES = ("calibrate", "tune", "tune", "assemble", "evaluate")  # prove is over before a signal arrives; tune is longest
GRIDS = {1: (1, "parallel.shards=1"), 2: (2, "parallel.shards=1"), 3: (2, "parallel.shards=2")}


class KillTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tiny_model.make_model(cls.folder / "model", num_hidden_layers=4)
        tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=16, seqlen=32)
        cls.config = program.write_config(cls.folder / "config.yaml", {
            "model.path": str(cls.folder / "model"),
            "calibration.tokens": str(cls.folder / "tokens.safetensors"),
            "calibration.n_samples": 16,
            "calibration.seqlen": 32,
            "quantization.group_size": 32,
            "tuning.iters": 60,
            "tuning.batch_size": 4,
            "parallel.stages": 2,
            "parallel.threads": 1,
            "run.eval_tokens": str(cls.folder / "tokens.safetensors"),
        })

    def command(self, name, grid):
        return ["quantize", self.config, "--set", f"output.path={self.folder / name}", "--set", grid]

    def events(self, name, kind):
        return [e for e in program.events(self.folder / f"{name}.run") if e["event"] == kind]

    def undisturbed(self, grid_name):
        """Its digests, and the seconds of each phase."""
        name = f"undisturbed-{grid_name}"
        ranks, grid = GRIDS[grid_name]
        if not (self.folder / name).exists():
            self.succeed(self.command(name, grid), ranks)
        seconds = {e["phase"]: e["seconds"] for e in self.events(name, "phase")}
        return program.digests(self.folder / name), seconds

    def kill_in(self, phase, seconds, name, ranks, grid, dice):
        """True where the job was at work when the signal came."""
        begun = len(self.events(name, "phase_start"))
        log = self.folder / f"{name}.log"
        job = program.start(self.command(name, grid), ranks, log)
        try:
            program.wait_for(lambda: job.poll() is not None or
                             phase in [e["phase"] for e in self.events(name, "phase_start")[begun:]], None)
            time.sleep(dice.uniform(0, seconds[phase]))
            found = sorted(program.ranks_of(job))
            if not found:
                self.assertEqual(job.wait(60), 0, log.read_text())
                return False
            os.kill(dice.choice(found), signal.SIGKILL)
            code = job.wait(60)
        finally:
            program.kill(job)
        self.assertEqual(program.ranks_of(job), [])
        return code != 0

    def test_kills(self):
        struck = []
        for chain in range((KILLS + len(PHASES) - 1) // len(PHASES)):
            dice = random.Random(f"kill {chain}")
            grid_name = sorted(GRIDS)[(chain + 1) % len(GRIDS)]
            ranks, grid = GRIDS[grid_name]
            want, seconds = self.undisturbed(grid_name)
            name = f"killed-{chain}"
            for phase in PHASES[:KILLS - len(PHASES) * chain]:
                if self.kill_in(phase, seconds, name, ranks, grid, dice):
                    struck.append((chain, phase))
            self.succeed(self.command(name, grid), ranks)
            self.assertEqual(program.digests(self.folder / name), want, f"chain {chain}, {grid}")
            self.assertEqual(list((self.folder / f"{name}.run").glob("*.tmp*")), [])
        print(f"{len(struck)} kills met a job at work: {struck}")
        self.assertGreaterEqual(len(struck), KILLS * 3 // 5)


if __name__ == "__main__":
    unittest.main()
