"""kill -9 of any rank, rank 0 with its coordinator too, at seeded instants of every phase: the same command resumes each
time, and ends with the bytes of a run left in peace.

  ROUNDTABLE_KILLS=30 restart_kill_test.py      more of them (default 7: each phase in turn), by hand
"""

import os
import random
import signal
import time
import unittest

import program
import tiny_model

KILLS = int(os.environ.get("ROUNDTABLE_KILLS", "7"))
PHASES = ("calibrate", "tune", "tune", "assemble", "prove", "formats", "evaluate")  # tune is longest
LEAST = 0.2  # seconds that each phase takes with slow()
GRIDS = {1: (1, "parallel.shards=1"), 2: (2, "parallel.shards=1"), 3: (2, "parallel.shards=2")}


def slow(name, phase):
    """The environment of a run `name` that is slow in bringing files to the disk, or in reading its shards where `phase`
    does no more than that: with a tiny model most phases are over before a signal can arrive."""
    return program.fault(f"*:read:1+:slow:/{name}/model-0" if phase == "prove" else f"*:fsync:1+:slow:/{name}")


class KillTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, num_hidden_layers=4)
        cls.config = program.write_config(cls.folder / "config.yaml", inputs | {
            "tuning.iters": 60,
            "parallel.stages": 2,
            "output.formats": ["auto_round:auto_gptq", "qdq"],
            "run.eval_tokens": str(cls.folder / "tokens.safetensors"),
        })

    def command(self, name, grid):
        return program.quantize_command(self.config, self.folder / name, grid)

    def events(self, name, *kinds):
        return [e for e in program.events(self.folder / f"{name}.run") if e["event"] in kinds]

    def undisturbed(self, grid_name):
        """Its digests, and the seconds of each phase."""
        name = f"undisturbed-{grid_name}"
        ranks, grid = GRIDS[grid_name]
        if not (self.folder / name).exists():
            result = program.run(self.command(name, grid), ranks, **slow(name, "all"))
            self.assertEqual(result.code, 0, result)
        seconds = {e["phase"]: e["seconds"] for e in self.events(name, "phase")}
        return program.digests(self.folder / name), seconds

    def kill_in(self, phase, seconds, name, ranks, grid, dice):
        """The phase that the signal met and the rank that it was for; None where the job had ended."""
        begun = len(self.events(name, "phase_start"))
        moment, victim = dice.uniform(0, max(LEAST, seconds[phase])), dice.randrange(ranks)
        log = self.folder / f"{name}.log"
        job = program.start(self.command(name, grid), ranks, log, **slow(name, phase))
        try:
            program.wait_for(lambda: job.poll() is not None or
                             phase in [e["phase"] for e in self.events(name, "phase_start")[begun:]], None)
            time.sleep(moment)
            found = sorted(program.ranks_of(job))
            if len(found) < ranks:
                self.assertEqual(job.wait(60), 0, log.read_text())
                return None
            os.kill(found[victim], signal.SIGKILL)
            code = job.wait(60)
        finally:
            program.kill(job)
        self.assertEqual(program.ranks_of(job), [])
        return None if code == 0 else (self.events(name, "phase_start", "phase")[-1]["phase"], victim)

    def test_kills(self):
        """A chain of kills in one run after the other, until enough have met a job at work, and each phase one."""
        struck = []
        enough_for_all = KILLS >= len(PHASES)
        for chain in range(2 * KILLS):
            missed = [p for p in dict.fromkeys(PHASES) if enough_for_all and p not in [s[1] for s in struck]]
            phases = PHASES[:max(0, KILLS - len(struck))] or missed
            if not phases:
                break
            dice = random.Random(f"kill {chain}")
            grid_name = sorted(GRIDS)[(chain + 1) % len(GRIDS)]
            ranks, grid = GRIDS[grid_name]
            want, seconds = self.undisturbed(grid_name)
            name = f"killed-{chain}"
            for phase in phases:
                met = self.kill_in(phase, seconds, name, ranks, grid, dice)
                if met:
                    struck.append((chain, *met))
            self.succeed(self.command(name, grid), ranks)
            self.assertEqual(program.digests(self.folder / name), want, f"chain {chain}, {grid}")
            self.assertEqual(list((self.folder / f"{name}.run").glob("*.tmp*")), [])
        print(f"{len(struck)} kills (run, phase, rank) met a job at work: {struck}")
        self.assertGreaterEqual(len(struck), KILLS)
        if enough_for_all:
            self.assertEqual({s[1] for s in struck}, set(PHASES))
            self.assertEqual({s[2] for s in struck}, {0, 1})


if __name__ == "__main__":
    unittest.main()
