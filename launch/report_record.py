"""Reads the run directory of a run that is finished or not: for launch/report.py.

events.jsonl   one JSON object per line (src/rundir/events.h)
journal        records of | size u32 | ~size u32 | checksum u64 | JSON | (src/rundir/journal.h)
               src/rundir/records.h has the fields of both; tests/launch/records_test.py compares them
config.yaml    the resolved config
"""

import dataclasses
import json
import math
import pathlib
import struct

from exit_codes import Failure

LARGEST = 1e30  # no quantity of a run comes near; charts can draw all below
MAX_FILE = 2 << 30  # a run of 200 blocks and 1000 iterations has 5 MB of events


class NoRun(Failure):
    """The directory holds no run; the text is one line for the user."""


@dataclasses.dataclass
class Run:
    directory: pathlib.Path
    events: list = dataclasses.field(default_factory=list)
    blocks: dict = dataclasses.field(default_factory=dict)  # number -> its last record
    summary: dict | None = None
    config: str = ""
    warnings: list = dataclasses.field(default_factory=list)

    def of(self, kind):
        return [e for e in self.events if e["event"] == kind]

    @property
    def start(self):
        """How the last start of the program laid out the work; empty where no event says so."""
        starts = self.of("start")
        return starts[-1] if starts else {}

    @property
    def n_blocks(self):
        return int(number(self.start.get("blocks")) or 0)


def number(value):
    """A float that a run can have, or None for whatever else a damaged file holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    if not math.isfinite(value) or abs(value) > LARGEST:
        return None
    return value if abs(value) > 1 / LARGEST else 0.0


def numbers(value):
    return [number(v) for v in value] if isinstance(value, list) else []


def texts(value):
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def table(value):
    return value if isinstance(value, dict) else {}


def whole(value):
    """A block, group or rank number; None for anything else."""
    value = number(value)
    return int(value) if value is not None and value == int(value) and 0 <= value < 1 << 20 else None


def parse(text):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_bytes(path, run):
    try:
        if path.stat().st_size > MAX_FILE:
            run.warnings.append(f"{path.name} is larger than {MAX_FILE >> 30} GiB and was not read")
            return b""
        return path.read_bytes()
    except FileNotFoundError:
        run.warnings.append(f"{path.name} does not exist")
    except OSError as error:
        run.warnings.append(f"{path.name} cannot be read: {error.strerror}")
    return b""


def read_events(run):
    lines = read_bytes(run.directory / "events.jsonl", run).split(b"\n")
    if lines[-1]:
        run.warnings.append("the last line of events.jsonl is not complete; it was left out")
    damaged = 0
    for line in lines[:-1]:
        event = parse(line.decode("utf-8", "replace"))
        if isinstance(event, dict) and isinstance(event.get("event"), str) and number(event.get("time")) is not None:
            run.events.append(event)
        else:
            damaged += 1
    if damaged:
        run.warnings.append(f"{damaged} damaged line(s) of events.jsonl were left out")


def read_journal(run):
    """Records in order. Stops at the first that does not fit; the program itself is stricter on a restart."""
    data = read_bytes(run.directory / "journal", run)
    records, place = [], 0
    while place < len(data):
        header = data[place:place + 16]
        size, mirror, _ = struct.unpack("<IIQ", header) if len(header) == 16 else (0, 0, 0)
        payload = data[place + 16:place + 16 + size]
        record = parse(payload.decode("utf-8", "replace")) if len(payload) == size and size ^ mirror == 0xFFFFFFFF else None
        if not isinstance(record, dict):
            run.warnings.append(f"the journal cannot be read beyond byte {place}")
            break
        records.append(record)
        place += 16 + size
    return records


def read_run(directory):
    """Throws NoRun where nothing of a run is there."""
    run = Run(pathlib.Path(directory))
    if not run.directory.is_dir():
        raise NoRun(f"{directory} is no directory; give the run directory, OUTPUT.run by default")
    if not any((run.directory / name).is_file() for name in ("events.jsonl", "journal", "config.yaml")):
        raise NoRun(f"{directory} holds no run: neither events.jsonl nor journal nor config.yaml; "
                    "give the run directory, OUTPUT.run by default")
    read_events(run)
    records = read_journal(run)
    run.config = read_bytes(run.directory / "config.yaml", run).decode("utf-8", "replace")
    # Events last: they hold all that the journal's records do, and the curves.
    for record in [r for r in records if r.get("type") == "block"] + run.of("block"):
        block = whole(record.get("block"))
        if block is not None:
            run.blocks[block] = record
    run.blocks = dict(sorted(run.blocks.items()))
    summaries = [table(r.get("summary")) for r in records if r.get("type") == "summary"] + run.of("summary")
    run.summary = summaries[-1] if summaries else None
    return run
