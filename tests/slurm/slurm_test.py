"""cluster/slurm/ against a real Slurm: a job on two nodes that its time limit interrupts is requeued, goes on, and ends
with the bytes of an undisturbed one; a job that fails for another reason is not requeued.

The Slurm is local_cluster.sh's, two slurmd on this machine. Where it cannot run, the tests are skipped with the reason.
"""

import os
import pathlib
import re
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import program
import tiny_model

SLURM = pathlib.Path(__file__).resolve().parents[2] / "cluster" / "slurm"
CLUSTER = SLURM / "local_cluster.sh"
LIMITS_EVERY = 30  # seconds: slurmctld looks at time limits so often, counted from its start (PERIODIC_TIMEOUT)
ITERATIONS = 300
LONG = 20          # seconds of tuning that a time limit some seconds after the start is sure to interrupt


def refusal():
    done = subprocess.run([CLUSTER, "check"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


REASON = refusal()
LEAVES_IN_TIME = "75" in subprocess.run([program.BINARY, "--help"], capture_output=True, text=True).stdout


@unittest.skipIf(REASON, REASON)
class SlurmTest(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tiny_model.make_model(cls.folder / "model")
        tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=16, seqlen=64)
        cls.config = program.write_config(cls.folder / "config.yaml", {
            "model.path": str(cls.folder / "model"),
            "calibration.tokens": str(cls.folder / "tokens.safetensors"),
            "calibration.n_samples": 16,
            "calibration.seqlen": 64,
            "quantization.group_size": 32,
            "tuning.iters": ITERATIONS,
            "tuning.batch_size": 8,
            "parallel.shards": 2,  # one group over both nodes, as the two ranks of one node would be
            "parallel.threads": 1,
            "output.path": "set on the command line",
        })
        cls.cluster = cls.folder / "slurm"
        started = subprocess.run([CLUSTER, "start", cls.cluster, "2"], capture_output=True, text=True)
        if started.returncode:
            raise AssertionError(started.stderr)
        cls.addClassCleanup(subprocess.run, [CLUSTER, "stop", cls.cluster], check=True)
        cls.started = time.time()
        cls.environment = os.environ | {
            "SLURM_CONF": str(cls.cluster / "slurm.conf"), "ROUNDTABLE_BINARY": program.BINARY,
            "ROUNDTABLE_DEVICE": "cpu", "NODES": "2", "DEVICES": "1",
            "OMPI_MCA_mpi_yield_when_idle": "1"}  # two nodes share the cores: a rank that waits must not spin

    def slurm(self, *command, **variables):
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=240,
                              env=self.environment | variables)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def submit(self, config, name, *arguments, options="", **variables):
        """The job's number."""
        out = self.slurm(SLURM / "quantize.sbatch", config, "--set", f"output.path={self.folder / name}", *arguments,
                         ROUNDTABLE_SBATCH=f"--job-name={name} --output={self.folder / name}.log {options}", **variables)
        job = re.fullmatch(r"Submitted batch job (\d+)\n", out)[1]
        self.addCleanup(self.slurm, "scancel", job)  # a test that failed leaves the nodes free for the next
        return job

    def log(self, name):
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def field(self, job, name):
        return re.search(rf"\b{name}=(\S+)", self.slurm("scontrol", "show", "job", job))[1]

    def wait_for_state(self, job, *states, seconds=240):
        end = time.monotonic() + seconds
        while (state := self.field(job, "JobState")) not in states:
            if time.monotonic() > end:
                self.fail(f"job {job} is {state}\n" + self.slurm("squeue"))
            time.sleep(0.3)

    def run_undisturbed(self, name, *arguments):
        self.wait_for_state(self.submit(self.config, name, *arguments, ROUNDTABLE_LAUNCHER="mpirun"), "COMPLETED")
        self.assertIn(": mpirun --bind-to none", self.log(name))

    @unittest.skipUnless(LEAVES_IN_TIME, "this build of the program knows no exit code 75")
    def test_a_job_that_meets_its_time_limit_goes_on_to_the_same_bytes(self):
        # As many iterations as make the job long on this machine, whatever it is.
        self.run_undisturbed("measured")
        seconds = float(re.search(r"^tune: done in ([\d.]+) s", self.log("measured"), re.MULTILINE)[1])
        iterations = ("--set", f"tuning.iters={max(ITERATIONS, int(ITERATIONS * LONG / seconds))}")
        self.run_undisturbed("undisturbed", *iterations)
        # Started some seconds before slurmctld looks at limits: it then finds that the signal is due.
        into = (time.time() - self.started) % LIMITS_EVERY
        time.sleep((LIMITS_EVERY - 7 - into) % LIMITS_EVERY)
        job = self.submit(self.config, "interrupted", *iterations, options="--time=1 --signal=B:USR1@60",
                          ROUNDTABLE_LAUNCHER="pmix")
        self.wait_for_state(job, "COMPLETED")
        log = self.log("interrupted")
        self.assertIn("start 1 on node[1-2]: srun --mpi=pmix", log)
        # A busy machine may meet the limit more than once. Lines of the script alone: srun tells each task's code too.
        codes = re.findall(r"^\d\S+ \S+ exit code (\d+)$", log, re.MULTILINE)
        self.assertRegex(" ".join(codes), r"^75( 75)* 0$", log)
        self.assertEqual(self.field(job, "Restarts"), str(codes.count("75")))
        self.assertEqual(program.digests(self.folder / "interrupted"), program.digests(self.folder / "undisturbed"))

    def test_another_failure_is_final(self):
        job = self.submit(self.folder / "missing.yaml", "failing")
        self.wait_for_state(job, "FAILED")
        self.assertEqual(self.field(job, "ExitCode"), "2:0")
        self.assertEqual(self.field(job, "Restarts"), "0")
        self.assertIn("missing.yaml", self.log("failing"))

    def test_exit_code_75_is_final_after_so_many_starts(self):
        stand_in = self.folder / "always_75.sh"
        stand_in.write_text("#!/bin/sh\nexit 75\n")
        stand_in.chmod(0o755)
        job = self.submit(self.config, "stuck", ROUNDTABLE_BINARY=str(stand_in), ROUNDTABLE_MAX_STARTS="1")
        self.wait_for_state(job, "FAILED")
        self.assertEqual(self.field(job, "ExitCode"), "75:0")
        self.assertIn("1 starts were not enough", self.log("stuck"))

    def test_an_array_writes_each_scheme_to_its_own_place(self):
        stand_in = self.folder / "echo.sh"
        stand_in.write_text('#!/bin/sh\necho "asked: $*"\n')
        stand_in.chmod(0o755)
        self.slurm("sbatch", "--wait", "--nodes=1", "--ntasks-per-node=1", "--array=0-1", f"--output={self.folder}/array-%a.log",
                   SLURM / "schemes.sbatch", "c.yaml", ROUNDTABLE_BINARY=str(stand_in), ROUNDTABLE_OUTPUT="o",
                   ROUNDTABLE_JOB=str(SLURM / "quantize.sbatch"))
        for task, words in enumerate(("bits=4 .*group_size=128 .*scheme=sym .*path=o/w4g128-sym",
                                      "bits=4 .*group_size=32 .*scheme=asym .*path=o/w4g32-asym")):
            self.assertRegex(self.log(f"array-{task}"),
                             f"asked: quantize c.yaml .*{words} .*calibration.cache=o/boundaries\n")


if __name__ == "__main__":
    unittest.main()
