"""Runs the program the way a user does, alone or under mpirun, and reads what it leaves.

The environment names the parts: ROUNDTABLE_BINARY, and ROUNDTABLE_MPIRUN with its options.
"""

import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

BINARY = os.environ["ROUNDTABLE_BINARY"]
FAULT_SHIM = os.environ.get("ROUNDTABLE_FAULT_SHIM", "")
MPIRUN = shlex.split(os.environ["ROUNDTABLE_MPIRUN"])
TIMEOUT = 240


def write_config(path, settings):
    """`settings` maps "section.key" to its value. JSON is YAML."""
    sections = {}
    for key, value in settings.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    pathlib.Path(path).write_text(json.dumps(sections, indent=1))
    return str(path)


def quantize_command(config, output, *settings):
    """Arguments of a run of `config` into `output`; `settings` are "section.key=value"."""
    changes = [f"output.path={output}", *settings]
    return ["quantize", config, *(word for change in changes for word in ("--set", change))]


def command_line(arguments, ranks):
    launcher = MPIRUN + ["-n", str(ranks)] if ranks > 1 else []
    return launcher + [BINARY] + [str(a) for a in arguments]


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def errors(self):
        """The program's own error lines; mpirun writes none that begin so."""
        return [line for line in (self.out + "\n" + self.err).splitlines() if re.search(r"(^|\] ?)error: ", line)]

    @property
    def json(self):
        return json.loads(self.out.strip().splitlines()[-1])

    def __str__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def run(arguments, ranks=1, **environment):
    done = subprocess.run(command_line(arguments, ranks), capture_output=True, text=True, timeout=TIMEOUT,
                          env=os.environ | environment)
    return Result(done.returncode, done.stdout, done.stderr)


def start(arguments, ranks=1, log=os.devnull, before=(), **environment):
    """A job in a session of its own, so that it can be killed with all its ranks. Both outputs go to `log`; `before`
    is put in front of the command."""
    with open(log, "wb") as out:
        return subprocess.Popen(list(before) + command_line(arguments, ranks), stdout=out, stderr=subprocess.STDOUT,
                                start_new_session=True, env=os.environ | environment)


def fault(text, log=os.devnull):
    """The environment that injects a fault; see fault_shim.cc."""
    return {"LD_PRELOAD": FAULT_SHIM, "ROUNDTABLE_FAULT": text, "ROUNDTABLE_FAULT_LOG": str(log)}


def ranks_of(job):
    """Process ids of the program's ranks below `job` (mpirun gives each rank a process group of its own)."""
    children = {}
    programs = set()
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if os.readlink(entry / "exe") == os.path.realpath(BINARY):
                programs.add(int(entry.name))
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, open_ends = [], [job.pid]
    while open_ends:
        pid = open_ends.pop()
        if pid in programs:
            found.append(pid)
        open_ends += children.get(pid, [])
    return found


def kill(job):
    """kill -9 for every rank; mpirun then ends by itself."""
    for pid in ranks_of(job):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    job.wait(60)


def wait_for(condition, job=None, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        if job is not None and job.poll() is not None:
            raise AssertionError(f"the job ended with {job.returncode} before what was waited for")
        time.sleep(0.01)
    raise AssertionError("waited too long")


def events(run_directory, kind=None):
    """All of a run, or those of one kind; none where there is no log yet."""
    path = pathlib.Path(run_directory) / "events.jsonl"
    if not path.exists():
        return []
    all_events = [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]
    return [event for event in all_events if kind in (None, event["event"])]


def digests(directory):
    """name -> SHA-256 of every file below a directory; nothing for one that is not there."""
    root = pathlib.Path(directory)
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*")) if p.is_file()}


class Case(unittest.TestCase):
    """A test with a folder that lives as long as its class."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="roundtable-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)

    def succeed(self, arguments, ranks=1):
        result = run(arguments, ranks)
        self.assertEqual(result.code, 0, result)
        return result

    def fail_with(self, arguments, ranks, code, *words):
        """One error line with all the words, the exit code, and an end on all ranks."""
        result = run(arguments, ranks)
        self.assertEqual(result.code, code, result)
        self.assertEqual(len(result.errors), 1, result)
        for word in words:
            self.assertIn(str(word), result.errors[0])
        return result
