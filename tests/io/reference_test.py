"""Holds src/io's safetensors reader and writer against the safetensors package.

usage: reference_test.py REFERENCE_TOOL
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

import numpy
import safetensors.numpy
import safetensors.torch
import torch

TOOL = sys.argv.pop(1)

DTYPES = {"U8": torch.uint8, "BF16": torch.bfloat16, "F32": torch.float32, "BOOL": torch.bool, "I64": torch.int64,
          "F16": torch.float16, "I8": torch.int8, "F64": torch.float64, "I16": torch.int16, "I32": torch.int32,
          "F8_E4M3": torch.float8_e4m3fn}
SHAPES = [[], [0, 3], [3, 5], [2, 1, 7]]


def tensor_bytes(name, count, is_bool):
    mask = 1 if is_bool else 255
    return bytes((i * 31 + len(name.encode()) * 7 + name.encode()[-1]) % 256 & mask for i in range(count))


def expected_tensors():
    """The same set that `reference_tool write` writes."""
    for dtype, torch_dtype in DTYPES.items():
        for shape in SHAPES:
            name = f"layer.{dtype}.{'x'.join(map(str, shape))}"
            count = torch_dtype.itemsize * int(numpy.prod(shape, dtype=int))
            yield name, dtype, shape, tensor_bytes(name, count, dtype == "BOOL")


def to_torch(dtype, shape, data):
    flat = torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]) if data else torch.empty(0, dtype=DTYPES[dtype])
    return flat.reshape(shape)


def bytes_of(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def run(command, path):
    return subprocess.run([TOOL, command, str(path)], capture_output=True, text=True)


class ReferenceTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "x.safetensors"

    def dump(self):
        done = run("dump", self.path)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def package_bytes(self):
        tensors = {name: to_torch(dtype, shape, data) for name, dtype, shape, data in expected_tensors()}
        return safetensors.torch.save(tensors, {"format": "pt"})

    def test_package_reads_what_we_write(self):
        done = run("write", self.path)
        self.assertEqual(done.returncode, 0, done.stderr)
        found = safetensors.torch.load_file(self.path)
        expected = list(expected_tensors())
        self.assertEqual(set(found), {name for name, *_ in expected})
        for name, dtype, shape, data in expected:
            self.assertEqual(found[name].dtype, DTYPES[dtype], name)
            self.assertEqual(list(found[name].shape), shape, name)
            self.assertEqual(bytes_of(found[name]), data, name)

    def test_numpy_sees_the_values(self):
        run("write", self.path)
        with safetensors.safe_open(self.path, framework="numpy") as file:
            self.assertEqual(file.metadata(), {"format": "pt"})
            name = "layer.F32.3x5"
            expected = numpy.frombuffer(tensor_bytes(name, 60, False), "<f4").reshape(3, 5)
            numpy.testing.assert_array_equal(file.get_tensor(name), expected)

    def test_we_write_the_packages_bytes(self):
        run("write", self.path)
        self.assertEqual(self.path.read_bytes(), self.package_bytes())

    def test_we_read_what_the_package_writes(self):
        self.path.write_bytes(self.package_bytes())
        found = self.dump()
        self.assertEqual(found["metadata"], {"format": "pt"})
        expected = {name: {"dtype": dtype, "shape": shape, "data": data.hex()}
                    for name, dtype, shape, data in expected_tensors()}
        self.assertEqual(found["tensors"], expected)

    def test_we_read_numpys_files(self):
        array = numpy.arange(12, dtype=numpy.float16).reshape(3, 4)
        safetensors.numpy.save_file({"a": array}, self.path)
        found = self.dump()["tensors"]["a"]
        self.assertEqual((found["dtype"], found["shape"], found["data"]), ("F16", [3, 4], array.tobytes().hex()))

    # Neither side may read these. Where the package is more patient than we are (a name that occurs twice), it is not
    # asked: safetensors_test.cc has all kinds.
    def test_both_refuse_bad_files(self):
        def tensor(dtype="U8", shape=(4,), offsets=(0, 4)):
            return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

        def file(header, data_bytes=4, length=None):
            text = header if isinstance(header, bytes) else json.dumps(header).encode()
            return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data_bytes)

        bad = {
            "empty": b"",
            "seven bytes": bytes(7),
            "header beyond the file": file({}, 0, 100),
            "header beyond the limit": file({}, 0, 100_000_001),
            "no json": file(b"{\"a\":"),
            "no object": file(b"[1]"),
            "unknown dtype": file({"a": tensor("X8")}),
            "negative dimension": file({"a": tensor(shape=[-4])}),
            "fractional dimension": file({"a": tensor(shape=[4.5])}),
            "overflow": file({"a": tensor(shape=[2**33, 2**33])}),
            "shape against bytes": file({"a": tensor(shape=[5])}),
            "reversed": file({"a": tensor(offsets=[4, 0])}),
            "beyond the file": file({"a": tensor()}, 3),
            "overlap": file({"a": tensor(), "b": tensor(offsets=[2, 6])}, 6),
            "hole in front": file({"a": tensor(offsets=[1, 5])}, 5),
            "hole between": file({"a": tensor(), "b": tensor(offsets=[5, 9])}, 9),
            "trailing bytes": file({"a": tensor()}, 5),
            "metadata": file({"__metadata__": {"k": 1}, "a": tensor()}),
        }
        for kind, content in bad.items():
            with self.subTest(kind):
                self.path.write_bytes(content)
                done = run("dump", self.path)
                self.assertEqual(done.returncode, 2, kind)
                self.assertRegex(done.stderr, rf"^{self.path}: [^\n]+\n$")
                with self.assertRaises(Exception):
                    safetensors.torch.load(content)
        self.path.write_bytes(file({"a": tensor()}))  # the recipe itself is sound
        self.assertEqual(self.dump()["tensors"]["a"]["data"], "00000000")
        safetensors.torch.load(self.path.read_bytes())


if __name__ == "__main__":
    unittest.main()
