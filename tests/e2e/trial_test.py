"""`plan --trial` does a little of everything on the real ranks, says what would be slow, and leaves nothing behind."""

import shutil
import subprocess
import unittest

import program
import tiny_model


class TrialTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.settings = tiny_model.make_inputs(cls.folder, seqlen=16, shard_size="200KB") | {
            "tuning.iters": 100,
            "output.path": str(cls.folder / "below" / "out"),
        }

    def command(self, **changes):
        settings = self.settings | {key.replace("__", "."): value for key, value in changes.items()}
        return ["plan", program.write_config(self.folder / "config.yaml", settings), "--trial"]

    def test_what_it_measures(self):
        n_shards = len(list((self.folder / "model").glob("*.safetensors")))
        self.assertGreater(n_shards, 1)
        for ranks in (1, 2):
            result = self.succeed(self.command() + ["--json"], ranks)
            trial = result.json["trial"]
            self.assertEqual(trial["read"]["shards"], n_shards)
            self.assertEqual(trial["boundary"]["samples"], 8 * ranks)
            for rate in (trial["read"]["rate"], trial["boundary"]["write_rate"], trial["boundary"]["read_rate"],
                         trial["all_reduce"]["rate"]):
                self.assertGreater(rate, 0)
            for name in ("seconds", "own_seconds", "first_seconds", "peak_bytes"):
                self.assertEqual(len(trial["step"][name]), ranks)
                self.assertGreater(min(trial["step"][name]), 0)
            # 4 blocks of 100 steps, in one group.
            self.assertAlmostEqual(trial["tune_seconds"], 400 * trial["step"]["seconds"][0], delta=1e-6)
            for word in ("read ", "boundary ", "step ", "memory ", "all-reduce ", "disk ", "tuning "):
                self.assertIn(f"\n  {word}", result.out)
            self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["config.yaml", "model", "tokens.safetensors"])

    def test_it_finds_a_shard_that_cannot_be_read_on_another_rank(self):
        result = program.run(self.command(), 2, **program.fault("1:read:1:EIO:model/model-", self.folder / "injected"))
        self.assertTrue((self.folder / "injected").exists(), result)
        (self.folder / "injected").unlink()
        self.assertEqual(result.code, 3, result)
        self.assertEqual(len(result.errors), 1, result)
        for word in ("rank 1 on ", "trial: ", "model-", "Input/output error"):
            self.assertIn(word, result.errors[0])

    def test_it_finds_a_disk_that_is_too_small(self):
        disk = self.folder / "disk"
        disk.mkdir()
        self.addCleanup(shutil.rmtree, disk)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "roundtable-test", disk], capture_output=True)
        if done.returncode != 0:
            self.skipTest(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=True)
        self.fail_with(self.command(output__path=str(disk / "out")), 1, 2, "output.path", "the run needs about", "are free")

    def test_a_described_cluster_is_not_here(self):
        self.fail_with(self.command(cluster__nodes=2), 1, 2, "--trial", "leave --cluster out")


if __name__ == "__main__":
    unittest.main()
