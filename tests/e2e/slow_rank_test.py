"""Stages go to the group that asks: one whose rank is ten times slower takes fewer, and the bytes are the same."""

import os
import pathlib
import signal
import threading
import time
import unittest

import program
import tiny_model

STAGES = 12
SLOW = "1"  # a rank, and with one shard a group its group


def is_rank(pid, rank):
    try:
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment


class Brake:
    """Stops a process for nine tenths of the time."""

    def __init__(self, pid):
        self.pid, self.released = pid, threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def send(self, number):
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            self.released.set()

    def run(self):
        while not self.released.is_set():
            self.send(signal.SIGSTOP)
            time.sleep(0.18)
            self.send(signal.SIGCONT)
            time.sleep(0.02)

    def release(self):
        self.released.set()
        self.thread.join()


class SlowRankTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inputs = tiny_model.make_inputs(cls.folder, num_hidden_layers=STAGES) | {
            "tuning.iters": 40, "parallel.shards": 1, "parallel.stages": STAGES}
        cls.config = program.write_config(cls.folder / "config.yaml", inputs)

    def test_it_takes_fewer_stages(self):
        self.succeed(program.quantize_command(self.config, self.folder / "even"), ranks=2)
        slowed = self.folder / "slowed"
        job = program.start(program.quantize_command(self.config, slowed), ranks=2)
        run = f"{slowed}.run"
        program.wait_for(lambda: any(e["phase"] == "tune" for e in program.events(run, "phase_start")), job)
        brake = Brake(next(pid for pid in program.ranks_of(job) if is_rank(pid, SLOW)))
        try:
            program.wait_for(lambda: len(program.events(run, "stage_end")) >= STAGES - 1, job)
        finally:
            brake.release()
        self.assertEqual(job.wait(120), 0)
        groups = [event["group"] for event in program.events(run, "stage_start")]
        self.assertEqual(len(groups), STAGES)
        self.assertLess(groups.count(int(SLOW)), STAGES // 3, groups)
        self.assertEqual(program.digests(slowed), program.digests(self.folder / "even"))


if __name__ == "__main__":
    unittest.main()
