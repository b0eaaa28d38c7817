"""Settings are resolved once: no code outside config/ compares a setting with text.

The words that a key can have are collected from config/choices.h, and the names of formats from export/. A comparison
with one of these words belongs into config/, where each word has its enumerator.

  tests/settings_test.py [SRC]
"""

import pathlib
import re
import sys
import tempfile
import unittest

SRC = pathlib.Path(__file__).resolve().parent.parent / "src"
SOURCES = {".h", ".cc", ".cu", ".cuh"}

# These folders read files of others (config.json, safetensors, GGUF), where some of the same words mean something else:
# "default" and "linear" are also names of RoPE scalings. They cannot see a setting: tests/layering_test.py lets none of
# them include config/, except for the enums.
READ_FILES_OF_OTHERS = {"model", "export", "io", "quant"}

CHOICE = re.compile(r'\{"([^"]+)", \w+::k\w+\}')
FORMAT = re.compile(r'FORMAT\("([^"]+)", \w+\)')  # a line of the table


def words(src):
    found = set(CHOICE.findall((src / "config" / "choices.h").read_text()))
    return found | set(FORMAT.findall((src / "export" / "registry.h").read_text()))


def comparisons(text, known):
    """The lines of C++ that compare something with a known word."""
    word = "|".join(sorted(map(re.escape, known)))
    operator = re.compile(rf'[=!]=\s*(std::string(_view)?[({{])?"({word})"|"({word})"(sv?|[)}}])?\s*[=!]=')
    call = re.compile(rf'(starts_with|ends_with|compare|strcmp)\([^()]*"({word})"')
    return [line for line in text.splitlines() if operator.search(line) or call.search(line)]


def offences(src):
    known = words(src)
    found = []
    for path in sorted(p for p in src.rglob("*") if p.suffix in SOURCES):
        folder = path.relative_to(src).parts[0]
        if folder == "config" or folder in READ_FILES_OF_OTHERS:
            continue
        found += [f"{path}: {line.strip()}" for line in comparisons(path.read_text(), known)]
    return found


class SettingsTest(unittest.TestCase):
    def test_no_setting_is_compared_with_text(self):
        self.assertEqual(offences(SRC), [])

    def test_the_words_are_found(self):
        known = words(SRC)
        for word in ("sym", "asym", "adamw", "strata", "search", "cosine", "mx_fp", "float", "fp16", "bf16", "sign",
                     "nccl", "rtn", "auto_gptq", "auto_round:auto_gptq", "gguf", "qdq"):
            self.assertIn(word, known)
        tables = (SRC / "config" / "choices.h").read_text().count("kChoices<")
        self.assertGreater(len(known), 2 * (tables - 4))  # every enum has two words or more, except for one

    def test_each_word_is_written_once(self):
        """In config/ itself: its headers and its code take the words from choices.h."""
        for path in (SRC / "config").iterdir():
            if path.suffix in SOURCES and path.name != "choices.h":
                self.assertEqual(comparisons(path.read_text(), words(SRC)), [], path)

    def test_offences_are_seen(self):
        known = {"adamw", "auto_round:auto_gptq"}
        for line in ('if (t.optimizer == "adamw") {', 'return "adamw" != name;', 'x = kind == std::string("adamw");',
                     'name=="auto_round:auto_gptq"', 'if (name.starts_with("adamw")) {',
                     'a == std::string_view{"adamw"}'):
            self.assertEqual(comparisons(line, known), [line])
        for line in ('throw bad_input("momentum", "adamw has its own");', 'if (type == "linear") {', '// == adamw'):
            self.assertEqual(comparisons(line, known), [])
        with tempfile.TemporaryDirectory() as name:
            src = pathlib.Path(name)
            for folder in ("config", "plan", "export"):
                (src / folder).mkdir()
            (src / "config" / "choices.h").write_text('{{"sym", Symmetry::kSym}, {"asym", Symmetry::kAsym}}')
            (src / "export" / "registry.h").write_text('  FORMAT("x:y", x_y_format)')
            (src / "plan" / "p.cc").write_text('if (scheme == "asym") {}\nif (format->name() == "x:y") {}\n')
            self.assertEqual(len(offences(src)), 2)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SRC = pathlib.Path(sys.argv.pop(1))
    unittest.main()
