"""Every include in src/ respects the order of the house, and the heavy headers stay where they belong.

  tests/layering_test.py [SRC]
"""

import pathlib
import re
import sys
import tempfile
import unittest

SRC = pathlib.Path(__file__).resolve().parent.parent / "src"

# folder -> the folders that it may include beside itself. pipeline -> {tune, export} -> {model, quant, data, cache} ->
# {comm, io, config} -> base; folders of one level do not know each other.
ALLOWED = {
    "base": set(),
    "comm": {"base"},
    "io": {"base"},
    "config": {"base"},
    "data": {"base", "io"},
    "cache": {"base", "comm"},  # what it stores and where is for its caller to say
    "model": {"base", "comm", "io"},
    "quant": {"base"},  # numbers in, numbers out
    "tune": {"base", "comm", "data", "model", "quant"},
    "export": {"base", "io", "model", "quant"},
    "pipeline": {"base", "comm", "io", "config", "data", "cache", "model", "quant", "tune", "export"},
    "": {"base", "comm", "config", "pipeline"},  # main.cc and the precompiled header
}

# header (or the folder that it is in) -> the folders that may include it
CONFINED = {
    "torch/": {"", "quant", "model", "tune", "export", "pipeline"},
    "ATen/": {"quant", "model", "tune", "pipeline"},
    "c10/": {"quant", "model", "tune", "pipeline"},
    "mpi.h": {"comm", "cache"},
    "nccl.h": {"comm"},
    "hdf5.h": {"cache"},
    "yaml-cpp/": {"config"},
    "spdlog/": {"base"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
SOURCES = {".h", ".cc", ".cu", ".cuh"}


def offences(src):
    found = []
    for path in sorted(p for p in src.rglob("*") if p.suffix in SOURCES):
        parts = path.relative_to(src).parts
        folder = parts[0] if len(parts) > 1 else ""
        if folder not in ALLOWED:
            found.append(f"{path}: folder '{folder}' has no place in the house: name it in {__file__}")
            continue
        for bracket, header in INCLUDE.findall(path.read_text()):
            for confined, folders in CONFINED.items():
                if (header.startswith(confined) if confined.endswith("/") else header == confined) \
                        and folder not in folders:
                    found.append(f"{path}: <{header}> is for {', '.join(sorted(folders))} alone")
            if bracket == "<":
                continue
            target = header.split("/")[0] if "/" in header else None
            if target is None or not (src / header).exists():
                found.append(f'{path}: "{header}" is not a file named from src/')
            elif target != folder and target not in ALLOWED[folder]:
                found.append(f'{path}: "{header}": {folder or "main"} may not know {target}')
    return found


class LayeringTest(unittest.TestCase):
    def test_every_include_points_down(self):
        self.assertEqual(offences(SRC), [])

    def test_every_folder_is_in_the_table(self):
        folders = {p.name for p in SRC.iterdir() if p.is_dir()}
        self.assertEqual(folders, set(ALLOWED) - {""})

    def test_the_table_has_no_circle(self):
        left = dict(ALLOWED)
        while left:
            free = [folder for folder, below in left.items() if not below & set(left)]
            self.assertTrue(free, f"a circle among {sorted(left)}")
            for folder in free:
                del left[folder]

    def test_offences_are_seen(self):
        """On a source tree of our own making."""
        def offences_of(folder, include):
            with tempfile.TemporaryDirectory() as name:
                src = pathlib.Path(name)
                for below in ALLOWED:
                    (src / below).mkdir(exist_ok=True)
                    (src / below / "some.h").touch()
                (src / folder / "x.cc").write_text(f"// comment\n#include {include}\n")
                return len(offences(src))

        self.assertEqual(offences_of("tune", '"quant/some.h"'), 0)
        self.assertEqual(offences_of("comm", "<mpi.h>"), 0)
        self.assertEqual(offences_of("base", "<vector>"), 0)
        for folder, include in [("quant", '"tune/some.h"'), ("io", '"comm/some.h"'), ("data", '"cache/some.h"'),
                                ("tune", '"export/some.h"'), ("model", "<mpi.h>"), ("cache", "<nccl.h>"),
                                ("io", "<torch/torch.h>"), ("tune", '"nowhere/some.h"'), ("tune", '"some.h"')]:
            self.assertEqual(offences_of(folder, include), 1, (folder, include))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SRC = pathlib.Path(sys.argv.pop(1))
    unittest.main()
