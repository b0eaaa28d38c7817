"""The time line of launch/report.py: one row per group, its blocks as boxes tinted by stage, and above them the phases.

Time in which nothing ran, between the starts of a run that was interrupted, is cut out of the axis and marked.
"""

import html

import report_charts as charts
from report_record import number, whole

PHASES = ["plan", "calibrate", "tune", "assemble", "prove", "formats", "evaluate"]


def kind_of_phase(name):
    """The class of its colour."""
    return f"phase{PHASES.index(name)}" if name in PHASES else "phase0"


def spans(run):
    """(phases, blocks): (name, start, end) and (group, stage, block, start, end), in seconds since 1970."""
    phases = []
    for event in run.of("phase"):
        seconds, end = number(event.get("seconds")), number(event["time"])
        if seconds is not None and seconds >= 0 and isinstance(event.get("phase"), str):
            phases.append((event["phase"], end - seconds, end))
    blocks, last = [], {}
    for event in run.of("block"):
        seconds, end = number(event.get("seconds")), number(event["time"])
        group, stage, block = (whole(event.get(k)) for k in ("group", "stage", "block"))
        if None in (group, stage, block) or seconds is None or seconds < 0:
            continue
        # Blocks that were tuned as one are written one behind the other: each after the one before.
        start = max(end - seconds, last.get(group, 0)) if end - last.get(group, 0) > seconds * 0.01 else end - seconds
        blocks.append((group, stage, block, start, end))
        last[group] = end
    return phases, blocks


class Clock:
    """Maps wall-clock time to seconds of work: pauses longer than 2 % of the work are cut to nothing."""

    def __init__(self, intervals):
        self.pieces = []
        for start, end in sorted(intervals):
            if self.pieces and start <= self.pieces[-1][1]:
                self.pieces[-1][1] = max(self.pieces[-1][1], end)
            else:
                self.pieces.append([start, end])
        least = 0.02 * sum(end - start for start, end in self.pieces)
        merged = [self.pieces[0]]
        for start, end in self.pieces[1:]:
            if start - merged[-1][1] < least:
                merged[-1][1] = end
            else:
                merged.append([start, end])
        self.pieces = merged
        self.total = sum(end - start for start, end in merged)

    def __call__(self, time):
        worked = 0.0
        for start, end in self.pieces:
            if time <= end:
                return worked + max(0.0, time - start)
            worked += end - start
        return worked

    def pauses(self):
        """(place, seconds) of what was cut."""
        return [(self(a[1]), b[0] - a[1]) for a, b in zip(self.pieces, self.pieces[1:])]


def unit_of(seconds):
    return next((size, name) for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
                if seconds > 2 * size or size == 1)


def draw(run):
    """The chart, or None where no time is known."""
    phases, blocks = spans(run)
    intervals = [(start, end) for _, start, end in phases] + [b[3:] for b in blocks]
    if not intervals:
        return None
    clock = Clock(intervals)
    size, unit = unit_of(clock.total)
    groups = sorted({b[0] for b in blocks})
    row = max(8, min(22, 600 // max(1, len(groups))))
    top, left = 26, 90
    height = top + len(groups) * row + charts.BOTTOM
    x = charts.Axis(0, clock.total / size or 1, left, charts.WIDTH - charts.RIGHT)
    place = lambda time: x(clock(time) / size)
    parts = [charts.text(left - 8, 16, "phase", "end", "name")]
    for name, start, end in phases:
        parts.append(charts.box(place(start), 2, place(end) - place(start), 16, kind_of_phase(name), f"{name}: {end - start:.1f} s"))
    labelled = len(groups) * row / max(1, len(groups)) >= 14
    for i, group in enumerate(groups):
        if labelled or i % 4 == 0:
            parts.append(charts.text(left - 8, top + i * row + row / 2 + 4, f"group {group}", "end", "name"))
    for group, stage, block, start, end in blocks:
        parts.append(charts.box(place(start), top + groups.index(group) * row + 1, place(end) - place(start) - 0.6, row - 3,
                                f"stage{stage % 3}", f"group {group}, stage {stage}, block {block}: {end - start:.1f} s"))
    for where, seconds in clock.pauses():
        there = x(where / size)
        parts.append(f'<line x1="{there:.1f}" y1="0" x2="{there:.1f}" y2="{height - charts.BOTTOM}" class="pause">'
                     f"<title>{html.escape(f'paused {seconds:.0f} s')}</title></line>")
    parts += [charts.text(x(t), height - charts.BOTTOM + 18, charts.short(t), kind="tick") for t in x.ticks(8)]
    parts.append(charts.text((left + charts.WIDTH - charts.RIGHT) / 2, height - 5, f"{unit} of work", kind="name"))
    return charts.svg(height, parts, "time line of groups and stages")
