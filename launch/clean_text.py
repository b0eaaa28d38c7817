#!/usr/bin/env python3
"""Turns the Jargon File's plain text into running English: one paragraph per block, with blank lines between.

  launch/clean_text.py JARGON.TXT[.gz] OUT_DIR [--held-out 0.15]

Writes OUT_DIR/calibration.txt (the first part) and OUT_DIR/heldout.txt (the last); order is kept. Left out:
the tables of contents, rules, and tables and drawings.
"""

import argparse
import gzip
import os
import re
import sys

from exit_codes import Failure, run

ENTRY = re.compile(r":([^:].*?):\s*(.*)$")  # ":batch: adj.", an entry's head


def paragraphs(text):
    """The blocks between blank lines, each as its list of lines."""
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [line.rstrip() for line in block.split("\n") if line.strip()]
        if lines:
            yield lines


def is_prose(lines):
    if any("═" in line or "──" in line for line in lines):
        return False
    indents = {len(line) - len(line.lstrip()) for line in lines}
    if max(indents) > 10 or len(indents) > 2:  # drawings, centred verse, code
        return False
    body = " ".join(line.strip() for line in lines)
    if re.search(r"\S {3,}\S", body):  # columns
        return False
    letters = sum(c.isalpha() or c == " " for c in body)
    return letters >= 0.75 * len(body) and len(body.split()) >= 8


def clean(text):
    """Prose paragraphs; an entry's head is joined to the first of its paragraphs, without its pronunciation."""
    head = ""
    for lines in paragraphs(text):
        first = lines[0].strip()
        entry = ENTRY.match(first) if len(lines) == 1 else None
        if entry:
            head = entry.group(1).strip() + ": "
            continue
        if not is_prose(lines):
            continue
        body = " ".join(line.strip() for line in lines)
        body = re.sub(r"\{([^{}]*)\}", r"\1", body)  # {cross-reference}
        body = re.sub(r"\s+", " ", body)
        yield head + body
        head = ""


def write(path, parts):
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        f.write("\n\n".join(parts) + "\n")
    os.replace(path + ".tmp", path)
    print(f"{path}: {sum(len(p.split()) for p in parts)} words")


def split(source, out_dir, held_out):
    try:
        with (gzip.open if source.endswith(".gz") else open)(source, "rt", encoding="utf-8") as f:
            parts = list(clean(f.read()))
    except (OSError, EOFError, ValueError) as error:
        raise Failure(f"{source}: cannot be read as text: {error}") from error
    total = sum(len(p) for p in parts)
    seen, cut = 0, 0
    while cut < len(parts) and seen + len(parts[cut]) <= (1 - held_out) * total:
        seen += len(parts[cut])
        cut += 1
    if cut in (0, len(parts)):
        raise Failure(f"{source}: {len(parts)} paragraphs are too few to split; give a longer text")
    os.makedirs(out_dir, exist_ok=True)
    write(os.path.join(out_dir, "calibration.txt"), parts[:cut])
    write(os.path.join(out_dir, "heldout.txt"), parts[cut:])


def main():
    parser = argparse.ArgumentParser(description="Turns the Jargon File into plain paragraphs.")
    parser.add_argument("source")
    parser.add_argument("out_dir")
    parser.add_argument("--held-out", type=float, default=0.15, help="the part at the end (0.15)")
    arguments = parser.parse_args()
    return run(split, arguments.source, arguments.out_dir, arguments.held_out)


if __name__ == "__main__":
    sys.exit(main())
