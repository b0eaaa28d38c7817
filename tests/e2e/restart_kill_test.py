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
        inputs = tiny_model.make_inputs(cls.folder, num_hidden_layers=4)
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 60,
            "parallel.stages": 2,
            "run.eval_tokens": str(cls.folder / "tokens.safetensors"),
        })

    def command(self, name, grid):
        return program.quantize_command(self.config, self.folder / name, grid)

    def events(self, name, kind):
        return program.events(self.folder / f"{name}.run", kind)

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
        """A chain of kills in one run after the other, until enough have met a job at work."""
        struck = []
        for chain in range(2 * KILLS):
            if len(struck) >= KILLS:
                break
            dice = random.Random(f"kill {chain}")
            grid_name = sorted(GRIDS)[(chain + 1) % len(GRIDS)]
            ranks, grid = GRIDS[grid_name]
            want, seconds = self.undisturbed(grid_name)
            name = f"killed-{chain}"
            for phase in PHASES[:KILLS - len(struck)]:
                if self.kill_in(phase, seconds, name, ranks, grid, dice):
                    struck.append((chain, phase))
            self.succeed(self.command(name, grid), ranks)
            self.assertEqual(program.digests(self.folder / name), want, f"chain {chain}, {grid}")
            self.assertEqual(list((self.folder / f"{name}.run").glob("*.tmp*")), [])
        print(f"{len(struck)} kills met a job at work: {struck}")
        self.assertGreaterEqual(len(struck), KILLS)


if __name__ == "__main__":
    unittest.main()
