#!/usr/bin/env python3
"""One self-contained page about a run, from what is in its run directory: finished, under way, or torn.

    launch/report.py RUN_DIR [--out FILE]      writes RUN_DIR/report.html (OUTPUT.run/report.html)
    launch/report.py RUN_DIR --tensorboard     also RUN_DIR/tensorboard, with the package tensorboardX or torch's own

The page needs only Python's standard library. It loads nothing and runs no script.
"""

import argparse
import html
import os
import pathlib
import re
import statistics
import sys

import report_charts as charts
import report_timeline
from exit_codes import Failure, MachineFailure, run as run_tool
from output_file import check_replaceable, start_of
from report_record import number, numbers, read_run, table, texts, whole

STYLE = (pathlib.Path(__file__).resolve().parent / "report.css").read_text


def human_bytes(value):
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1), ("GB", 2)):
        if value < 1000:
            return f"{value:.{digits}f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"


def human_seconds(value):
    if value < 100:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(number_, name):
    return f"{number_} {name}" + "s" * (number_ != 1)


def key(kind, words):
    """A coloured dot and its meaning, on one line."""
    return f'<span class="keyed"><i class="key {kind}"></i>{html.escape(words)}</span> '


def section(title, body, note="", wide=False):
    if not body:
        return ""
    note = f"<p>{note}</p>" if note else ""
    return f'<section{" class=wide" if wide else ""}><h2>{html.escape(title)}</h2>{note}{body}</section>'


def rows_of(header, rows):
    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def details(title, body):
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def kind_of(layer):
    """Experts of a mixture share a row: mlp.experts.3.up_proj -> mlp.experts.*.up_proj."""
    return re.sub(r"\.\d+\.", ".*.", layer)


def layer_errors(run):
    """[(block, layer, nearest, tuned)], all above 0."""
    found = []
    for block, record in run.blocks.items():
        for layer, pair in table(record.get("layer_errors")).items():
            nearest, tuned = number(table(pair).get("nearest")), number(table(pair).get("tuned"))
            if nearest and tuned and nearest > 0 and tuned > 0:
                found.append((block, layer, nearest, tuned))
    return found


def mean_by(errors, key):
    """key -> (mean nearest, mean tuned), in order of first sight."""
    sums = {}
    for error in errors:
        sums.setdefault(key(error), []).append(error[2:])
    return {k: (statistics.fmean(n for n, _ in v), statistics.fmean(t for _, t in v)) for k, v in sums.items()}


def tile(name, value, under=""):
    under = f"<small>{html.escape(under)}</small>" if under else ""
    return f"<div><span>{html.escape(name)}</span><strong>{html.escape(value)}</strong>{under}</div>"


def tiles(run):
    summary = run.summary or {}
    found = []
    perplexity = table(summary.get("perplexity"))
    before, after = number(perplexity.get("float")), number(perplexity.get("quantized"))
    if before and after:
        tokens = number(perplexity.get("tokens"))
        found.append(tile("perplexity", f"{before:.3f} → {after:.3f}",
                          f"{100 * (after / before - 1):+.1f} %" + (f", {tokens:.0f} tokens" if tokens else "")))
    divergence = table(summary.get("divergence"))
    mean, p99, same = (number(divergence.get(name)) for name in ("mean", "p99", "same_top"))
    if mean is not None and p99 is not None and same is not None:
        found.append(tile("KL divergence", f"{mean:.4f}",
                          f"99th percentile {p99:.4f}, {100 * same:.1f} % of the most likely tokens are equal"))
    mixed = table(summary.get("auto_scheme"))
    if (bits := number(mixed.get("mean_bits"))) is not None:
        layers = [f"{option} in {n:.0f} layers" for option, n in table(mixed.get("layers")).items() if number(n) is not None]
        found.append(tile("mean bits", f"{bits:.3f}", ", ".join(layers)))
    before, after = (number(table(summary.get("bytes")).get(k)) for k in ("before", "after"))
    if before and after:
        formats = table(table(summary.get("bytes")).get("formats"))
        others = [f"{name} {human_bytes(size)}" for name, size in formats.items() if len(formats) > 1 and number(size)]
        found.append(tile("size", f"{human_bytes(before)} → {human_bytes(after)}",
                          ", ".join([f"{before / after:.2f} times smaller", *others])))
    of = f" of {run.n_blocks}" if run.n_blocks else ""
    found.append(tile("blocks", f"{len(run.blocks)}{of}", "finished" if run.summary is not None else "not finished yet"))
    seconds = phase_seconds(run)
    if seconds:
        starts = f"in {len(run.of('start'))} starts" if len(run.of("start")) > 1 else ""
        under = starts if run.summary is not None else "of the phases that ended"
        found.append(tile("time", human_seconds(sum(seconds.values())), under))
    start = run.start
    ranks, groups, shards = (whole(start.get(k)) for k in ("ranks", "groups", "shards"))
    if ranks and groups and shards:
        found.append(tile("ranks", str(ranks), f"{counted(groups, 'group')} x {counted(shards, 'shard')}"))
    devices = start.get("devices")
    if isinstance(devices, str) and devices:
        found.append(tile("devices", devices, "one per rank"))
    moved = table(summary.get("bytes_per_step"))
    parts = [f"{human_bytes(size)} {what}" for what, size in (("all-reduce", number(moved.get("all_reduce"))),
                                                              ("all-to-all", number(moved.get("all_to_all")))) if size]
    if parts:
        found.append(tile("traffic", " + ".join(parts), "per rank and step of a block"))
    return '<div class="tiles">' + "".join(found) + "</div>"


