"""graph_check passes a graph that computes what it should, and fails one that does not.

  tests/graph/graph_check_test.py PROGRAM
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch
from safetensors.torch import save_file

PROGRAM = sys.argv.pop(1)
WIDTH, SEQLEN, VOCAB = 8, 4, 16


def linear_part(weight, shape, takes, gives, entry):
    spec = {"shape": shape, "dtype": "float32"}
    node = {"op": "aten::linear", "args": [{"v": 0}, {"v": 1}], "out": [2], "bytes": 0, "flops": 0}
    tensor = {"disk": weight, "param": weight, "offset": 0, "shape": shape, "stride": [shape[1], 1], "use": entry}
    return {"inputs": [{"value": 0, "kind": takes}, {"value": 1, "kind": "parameter", "name": weight}], "nodes": [node],
            "outputs": [{"value": 2, "kind": gives}], "values": 3, "parameters": {weight: spec}, "tensors": [tensor]}


def model():
    embed = linear_part("embed.weight", [VOCAB, WIDTH], "tokens", "hidden", "embedding")
    embed["nodes"][0].update(op="aten::embedding", args=[{"v": 1}, {"v": 0}])
    schemas = {name: str(op._schema) for name, op in (("aten::linear", torch.ops.aten.linear.default),
                                                      ("aten::embedding", torch.ops.aten.embedding.default))}
    return {"format": "roundtable-graph", "version": 1, "torch": "2.13.0", "transformers": "5.23.0",
            "config_sha256": "0" * 64, "model_type": "x", "architecture": "X", "own_code": False, "seqlen": SEQLEN,
            "dtype": "float32", "vocab_size": VOCAB, "batch": 0,
            "boundary": {"hidden": {"shape": [SEQLEN, WIDTH], "dtype": "float32"}}, "operators": schemas, "embed": embed,
            "head": linear_part("head.weight", [VOCAB, WIDTH], "hidden", "logits", "linear"),
            "kinds": [linear_part("proj.weight", [WIDTH, WIDTH], "hidden", "hidden", "linear")],
            "blocks": [{"prefix": "layers.0.", "kind": 0, "takes": {}, "gives": {}}], "untouched": [],
            "check": {"output": 0, "gradient": 0}}


def samples():
    torch.manual_seed(1)
    x, w = torch.randn(2, SEQLEN, WIDTH, requires_grad=True), torch.randn(WIDTH, WIDTH, requires_grad=True)
    table, tokens = torch.randn(VOCAB, WIDTH), torch.randint(VOCAB, (2, SEQLEN))
    y, upstream = x @ w.T, torch.randn(2, SEQLEN, WIDTH)
    y.backward(upstream)
    return {"kinds.0/hidden": x.detach(), "kinds.0/parameters/proj.weight": w.detach(), "kinds.0/output": y.detach(),
            "kinds.0/upstream": upstream, "kinds.0/gradients/hidden": x.grad,
            "kinds.0/gradients/parameters/proj.weight": w.grad, "embed/tokens": tokens,
            "embed/parameters/embed.weight": table, "embed/output": table[tokens]}


class GraphCheckTest(unittest.TestCase):
    def run_on(self, tensors, *options):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "model.json").write_text(json.dumps(model()))
            save_file({key: value.contiguous() for key, value in tensors.items()}, str(folder / "samples.safetensors"))
            return subprocess.run([PROGRAM, str(folder), str(folder / "samples.safetensors"), *options],
                                  capture_output=True, text=True)

    def test_a_graph_that_is_right(self):
        done = self.run_on(samples())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual([line.split(":")[0] for line in done.stdout.splitlines()],
                         ["ok   embed 1 nodes plain", "ok   kinds.0 1 nodes plain", "ok   kinds.0 1 nodes fused"])

    def test_each_difference_is_seen(self):
        for name, ways in (("output", 2), ("gradients/hidden", 2), ("gradients/parameters/proj.weight", 2)):
            tensors = samples()
            tensors[f"kinds.0/{name}"] = tensors[f"kinds.0/{name}"] * 1.01
            done = self.run_on(tensors)
            self.assertEqual((done.returncode, done.stdout.count("FAIL")), (1, ways), name + done.stdout + done.stderr)
            self.assertEqual(self.run_on(tensors, "--output", "0.1", "--gradient", "0.1").returncode, 0, name)

    def test_a_file_that_cannot_be_used(self):
        tensors = samples()
        del tensors["kinds.0/output"]
        self.assertEqual(self.run_on(tensors).returncode, 2)


if __name__ == "__main__":
    unittest.main()
