"""The file that says which models are covered: text of it, and what an older one says."""

import re
import textwrap

WIDTH = 118
COVERED, REFUSED, LEFT_OUT = "covered", "refused", "left out"


class Entry:
    """What the file says of a model. `text`: of a covered model its columns, else the reason."""

    def __init__(self, state, text):
        self.state, self.text = state, text

    def __eq__(self, other):
        return (self.state, self.text) == (other.state, other.text)


def entry_of(row):
    """row: as coverage.py makes it."""
    if "error" in row:
        return Entry(REFUSED, plain(row["error"]))
    carried = sorted({re.sub(r"(\.(embed)?\d+)+$", "", name) for name in row["carried"]})
    takes = ["tokens"] * row["tokens"] + ["an unnamed one" if name.isdigit() else f"`{name}`" for name in carried]
    return Entry(COVERED, f"{row['class']} | {row['kinds']} of {row['blocks']} | {', '.join(takes)}")


def plain(reason):
    return " ".join(reason.replace("|", "/").replace("`", "'").split())[:500]


def counts(entries):
    """-> (covered, all that count)"""
    covered = sum(entry.state == COVERED for entry in entries.values())
    return covered, sum(entry.state != LEFT_OUT for entry in entries.values())


def summary(entries):
    covered, whole = counts(entries)
    return f"{covered} of {whole}"


HEAD = """\
# Which models can enter

{count} of {versions} can be exported as graphs, and the program computes from these graphs what transformers computes.

These are all causal language models of transformers, and the text parts of its models for text and images. Each one
was made small, with random weights and with every kind of block that its config has by default. A model is covered if the outputs of its embedding
part, of its head and of one block of each kind, and the gradients of the input and of all weights of these blocks, are
those of transformers: from the exported graph in Python, and in the program in both ways in which it runs a block (node
by node, and with fused nodes and tuned layers). Outputs may differ by {output:g} of the largest value, gradients by
{gradient:g}: all sums are in fp32, in another order. A wrong mask or a missing term differs by far more.

A vision part that comes from the Python package timm (fast_vlm, gemma3n, perception_lm) can be built only where timm is
installed. Here fast_vlm and perception_lm were made with another vision part, which their text parts do not see.

This file is written by a program. After a change of the export, of the program or of transformers, write it again:

```
tests/peer/coverage.py --graph-check build/tests/graph/graph_check --table src/graph/COVERAGE.md [MODEL_TYPE ...]
```

With names it writes the lines of these models alone. The test `peer.coverage` compares some lines with what is true, and
looks whether a model has no line.

## Covered

Kinds: blocks of one kind have the same graph; of how many blocks of the small model. More inputs: what blocks take in
addition to the hidden states: token ids, or tensors that the embedding part or an earlier block gives (carried
tensors). NAME@VARIETY is a second config of a model.

| model type | class | kinds | more inputs of its blocks |
|---|---|---|---|
"""


def wrapped(text):
    """Paragraphs in lines of the same width; tables and commands as they are."""
    parts = text.split("\n\n")
    return "\n\n".join(part if part.startswith(("|", "`", "#")) else textwrap.fill(part, WIDTH, break_on_hyphens=False)
                       for part in parts)


def write(path, entries, versions, limits):
    def of(state):
        return sorted((name, entry.text) for name, entry in entries.items() if entry.state == state)

    def listed(state):
        return [line for name, text in of(state)
                for line in textwrap.wrap(f"- `{name}`: {text}", WIDTH, subsequent_indent="  ", break_long_words=False,
                                          break_on_hyphens=False)]
    lines = [f"| {name} | {text} |" for name, text in of(COVERED)]
    lines += ["", "## Refused", "", "What the export or the comparison says of them:", "", *listed(REFUSED)]
    lines += ["", "## Left out", "", "They do not count, for these reasons:", "", *listed(LEFT_OUT)]
    head = wrapped(HEAD.format(count=shown_count(entries), versions=versions, output=limits[0], gradient=limits[1]))
    with open(path, "w", encoding="utf-8") as file:
        file.write(head + "\n".join(lines) + "\n")


def shown_count(entries):
    covered, whole = counts(entries)
    return f"**{covered} of {whole} models ({100 * covered / max(whole, 1):.1f} %)**"


def read(path):
    """-> (name -> Entry, the line with the count)"""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    entries, state, last = {}, None, None
    for line in text.splitlines():
        if line.startswith("## "):
            state, last = line[3:].lower(), None
        elif state == COVERED and re.match(r"\| [a-z0-9]", line) and not line.startswith("| model type"):
            name, rest = line[2:-2].split(" | ", 1)
            entries[name] = Entry(state, rest)
        elif state in (REFUSED, LEFT_OUT) and (match := re.match(r"- `([^`]+)`: (.*)", line)):
            last = entries[match[1]] = Entry(state, match[2])
        elif last is not None and line.startswith("  "):
            last.text += " " + line.strip()
    return entries, text


def problems(path, found, names, versions):
    """What the file says that is not so. found: name -> Entry, of some models; names: of all."""
    written, text = read(path)
    again = f"; write its line again: tests/peer/coverage.py --graph-check PROGRAM --table {path} "
    wrong = []
    for name, entry in found.items():
        there = written.get(name)
        if there is None or there.state != entry.state or entry.state == COVERED and there != entry:
            says = f"{there.state} ({there.text})" if there else "nothing"
            wrong.append(f"{path}: {name}: it is {entry.state} ({entry.text}), and the file says {says}{again}{name}")
    wrong += [f"{path}: {name}: it has no line{again}{name}" for name in sorted(set(names) - set(written) - set(found))]
    wrong += [f"{path}: {name}: {versions} has no such model; write the whole file again"
              for name in sorted(set(written) - set(names))]
    if shown_count(written) not in text:
        wrong.append(f"{path}: its lines are {shown_count(written)}, and its beginning says something else")
    if versions not in " ".join(text.split()):
        wrong.append(f"{path}: it was not made with {versions}; write the whole file again")
    return wrong