def few_tokens(block, few):
    """What is known of experts that saw fewer tokens than tuning.min_expert_tokens; empty where all saw enough."""
    least, experts, calibration, added, tuning = (
        number(few.get(key)) for key in ("least", "experts", "in_calibration", "tokens_added", "in_tuning"))
    if None in (least, experts, calibration, added, tuning) or calibration + tuning == 0:
        return ""
    return (f"block {block}: of {experts:.0f} experts, {calibration:.0f} saw fewer than {least:.0f} tokens in calibration, "
            f"where the search of scales showed them {added:.0f} others; {tuning:.0f} in the steps of tuning")


def warnings(run):
    """What somebody should know of: damage, idle experts, blocks that tuning did not help."""
    found = list(run.warnings)
    if run.summary is None:
        found.append("the run has not finished; run the same command again: it resumes")
    found += texts(run.start.get("warnings")) + texts(run.start.get("layers_in_16_bits"))
    for block, record in run.blocks.items():
        if idle := texts(record.get("experts_without_tokens")):
            found.append(f"block {block}: no token of the tuning steps reached {', '.join(idle)}: rounded to nearest")
        few = table(record.get("experts_with_few_tokens"))
        if few:
            found.append(few_tokens(block, few))
    stuck = [b for b, r in run.blocks.items() if len(numbers(r.get("losses"))) > 1 and r.get("best_iteration") == 0]
    if stuck:
        found.append(f"no step lowered the loss of block {', '.join(map(str, stuck))}: rounded to nearest")
    return "<ul>" + "".join(f"<li>{html.escape(w)}</li>" for w in found if w) + "</ul>" if any(found) else ""


def losses(run):
    points = []
    for block, record in run.blocks.items():
        first, best = number(record.get("first_loss")), number(record.get("best_loss"))
        if first and best and first > 0 and best > 0:
            points.append((block, first, best))
    if not points:
        return ""
    gains = statistics.median(1 - best / first for _, first, best in points)
    table_ = rows_of(["block", "first", "best", "best iteration", "lower by"],
                     [(b, charts.short(f), charts.short(l), run.blocks[b].get("best_iteration", ""),
                       f"{100 * (1 - l / f):.1f} %") for b, f, l in points])
    return section("Loss by block", charts.pairs_by_number(points, "block", "first and best loss of each block")
                   + details("all numbers", table_),
                   key("before", "first step (rounded to nearest)") + key("after", "best step:") + "mean squared error of the "
                   f"block's output; in the median {100 * gains:.0f} % lower.")


def loss_curves(run):
    series = {}
    for block, record in run.blocks.items():
        curve = numbers(record.get("losses"))
        if len(curve) > 1 and curve[0] and None not in curve:
            series[block] = [v / curve[0] for v in curve]
    if not series:
        return ""
    highest = max(v for s in series.values() for _, v in charts.thin(s))
    cut = f" Above {charts.CUT:g} they are cut; the highest reaches {charts.short(highest)}." if highest > charts.CUT else ""
    return section("Loss curves", charts.curves(series, "loss of each block over the iterations"),
                   "Each block's loss over its first. A step sees only its own samples, so a curve is rough; the thick "
                   "line is the median of the blocks." + cut)


def layers(run):
    errors = layer_errors(run)
    if not errors:
        return ""
    kinds = mean_by(errors, lambda e: kind_of(e[1]))
    cells = mean_by(errors, lambda e: (kind_of(e[1]), e[0]))
    highest = max(tuned for _, tuned in cells.values())
    shaded = {key: ((tuned / highest) ** 0.5, f"block {key[1]}, {key[0]}: {charts.short(nearest)} -> {charts.short(tuned)}")
              for key, (nearest, tuned) in cells.items()}
    numbers_ = rows_of(["block", "layer", "nearest", "tuned"],
                       [(b, l, charts.short(n), charts.short(t)) for b, l, n, t in errors])
    return section("Error by kind of layer", charts.pairs_by_name([(k, *v) for k, v in kinds.items()], "error by layer"),
                   key("before", "rounded to nearest") + key("after", "tuned:") + "squared error of a layer's output over the "
                   "output's own square, on the inputs that the quantized model gives it; mean of all blocks. "
                   "Tuning lowers the block's error, not each layer's own: layers may lose, and make up for one another."
                   ) + section("Error of each layer, tuned",
                               charts.heat(shaded, list(kinds), sorted({e[0] for e in errors}), "error of each layer")
                               + details("all numbers", numbers_),
                               f"The same by block; darkest: {charts.short(highest)}.")


