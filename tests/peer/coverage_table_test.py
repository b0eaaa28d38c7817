"""The file that lists the covered models is read as it was written, and what is not so in it is found."""

import pathlib
import tempfile
import unittest

import coverage_table
from coverage_table import COVERED, LEFT_OUT, REFUSED, Entry

VERSIONS = "transformers 5.0 with torch 2.0"
ENTRIES = {
    "llama": Entry(COVERED, "LlamaForCausalLM | 1 of 4 | "),
    "gemma4@e2b": Entry(COVERED, "Gemma4ForCausalLM | 4 of 4 | tokens, `shared.keys`"),
    "blip-2": Entry(LEFT_OUT, "it needs an image"),
    "blt": Entry(REFUSED, "a long reason " * 20 + "(at `modeling_blt.py:9`)"),
}


class CoverageTableTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "COVERAGE.md"
        coverage_table.write(self.path, ENTRIES, VERSIONS, (1e-4, 1e-3))

    def problems(self, found=(), names=tuple(ENTRIES), versions=VERSIONS):
        return coverage_table.problems(self.path, dict(found), names, versions)

    def test_it_is_read_as_it_was_written(self):
        entries, text = coverage_table.read(self.path)
        self.assertEqual(entries, {name: Entry(e.state, e.text) for name, e in ENTRIES.items()})
        self.assertIn("**2 of 3 models (66.7 %)**", text)
        self.assertLess(max(map(len, text.splitlines())), 160)
        self.assertEqual(self.problems(ENTRIES), [])

    def test_a_row_of_what_was_found(self):
        row = {"class": "X", "kinds": 2, "blocks": 4, "tokens": True, "carried": ["shared.keys.0", "shared.keys.embed1", "2"]}
        self.assertEqual(coverage_table.entry_of(row), Entry(COVERED, "X | 2 of 4 | tokens, an unnamed one, `shared.keys`"))
        self.assertEqual(coverage_table.entry_of({"error": "a|b\n  c `d`"}), Entry(REFUSED, "a/b c 'd'"))

    def test_what_is_not_so(self):
        for found in (Entry(REFUSED, "no"), Entry(COVERED, "LlamaForCausalLM | 2 of 4 | ")):
            self.assertRegex(self.problems({"llama": found})[0], "llama: it is .*, and the file says covered .*--table")
        self.assertEqual(self.problems({"blt": Entry(REFUSED, "another reason")}), [])
        self.assertRegex(self.problems(names=[*ENTRIES, "new"])[0], "new: it has no line")
        self.assertRegex(self.problems(names=list(ENTRIES)[:3])[0], "blt: .* has no such model")
        self.assertRegex(self.problems(versions="transformers 6")[0], "not made with transformers 6")
        self.path.write_text(self.path.read_text().replace("| llama |", "| llama2 |").replace("2 of 3 models", "3 of 3 models"))
        self.assertEqual(len(self.problems()), 3)


if __name__ == "__main__":
    unittest.main()
