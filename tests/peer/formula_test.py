"""Integers, scales and zero points against auto-round's own functions (auto_round/data_type/int.py), bit for bit; and
the search for scales of its SignRoundV2 and of its NeUQI.

Both schemes and the restricted range, 2 to 8 bits, groups that divide the row, do not, exceed it, and a whole row; rows
that are random, constant, all positive, all negative, zero, tiny, and with one outlier; as rounded to nearest and with
random v, min_scale and max_scale; fp32 and bf16 weights.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from auto_round.data_type.int import quant_tensor_asym, quant_tensor_sym, quant_tensor_sym_gptq, search_scales
from auto_round.data_type.mxfp import quant_mx, search_mx_scale
from auto_round.data_type.neuqi import neuqi_search_scale_zero
from auto_round.data_type.nvfp import nv_fp4, search_nvfp4_scale
from auto_round.data_type.utils import reshape_pad_tensor_by_group_size
from auto_round.wrapper import get_scale_shape
from safetensors.torch import load_file, save_file

TOOL = os.environ["ROUNDTABLE_FORMULA_TOOL"]
COLUMNS = 192
BITS = range(2, 9)
GROUP_SIZES = [32, 64, 128, -1, 40, 256]  # 128 and 40 leave a shorter last group, 256 is more than a row
KINDS = {  # sym, full range, the peer's function
    "sym": (True, True, quant_tensor_sym),
    "restricted": (True, False, quant_tensor_sym_gptq),  # enable_full_range: false
    "asym": (False, True, quant_tensor_asym),
}


def make_weight():
    torch.manual_seed(5)
    weight = torch.randn(16, COLUMNS)
    weight[1] = 0
    weight[2] = 0.25
    weight[3] = -0.25
    weight[4] = weight[4].abs() + 0.01
    weight[5] = -weight[5].abs() - 0.01
    weight[6, 7] = 40
    weight[7, 7] = -40
    weight[8] *= 1e-7            # scales at their least
    weight[9, :2] = torch.tensor([3.0, -3.0])
    weight[9].clamp_(-3, 3)      # max and -min tie
    weight[10] = (weight[10] * 4).round() / 4  # many halves between integers
    return weight


def parameters(weight, group_size, tuned):
    groups = get_scale_shape(weight, group_size)
    if not tuned:
        return torch.zeros_like(weight), torch.ones(groups), torch.ones(groups)
    generator = torch.Generator().manual_seed(9)
    uniform = lambda *shape: torch.rand(*shape, generator=generator)
    return uniform(*weight.shape) * 2 - 1, uniform(groups), uniform(groups) * 0.5 + 0.5


def compute(tensors, cases):
    """What our functions make of it."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file(tensors, folder / "in.safetensors", metadata={"cases": json.dumps(cases)})
        subprocess.run([TOOL, folder / "in.safetensors", folder / "out.safetensors"], check=True)
        return load_file(folder / "out.safetensors")


class FormulaTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        weight = make_weight()
        tensors = {"float32": weight, "bfloat16": weight.bfloat16()}
        cls.weights = dict(tensors)
        cls.cases = []
        for dtype in list(tensors):
            for kind, (sym, full_range, _) in KINDS.items():
                for bits in BITS:
                    for group_size in GROUP_SIZES:
                        for tuned in (False, True):
                            name = f"{dtype} {kind} W{bits} g{group_size} {'tuned' if tuned else 'nearest'}"
                            v, low, high = parameters(weight, group_size, tuned)
                            rows = weight.shape[0]
                            tensors |= {f"{name}.v": v.clone(), f"{name}.min_scale": low.reshape(rows, -1).clone(),
                                        f"{name}.max_scale": high.reshape(rows, -1).clone()}
                            cls.cases.append({"name": name, "weight": dtype, "bits": bits, "group_size": group_size,
                                              "sym": sym, "full_range": full_range, "kind": kind})
        cls.ours = compute(tensors, cls.cases)
        cls.tensors = tensors

    def theirs(self, case, weight):
        """Dequantized weight, scale and zero point of each group, as auto-round's wrapper calls the function."""
        name, group_size = case["name"], case["group_size"]
        v, _, _ = reshape_pad_tensor_by_group_size(self.tensors[f"{name}.v"], group_size)
        grouped, _, _ = reshape_pad_tensor_by_group_size(weight, group_size)
        return KINDS[case["kind"]][2](
            weight, bits=case["bits"], group_size=group_size, v=v,
            min_scale=self.tensors[f"{name}.min_scale"].flatten(),
            max_scale=self.tensors[f"{name}.max_scale"].flatten(),
            scale_dtype=torch.float16, tensor_min=grouped.min(1)[0].clamp(max=0),
            tensor_max=grouped.max(1)[0].clamp(min=0), q_scale_thresh=1e-5)

    def compare(self, case):
        name, weight = case["name"], self.weights[case["weight"]]
        rows = weight.shape[0]
        dequantized, scale, zero = self.theirs(case, weight)
        scale = scale.float().reshape(rows, -1)
        zero = torch.as_tensor(zero).float().expand(scale.numel(), 1).reshape(rows, -1) if not case["sym"] else \
            torch.full_like(scale, 2 ** (case["bits"] - 1))
        groups = scale.shape[1]
        width = COLUMNS if case["group_size"] in (-1, 256) else case["group_size"]
        spread = lambda t: t.repeat_interleave(width, 1)[:, :COLUMNS]
        exact, _, _ = self.theirs(case, weight.float())
        integers = (exact / spread(scale)).round() + spread(zero)

        held = torch.ones(rows, groups, dtype=torch.bool)
        if case["kind"] == "restricted":
            # Where no weight of a group is negative auto-round halves the scale and keeps the zero point in the middle:
            # it clips the upper half of the weights. We do not follow it there.
            lowest = [part.amin(1) for part in weight.float().split(width, 1)]
            held = torch.stack(lowest, 1) < 0
        wide = spread(held)
        ours = lambda what: self.ours[f"{name}.{what}"]
        self.assertTrue(torch.equal(ours("scale")[held], scale[held]), name)
        self.assertTrue(torch.equal(ours("zero_point").float()[held], zero[held]), name)
        self.assertTrue(torch.equal(ours("q").float()[wide], integers[wide]), name)
        self.assertTrue(torch.equal(ours("dequantized")[wide], dequantized[wide]), name)
        return int(wide.sum())


class Float4Test(unittest.TestCase):
    """Floats of 4 bits (auto_round/data_type/mxfp.py and nvfp.py), under a global scale that is a power of two."""

    LEVELS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    GLOBAL_SCALE = 64.0

    def cases(self, weight):
        for dtype in ("float32", "bfloat16"):
            for type, group_size in ((1, 32), (2, 16)):
                for tuned in (False, True):
                    v, low, high = parameters(weight, group_size, tuned)
                    yield {"name": f"{dtype} {type} {tuned}", "weight": dtype, "bits": 4, "group_size": group_size,
                           "sym": True, "full_range": True, "type": type, "global_scale": self.GLOBAL_SCALE}, v, low, high

    def theirs(self, case, weight, v, max_scale):
        """Dequantized weight, and each group's scale."""
        v, _, _ = reshape_pad_tensor_by_group_size(v, case["group_size"])
        if case["type"] == 1:
            values, exponent, _ = quant_mx(weight, 4, case["group_size"], v, max_scale, data_type="mx_fp")
            return values, torch.pow(2.0, exponent.float())
        values, scale, _ = nv_fp4(weight, 4, case["group_size"], v, torch.tensor(self.GLOBAL_SCALE), max_scale)
        return values, scale / self.GLOBAL_SCALE

    def test_equal(self):
        weight = make_weight()
        weight[8] *= 1e7
        weights = {"float32": weight, "bfloat16": weight.bfloat16()}
        tensors, cases = dict(weights), []
        for case, v, low, high in self.cases(weight):
            torch.manual_seed(len(cases))
            tensors |= {f"{case['name']}.upstream": torch.randn(weight.shape),
                        f"{case['name']}.v": v, f"{case['name']}.min_scale": low.reshape(16, -1).clone(),
                        f"{case['name']}.max_scale": high.reshape(16, -1).clone()}
            cases.append(case)
        ours = compute(tensors, cases)
        for case in cases:
            name, size = case["name"], case["group_size"]
            values, scale = self.theirs(case, weights[case["weight"]], tensors[f"{name}.v"],
                                        tensors[f"{name}.max_scale"].flatten())
            self.assertTrue(torch.equal(ours[f"{name}.scale"], scale.float().reshape(16, -1)), name)
            # auto-round scales by 1 / (1 / scale), which for nv_fp may be off in the last place.
            off = (ours[f"{name}.dequantized"].float() - values.float()).abs()
            place = {torch.float32: 2**-23, torch.bfloat16: 2**-7}[values.dtype] if case["type"] == 2 else 0
            self.assertTrue((off <= place * values.float().abs()).all(), name)
            levels = self.LEVELS[ours[f"{name}.q"].long()] * ours[f"{name}.scale"].repeat_interleave(size, 1)
            self.assertTrue(torch.equal(levels.to(values.dtype), ours[f"{name}.dequantized"]), name)
            self.assertGreater(len(ours[f"{name}.q"].unique()), 12)
            self.hold_gradients(case, weights[case["weight"]].float(), tensors, ours)

    def hold_gradients(self, case, weight, tensors, ours):
        name = case["name"]
        v, high = (tensors[f"{name}.{what}"].clone().requires_grad_() for what in ("v", "max_scale"))
        self.theirs(case, weight, v, high.flatten())[0].backward(tensors[f"{name}.upstream"])
        self.assertTrue(torch.allclose(ours[f"{name}.dv"], v.grad, rtol=1e-5, atol=1e-7), name)
        self.assertGreater((v.grad != 0).float().mean().item(), 0.6)
        rows = [row for row in range(16) if row != 1]  # of zeros: auto-round's logarithm of 0 has no gradient
        self.assertTrue(torch.allclose(ours[f"{name}.dmax_scale"][rows], high.grad[rows], rtol=1e-4, atol=1e-4), name)
        self.assertTrue(ours[f"{name}.dmax_scale"].isfinite().all())