def phase_seconds(run):
    """Over all starts of the run; the plan's time is in the summary alone."""
    seconds = {}
    for event in run.of("phase"):
        value = number(event.get("seconds"))
        if value is not None and value >= 0 and isinstance(event.get("phase"), str):
            seconds[event["phase"]] = seconds.get(event["phase"], 0) + value
    return seconds


def phases(run):
    seconds = phase_seconds(run)
    if not seconds:
        return ""
    whole_ = sum(seconds.values()) or 1
    return section("Time by phase", charts.bars([(name, s, f"{human_seconds(s)}, {100 * s / whole_:.0f} %",
                                                  report_timeline.kind_of_phase(name)) for name, s in seconds.items()],
                                                "time by phase"))


def memory(run):
    return memory_of(run, "peak_bytes", "Memory by rank", "Peak resident memory") + memory_of(
        run, "peak_device_bytes", "Memory by device", "Peak memory that LibTorch reserved on the rank's device")


def memory_of(run, field, title, what):
    peaks = {name: [v for v in numbers(ranks) if v is not None] for name, ranks in
             table((run.summary or {}).get(field)).items()}
    order = report_timeline.PHASES
    peaks = {name: peaks[name] for name in sorted(peaks, key=lambda n: order.index(n) if n in order else 9) if peaks[name]}
    if not peaks:
        return ""
    fullest = max(peaks, key=lambda name: max(peaks[name]))
    rows = [(name, human_bytes(min(r)), human_bytes(statistics.median(r)), human_bytes(max(r)), r.index(max(r)))
            for name, r in peaks.items()]
    gigabytes = [v / 1e9 for v in peaks[fullest]]
    return section(title, charts.columns(gigabytes, lambda v: f"{v:.2f} GB", "rank", f"{title.lower()}, peak")
                   + rows_of(["phase", "least", "median", "most", "on rank"], rows),
                   f"{what} in GB, in {html.escape(fullest)}, the phase that took most.")


def config(run):
    """One piece per section of the file, so that columns do not cut one."""
    pieces = re.split(r"(?m)^(?=[^\s#])", run.config)
    body = "".join(f"<pre>{html.escape(p)}</pre>" for p in pieces if p.strip())
    return f'<div class="columns">{body}</div>' if body else ""


def side_by_side(timeline, phases_, memory_, tall):
    """Three sections in two columns of much the same height: the time line grows with the groups."""
    if not (timeline and phases_ and memory_):
        return timeline + phases_ + memory_
    stack = lambda *parts: f'<div class="stack">{"".join(parts)}</div>'
    return timeline + stack(phases_, memory_) if tall else stack(timeline, phases_) + memory_


def page(run):
    name = run.directory.resolve().name
    timeline = report_timeline.draw(run)
    legend = "".join(key(report_timeline.kind_of_phase(p), p) for p in report_timeline.PHASES if p in phase_seconds(run))
    pauses = " Dashed lines: pauses." if timeline and 'class="pause"' in timeline else ""
    timeline = section("Time line", timeline, f"{legend}Below, one row per group: its blocks, tinted by stage.{pauses}")
    body = "".join([
        f"<header><h1>{html.escape(name)}</h1>{tiles(run)}</header>",
        section("Warnings", warnings(run), wide=True),
        losses(run), loss_curves(run), layers(run),
        side_by_side(timeline, phases(run), memory(run), tall=(whole(run.start.get("groups")) or 1) > 8),
        section("Config", config(run), wide=True),
    ])
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
            'initial-scale=1"><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
            f"'unsafe-inline'\"><title>{html.escape(name)} – Roundtable</title><style>{STYLE()}</style></head>"
            f"<body><main>{body}</main></body></html>\n")


def write(path, text):
    """Whole or not at all; a lone surrogate from a damaged file must not end it."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)
    except OSError as error:
        kind = MachineFailure if path.parent.is_dir() else Failure
        raise kind(f"{path} cannot be written: {error.strerror}") from error


def is_page(path):
    return start_of(path, 15) == b"<!doctype html>"


def report(arguments):
    run = read_run(arguments.run_dir)
    out = pathlib.Path(arguments.out) if arguments.out else run.directory / "report.html"
    check_replaceable(out, "--out", is_page, "a page in HTML")
    write(out, page(run))
    print(out)
    if arguments.tensorboard:
        import report_tensorboard
        print(report_tensorboard.write(run, run.directory / "tensorboard"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the run directory, OUTPUT.run by default")
    parser.add_argument("--out", help="the page (default RUN_DIR/report.html)")
    parser.add_argument("--tensorboard", action="store_true", help="also write event files to RUN_DIR/tensorboard")
    return run_tool(report, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
