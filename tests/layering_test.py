"""Every include in src/ respects the order of the house, and the heavy headers stay where they belong.

  tests/layering_test.py [SRC]
"""

import collections
import pathlib
import re
import sys
import tempfile
import unittest

SRC = pathlib.Path(__file__).resolve().parent.parent / "src"

# The floors of the house, from the ground up. A folder may include what lies on a lower floor, whatever is named for it
# in BESIDE, and itself.
FLOORS = [
    {"base", "device"},
    {"comm", "io", "config", "quant"},
    {"model", "cache", "data"},
    {"graph"},
    {"export", "tune", "rundir"},
    {"plan"},
    {"run"},
    {"convert"},
    {"phases", "round"},
    {"commands"},
    {""},  # main.cc and the precompiled header
]

# Neighbours on one floor do not know each other, except for these.
BESIDE = {
    "device": {"base"},
}

# What a folder leaves out of that, to stay small or free of a heavy library.
NOT = {
    "comm": {"torch"},
    "quant": {"device"},  # numbers in, numbers out
    "model": {"config"},
    "rundir": {"graph", "model", "cache", "data", "quant", "comm"},  # files alone: no tensors, no MPI
    "cache": {"config", "quant"},  # what it stores and where is for its caller to say
    "data": {"comm", "config", "quant"},
    "tune": {"config", "io", "cache"},
    "export": {"comm", "config", "cache", "data"},
}

# Headers that folders may include although they do not know the header's folder.
EXCEPT = {
    "config/choices.h": {"quant", "data", "tune"},  # enums alone: a setting is the same type from the config to its use
}


def allowed(folder):
    below = set().union(*FLOORS[:floor_of(folder)])
    return (below | BESIDE.get(folder, set())) - NOT.get(folder, set())


def floor_of(folder):
    return next(i for i, floor in enumerate(FLOORS) if folder in floor)


# header (or the folder that it is in) -> the folders that may include it
ABOVE_TENSORS = {"quant", "model", "graph", "tune", "export", "plan", "run", "convert", "round", "phases", "commands"}
CONFINED = {
    "torch/": {"", "device"} | ABOVE_TENSORS,
    "ATen/": {"device"} | ABOVE_TENSORS,
    "c10/": {"device"} | ABOVE_TENSORS,
    "mpi.h": {"comm", "cache"},
    "nccl.h": {"comm"},
    "cuda_runtime_api.h": {"comm", "device", "model", "quant"},
    "hdf5.h": {"cache"},
    "yaml-cpp/": {"config"},
    "pcre2.h": {"base"},
}

# Headers that folders without LibTorch include, and which of these folders may include no others of that room.
FREE_OF_TORCH = {"device/stream.h"}
WITHOUT_TORCH = {"comm"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
SOURCES = {".h", ".cc", ".cu", ".cuh"}


def offences(src):
    found = []
    for path in sorted(p for p in src.rglob("*") if p.suffix in SOURCES):
        parts = path.relative_to(src).parts
        folder = parts[0] if len(parts) > 1 else ""
        if not any(folder in floor for floor in FLOORS):
            found.append(f"{path}: folder '{folder}' has no place in the house: name it in {__file__}")
            continue
        for bracket, header in INCLUDE.findall(path.read_text()):
            for confined, folders in CONFINED.items():
                if (header.startswith(confined) if confined.endswith("/") else header == confined) \
                        and folder not in folders:
                    found.append(f"{path}: <{header}> is for {', '.join(sorted(folders))} alone")
            if path.relative_to(src).as_posix() in FREE_OF_TORCH and header.startswith(("torch/", "ATen/", "c10/")):
                found.append(f"{path}: <{header}>: this header is included where LibTorch is not known")
            if bracket == "<":
                continue
            target = header.split("/")[0] if "/" in header else None
            if target is None or not (src / header).exists():
                found.append(f'{path}: "{header}" is not a file named from src/')
            elif folder in WITHOUT_TORCH and target == "device" and header not in FREE_OF_TORCH:
                found.append(f'{path}: "{header}" brings LibTorch to {folder}')
            elif target != folder and target not in allowed(folder) and folder not in EXCEPT.get(header, ()):
                found.append(f'{path}: "{header}": {folder or "main"} may not know {target}')
    return found


def crowded(src, most=20):
    """Folders with more source files side by side than a reader takes in at a glance."""
    count = collections.Counter(p.parent for p in src.rglob("*") if p.suffix in SOURCES)
    return [f"{folder}: {files} files" for folder, files in sorted(count.items()) if files > most]


class LayeringTest(unittest.TestCase):
    def test_every_include_points_down(self):
        self.assertEqual(offences(SRC), [])

    def test_every_folder_is_in_the_table(self):
        folders = {p.name for p in SRC.iterdir() if p.is_dir()}
        self.assertEqual(folders, set().union(*FLOORS) - {""})

    def test_headers_for_all_know_nothing_of_the_house(self):
        for header in EXCEPT:
            self.assertNotRegex((SRC / header).read_text(), r'#\s*include\s*"')

    def test_the_table_has_no_circle(self):
        """A folder may know one beside it, but then not the other way round, nor by a detour."""
        left = {folder: allowed(folder) for floor in FLOORS for folder in floor}
        while left:
            free = [folder for folder, below in left.items() if not below & set(left)]
            self.assertTrue(free, f"a circle among {sorted(left)}")
            for folder in free:
                del left[folder]

    def test_no_folder_is_crowded(self):
        self.assertEqual(crowded(SRC), [])
        with tempfile.TemporaryDirectory() as name:
            for i in range(3):
                (pathlib.Path(name) / f"{i}.h").touch()
            self.assertEqual(len(crowded(pathlib.Path(name), most=2)), 1)

    def test_offences_are_seen(self):
        """On a source tree of our own making."""
        def offences_of(folder, include):
            with tempfile.TemporaryDirectory() as name:
                src = pathlib.Path(name)
                for below in set().union(*FLOORS):
                    (src / below).mkdir(exist_ok=True)
                    (src / below / "some.h").touch()
                (src / "config" / "choices.h").touch()
                (src / folder / "x.cc").write_text(f"// comment\n#include {include}\n")
                return len(offences(src))

        self.assertEqual(offences_of("tune", '"quant/some.h"'), 0)
        self.assertEqual(offences_of("comm", "<mpi.h>"), 0)
        self.assertEqual(offences_of("base", "<vector>"), 0)
        self.assertEqual(offences_of("tune", '"config/choices.h"'), 0)
        for folder, include in [("quant", '"tune/some.h"'), ("io", '"comm/some.h"'), ("data", '"cache/some.h"'),
                                ("tune", '"export/some.h"'), ("tune", '"config/some.h"'), ("io", '"config/choices.h"'),
                                ("model", "<mpi.h>"), ("cache", "<nccl.h>"),
                                ("convert", '"phases/some.h"'), ("plan", '"run/some.h"'), ("rundir", '"comm/some.h"'),
                                ("rundir", "<torch/types.h>"), ("config", "<ATen/ATen.h>"),
                                ("comm", '"device/some.h"'), ("io", "<torch/torch.h>"), ("tune", '"nowhere/some.h"'), ("tune", '"some.h"')]:
            self.assertEqual(offences_of(folder, include), 1, (folder, include))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SRC = pathlib.Path(sys.argv.pop(1))
    unittest.main()