class SearchTest(unittest.TestCase):
    """The scale (and zero point) that each group starts from. Two candidates whose errors differ by the order of a sum
    alone are both right: nearly all scales are equal, and no error is greater."""

    WIDTH = 64
    LARGEST = 42.0  # with it the peer's global scale is 448 * 6 / 42 = 64, a power of two as ours is

    @classmethod
    def setUpClass(cls):
        torch.manual_seed(8)
        cls.weight = make_weight()
        cls.weight[6, 7], cls.weight[7, 7] = cls.LARGEST, -cls.LARGEST
        cls.weight[8] *= 1e3  # fp16 holds its scales
        # Two weights of the same magnitude: the peer takes the sign of the first, we of the positive one.
        cls.weight[9, :2] = torch.tensor([3.01, -3.0])
        cls.weight[3, ::cls.WIDTH] -= 0.01
        cls.weight[2, ::cls.WIDTH] += 0.01
        cls.weight[10, ::cls.WIDTH] = 2.25
        cls.importance = torch.rand(COLUMNS).square() * 100

    def groups(self, width):
        rows = self.importance.expand_as(self.weight)
        return self.weight.reshape(-1, width), rows.reshape(-1, width)

    def search(self, cases):
        tensors = {"weight": self.weight} | {f"{case['name']}.importance": self.importance.clone() for case in cases}
        return compute(tensors, [{"weight": "weight", "full_range": True} | case for case in cases])

    def compare(self, name, ours, theirs, error, slack):
        ours, theirs = ours.double().flatten(), theirs.double().flatten()
        equal = torch.isclose(ours, theirs, rtol=1e-6, atol=0)
        print(f"search {name}: {equal.float().mean():.4f} of the scales equal", file=sys.stderr)
        self.assertGreater(equal.float().mean().item(), 0.9, name)
        self.assertTrue((error(ours) <= error(theirs) * (1 + 1e-5) + slack).all(), name)
        self.assertGreater(len(ours.unique()), 2, name)

    @staticmethod
    def error(values, rounded, importance):
        return ((rounded - values).square() * importance).sum(1)

    @staticmethod
    def slack(values, importance):
        """What errors that are nearly zero differ by, of scales in fp32."""
        return 1e-8 * (values.square() * importance).sum(1)

    def test_symmetric(self):
        found = self.search([{"name": f"W{b}", "bits": b, "group_size": self.WIDTH, "sym": True} for b in (2, 3, 4, 8)])
        values, importance = self.groups(self.WIDTH)
        for bits in (2, 3, 4, 8):
            levels = 2 ** (bits - 1)
            low, high = (found[f"W{bits}.{what}"] for what in ("wmin", "wmax"))
            self.assertTrue(((low == 0) | (high == 0)).all())
            ours = torch.where(low < 0, -low, -high) / levels
            theirs = search_scales(values, bits, importance)
            theirs = torch.where(theirs < 0, theirs.clamp(max=-1e-5), theirs.clamp(min=1e-5))

            def error(scale):
                scale = scale[:, None]
                return self.error(values, scale * (values / scale).round().clamp(-levels, levels - 1), importance)

            # The least scale: theirs is rounded to fp16 when it is used.
            tiny = theirs.abs() < 1.1e-5
            self.compare(f"W{bits}", ours.reshape(theirs.shape)[~tiny], theirs[~tiny],
                         lambda scale: error(torch.ones(theirs.shape).masked_scatter(~tiny, scale.float()).flatten()),
                         self.slack(values, importance))
            self.assertTrue((ours.reshape(theirs.shape)[tiny].abs() < 1.1e-5).all())

    def test_asymmetric(self):
        found = self.search([{"name": f"W{b}", "bits": b, "group_size": self.WIDTH, "sym": False} for b in (2, 3, 4)])
        values, importance = self.groups(self.WIDTH)
        for bits in (2, 3, 4):
            top = 2**bits - 1
            low, high = (found[f"W{bits}.{what}"].flatten() for what in ("wmin", "wmax"))
            ours = (high - low) / top
            zero = (-low / ours).round()
            scale, theirs = neuqi_search_scale_zero(values, bits, importance)
            self.assertGreater((zero == theirs.flatten()).float().mean().item(), 0.9)

            def error(scale, zero):
                scale, zero = scale[:, None], zero[:, None]
                return self.error(values, scale * ((values / scale).round().clamp(-zero, top - zero)), importance)

            # Our scale is one that fp16 holds.
            equal = torch.isclose(ours, scale.flatten(), rtol=6e-4)
            print(f"search asym W{bits}: {equal.float().mean():.4f} of the scales equal", file=sys.stderr)
            self.assertGreater(equal.float().mean().item(), 0.9)
            most = error(scale.flatten(), theirs.flatten()) * 1.02 + 100 * self.slack(values, importance)
            self.assertTrue((error(ours, zero) <= most).all())

    def test_floats(self):
        found = self.search([{"name": "mx", "bits": 4, "group_size": 32, "sym": True, "type": 1},
                             {"name": "nv", "bits": 4, "group_size": 16, "sym": True, "type": 2, "global_scale": 64.0}])
        for name, width in (("mx", 32), ("nv", 16)):
            values, importance = self.groups(width)
            reach = torch.maximum(-found[f"{name}.wmin"], found[f"{name}.wmax"]).flatten()
            largest = values.abs().amax(1)
            theirs = (search_mx_scale(values, 4, importance, "mx_fp4") if name == "mx" else
                      search_nvfp4_scale(values, 4, importance)).flatten()
            zero = largest == 0
            ours = torch.where(zero, 1.0, reach / torch.where(zero, 1.0, largest))

            def error(factor):
                function = (lambda: quant_mx(values, 4, width, 0, factor.float(), data_type="mx_fp4")) if name == "mx" \
                    else (lambda: nv_fp4(values, 4, width, 0, torch.tensor(64.0), factor.float()))
                return self.error(values, function()[0], importance)

            def error_of(factor):
                return error(torch.ones(theirs.shape, dtype=factor.dtype).masked_scatter(~zero, factor))

            self.compare(name, ours[~zero], theirs[~zero], error_of, self.slack(values, importance))


def add_test(kind):
    def test(self):
        cases = [case for case in self.cases if case["kind"] == kind]
        weights = sum(self.compare(case) for case in cases)
        print(f"{kind}: {len(cases)} cases, {weights} weights equal", file=sys.stderr)
        self.assertEqual(len(cases), 2 * len(BITS) * len(GROUP_SIZES) * 2)

    setattr(FormulaTest, f"test_{kind}", test)


for kind in KINDS:
    add_test(kind)


if __name__ == "__main__":
    unittest.main()
