"""Adds up gcov's counts by folder of src/, for launch/coverage.sh: coverage.py BUILD_DIR

A line counts as reached if any object file that holds it (a header is in many) has run it.
"""

import collections
import json
import pathlib
import subprocess
import sys


def counts(build):
    """source file -> {line: reached}"""
    lines = collections.defaultdict(dict)
    for notes in sorted(pathlib.Path(build).resolve().rglob("*.gcda")):
        done = subprocess.run(["gcov", "--json-format", "--stdout", str(notes)], capture_output=True, text=True,
                              cwd=notes.parent)
        for text in done.stdout.splitlines():
            for file in json.loads(text)["files"]:
                for line in file["lines"]:
                    number = line["line_number"]
                    lines[file["file"]][number] = lines[file["file"]].get(number, False) or line["count"] > 0
    return lines


def main():
    source = pathlib.Path(__file__).resolve().parents[1] / "src"
    folders = collections.defaultdict(lambda: [0, 0])
    for file, lines in counts(sys.argv[1]).items():
        path = pathlib.Path(file)
        path = path if path.is_absolute() else source.parent / path
        if source in path.parents:
            total = folders[path.relative_to(source).parts[0]]
            total[0] += sum(lines.values())
            total[1] += len(lines)
    if not folders:
        sys.exit(f"error: no counts below {sys.argv[1]}; run the tests first (launch/coverage.sh)")
    for folder, (reached, total) in sorted(folders.items()):
        print(f"{folder:10} {100 * reached / total:5.1f} %  {reached} of {total} lines")


if __name__ == "__main__":
    main()
