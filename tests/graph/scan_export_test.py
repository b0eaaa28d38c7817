"""Models with the scan of Mamba 1: the export puts our operator in the place of their loop, and the program computes what
transformers' loop computes, gradients too.

  tests/graph/scan_export_test.py GRAPH_CHECK
"""

import logging
import os
import subprocess
import sys
import unittest
import unittest.mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "launch"))
from graph_folder import SEQLEN, FolderTest  # first: it sets the environment of transformers

import torch
from safetensors.torch import save_file
from torch import nn

from graph_export import check, interpret, operators, scans
from graph_export.model_source import Source
from graph_export.parts import export_function
from graph_export.trace import ANY_BATCH

PROGRAM = sys.argv.pop(1)
SMALL = dict(num_hidden_layers=2, hidden_size=32, vocab_size=64)
MAMBA = dict(SMALL, intermediate_size=64, state_size=4, time_step_rank=4)
MODELS = {
    "mamba": MAMBA, "falcon_mamba": MAMBA,
    "jamba": dict(SMALL, intermediate_size=64, mamba_d_state=4, mamba_dt_rank=4, attn_layer_period=2, attn_layer_offset=1, num_experts=1,
                  num_attention_heads=2, num_key_value_heads=2, use_mamba_kernels=False),
    "zamba": dict(SMALL, num_hidden_layers=4, intermediate_size=64, mamba_d_state=4, mamba_dt_rank=4, n_mamba_heads=2,
                  num_attention_heads=4, num_key_value_heads=4, attention_hidden_size=64, attention_head_dim=16,
                  layers_block_type=["linear_attention", "hybrid"] * 2)}
logging.disable(logging.WARNING)
torch.set_num_threads(1)


def scans_in(part):
    return [node for node in part["nodes"] if node["op"] == "rt::selective_scan"]


class ScanTest(FolderTest):
    def samples(self, model):
        """What transformers computes in its first block: its own loop over tokens, and autograd through it."""
        source = Source(self.model)
        module = source.build(source.config, torch.float32, "cpu")
        check.random_weights(module)
        layer = next(m for n, m in module.named_modules() if n.endswith("layers"))[0]
        torch.manual_seed(6)
        hidden, upstream = torch.randn(2, SEQLEN, 32, requires_grad=True), torch.randn(2, SEQLEN, 32)
        carried = {"original_hidden_states": torch.randn(2, SEQLEN, 32)} if model == "zamba" else {}
        out = layer(hidden, **carried)
        out = out[0] if isinstance(out, tuple) else out
        layer.zero_grad()
        out.backward(upstream)
        found = {"hidden": hidden, "output": out, "upstream": upstream, "gradients/hidden": hidden.grad}
        for name, parameter in layer.named_parameters():
            found[f"parameters/{name}"] = parameter
            found[f"gradients/parameters/{name}"] = parameter.grad
        return {f"kinds.0/{name}": tensor.detach().clone().contiguous() for name, tensor in found.items() if tensor is not None}

    def test_the_program_computes_what_transformers_computes(self):
        for name, values in MODELS.items():
            with self.subTest(name):
                self.known(name, **values)
                model = self.export()
                part = model["kinds"][model["blocks"][0]["kind"]]
                heads = values.get("n_mamba_heads", 1)
                self.assertEqual(len(scans_in(part)), heads)
                self.assertLess(len(part["nodes"]), 90)
                # 7 FLOPs for each of 64 channels (all heads), the tokens and 4 states
                self.assertEqual(sum(node["flops"] for node in scans_in(part)), 7 * 64 * SEQLEN * 4)
                self.assertLess(model["check"]["gradient"], 1e-5)
                path = os.path.join(self.model, "samples.safetensors")
                save_file(self.samples(name), path)
                done = subprocess.run([PROGRAM, self.out, path, "--output", "1e-5", "--gradient", "1e-4"], capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertEqual(done.stdout.count("ok "), 2, done.stdout)

    def test_nodes_do_not_grow_with_tokens(self):
        self.known("mamba", **MAMBA)
        counts = {len(self.export(seqlen=seqlen)["kinds"][0]["nodes"]) for seqlen in (8, 32)}
        self.assertEqual(len(counts), 1)

    def test_a_wrong_scan_is_seen(self):
        """The check of the sibling sees a decay that is wrong by a hundredth, though most of a block is not the scan."""
        right = operators.compute_selective_scan
        self.known("mamba", **MAMBA)
        wrong = {"rt::selective_scan": lambda u, delta, A, B, C: right(u, delta, A * 1.01, B, C)}
        with unittest.mock.patch.dict(interpret.COMPUTE, wrong):
            self.assert_refused("block 0 differs from transformers")


def scan_of_another_name(x, step, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """A copy, as models bring it along with their own code."""
    state, outputs = torch.zeros(*x.shape[:2], A.shape[1]), []
    step = step if delta_bias is None else step + delta_bias[:, None]
    step = nn.functional.softplus(step) if delta_softplus else step
    for t in range(x.shape[2]):
        state = torch.exp(step[:, :, t, None] * A) * state + (step[:, :, t, None] * B[:, None, :, t]) * x[:, :, t, None]
        outputs.append((state * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, -1)
    y = y if D is None else y + D[:, None] * x
    y = y if z is None else y * nn.functional.silu(z)
    return (y, state) if return_last_state else y


class OwnCode(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.config, self.options = unittest.mock.Mock(_attn_implementation="eager", spec=["_attn_implementation"]), options
        self.A, self.D, self.bias = (nn.Parameter(torch.rand(shape)) for shape in ((6, 3), (6,), (6,)))

    def forward(self, *inputs):
        x, = inputs
        b, c = x[:, :3], x[:, 3:]
        return (scan_of_another_name(x, x * 2, -self.A, b, c, **self.options),)


class OwnCodeTest(unittest.TestCase):
    def part(self, module):
        return export_function(module, module, [torch.randn(2, 6, 5)], [("hidden",)], [("hidden",)], (ANY_BATCH,), "")

    def test_a_copy_of_another_name(self):
        torch.manual_seed(7)
        module = OwnCode()
        full = OwnCode()
        full.options = {"D": full.D, "z": torch.randn(1, 6, 5), "delta_bias": full.bias, "delta_softplus": True}
        x = torch.randn(3, 6, 5)
        for own in (module, full):
            part = self.part(own)
            self.assertEqual(len(scans_in(part.json)), 1)
            tensors = {**part.constants, **dict(own.named_parameters())}
            # The order of the sums differs.
            torch.testing.assert_close(interpret.run(part.json, tensors, x)[0], own(x)[0], rtol=1e-4, atol=1e-4)
        self.assertIs(OwnCode.forward.__globals__["scan_of_another_name"], scan_of_another_name)  # it is put back

    def test_what_it_is_not(self):
        def other(x, dt, A, B, C, chunk_size, D=None, z=None):
            """mamba_ssm's scan of Mamba 2."""
        self.assertTrue(scans.is_scan(scan_of_another_name))
        for value in (other, nn.Linear, torch.exp, 3, None):
            self.assertFalse(scans.is_scan(value))


if __name__ == "__main__":
    unittest.main()
