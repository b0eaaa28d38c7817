"""The Markdown of the repository: README stays short, tables stay narrow, and what is linked or named exists.

  tests/docs_test.py [ROOT]
"""

import pathlib
import re
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "launch", "configs", "cluster")
README_LINES = 150
ROW_LENGTH = 160  # a terminal and a page of GitHub show as much

LINK = re.compile(r"\]\(([^)\s]+)\)")
# `src/tune/README.md`, launch/test.sh in a block of commands; not build/src/roundtable, nor /shared/src.
PATH = re.compile(r"(?<![\w/.$-])(?:\./)?((?:" + "|".join(FOLDERS) + r")/[\w./*-]*)")


def documents(root):
    """All Markdown files. What a user has written into other folders of the checkout is not ours to check."""
    return sorted([*root.glob("*.md"), *(path for folder in FOLDERS for path in (root / folder).rglob("*.md"))])


def long_readme(root):
    lines = len((root / "README.md").read_text(encoding="utf-8").splitlines())
    return [f"README.md has {lines} lines, more than {README_LINES}"] if lines > README_LINES else []


def wide_rows(root):
    return [f"{path.relative_to(root)}:{number}: a table row of {len(line)} characters, more than {ROW_LENGTH}"
            for path in documents(root)
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
            if line.lstrip().startswith("|") and len(line) > ROW_LENGTH]


def exists(root, name):
    """Whether a file or folder is there; NAME and * stand for any."""
    name = name.rstrip("./").replace("NAME", "*")
    return any(root.glob(name)) if "*" in name else (root / name).exists()


def dead_links(root):
    return [f"{path.relative_to(root)}: no {link} (a link)"
            for path in documents(root) for link in LINK.findall(path.read_text(encoding="utf-8"))
            if "://" not in link and not link.startswith("#") and not exists(path.parent, link.split("#")[0])]


def dead_paths(root):
    return [f"{path.relative_to(root)}: no {name}"
            for path in documents(root) for name in PATH.findall(LINK.sub("", path.read_text(encoding="utf-8")))
            if not exists(root, name)]


class DocsTest(unittest.TestCase):
    def test_readme_is_short(self):
        self.assertEqual(long_readme(ROOT), [])

    def test_tables_are_narrow(self):
        self.assertEqual(wide_rows(ROOT), [])

    def test_what_is_linked_exists(self):
        self.assertEqual(dead_links(ROOT), [])

    def test_what_is_named_exists(self):
        self.assertEqual(dead_paths(ROOT), [])

    def test_every_document_is_looked_at(self):
        found = {path.relative_to(ROOT).as_posix() for path in documents(ROOT)}
        self.assertLessEqual({"README.md", "CONTRIBUTING.md", "src/export/README.md", "cluster/README.md"}, found)

    def test_faults_are_seen(self):
        """On a tree of our own making."""
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name)
            (root / "src" / "io").mkdir(parents=True)
            (root / "src" / "io" / "file.cc").touch()
            good = "`src/io`, src/io/file.cc. `src/io/NAME.cc` build/src/program [io](src/io) [web](https://a.b/src/c)\n"
            (root / "README.md").write_text(good * README_LINES)
            (root / "src" / "README.md").write_text("| " + "x" * (ROW_LENGTH - 4) + " |\n[io](io/file.cc)\n")
            checks = (long_readme, wide_rows, dead_links, dead_paths)
            self.assertEqual([check(root) for check in checks], [[]] * len(checks))
            (root / "README.md").write_text(good * README_LINES + "`src/pipeline/plan.cc`, ./src/pipeline\n")
            (root / "src" / "README.md").write_text("  | " + "x" * (ROW_LENGTH - 4) + " |\n[io](file.cc)\n")
            self.assertEqual([len(check(root)) for check in checks], [1, 1, 1, 2])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
