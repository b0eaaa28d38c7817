"""A folder with a model and the graph that launch/export_model.py makes of it; assert_valid() is src/graph/FORMAT.md."""

import json
import os
import shutil
import sys
import tempfile
import unittest

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
CODE = tempfile.TemporaryDirectory()
os.environ["HF_MODULES_CACHE"] = CODE.name  # where transformers copies a model's own code

HERE = os.path.dirname(os.path.abspath(__file__))
LAUNCH = os.path.join(HERE, "..", "..", "launch")
sys.path.insert(0, LAUNCH)

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import CONFIG_MAPPING  # noqa: E402

from graph_export import export  # noqa: E402
from graph_export.errors import BadInput  # noqa: E402

SEQLEN = 16
INPUT_KINDS = {"embed": {"tokens", "parameter", "constant"}, "head": {"hidden", "parameter", "constant"},
               "kind": {"hidden", "tokens", "carried", "parameter", "constant"}}
MODEL_KEYS = ["format", "version", "torch", "transformers", "config_sha256", "model_type", "architecture", "own_code", "seqlen",
              "dtype", "vocab_size", "batch", "boundary", "operators", "embed", "head", "kinds", "blocks", "untouched",
              "ignored", "check"]
OPTIONAL_KEYS = ["head_name", "max_positions", "text_config"]


def values_of(argument):
    if isinstance(argument, list):
        return [v for part in argument for v in values_of(part)]
    return [argument["v"]] if isinstance(argument, dict) and "v" in argument else []


class FolderTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.model, self.out = os.path.join(folder.name, "model"), os.path.join(folder.name, "graph")

    def write(self, config):
        os.makedirs(self.model, exist_ok=True)
        with open(os.path.join(self.model, "config.json"), "w", encoding="utf-8") as file:
            file.write(config if isinstance(config, str) else json.dumps(config))

    def known(self, model_type, **changes):
        """A small model that transformers knows."""
        values = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=128)
        CONFIG_MAPPING[model_type](**{**values, **changes}).save_pretrained(self.model)

    def toy(self, trap, **values):
        os.makedirs(self.model, exist_ok=True)
        shutil.copy(os.path.join(HERE, "toy_model.py"), self.model)
        self.write({"model_type": "toy_of_the_test", "architectures": ["ToyForCausalLM"], "trap": trap,
                    "auto_map": {"AutoConfig": "toy_model.ToyConfig", "AutoModelForCausalLM": "toy_model.ToyForCausalLM"}, **values})

    def export(self, dtype="float32", seqlen=SEQLEN, own_code=True):
        lines = []
        model, _ = export.export_model(self.model, self.out, seqlen, dtype, own_code, lines.append)
        with open(os.path.join(self.out, "model.json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file), model)
        self.assert_valid(model)
        self.lines = lines
        return model

    def assert_refused(self, *parts, **options):
        with self.assertRaises(BadInput) as caught:
            self.export(**options)
        for part in parts:
            self.assertIn(part, str(caught.exception))
        self.assertFalse(os.path.exists(self.out))

    # --- src/graph/FORMAT.md ------------------------------------------------------------------------------------------

    def assert_valid(self, model):
        self.assertEqual([key for key in model if key not in OPTIONAL_KEYS], MODEL_KEYS)
        path = os.path.join(self.out, "constants.safetensors")
        constants = load_file(path) if os.path.exists(path) else {}
        used = set()
        for kind, part in [("embed", model["embed"]), ("head", model["head"]), *(("kind", k) for k in model["kinds"])]:
            used |= self.assert_valid_part(model, kind, part, constants)
        self.assertEqual(used, set(constants))
        given = {o["name"] for o in model["embed"]["outputs"] if o["kind"] == "carried"}
        for block in model["blocks"]:
            part = model["kinds"][block["kind"]]
            self.assertEqual(set(block["takes"]), {i["name"] for i in part["inputs"] if i["kind"] == "carried"})
            self.assertLessEqual(set(block["gives"]), {o["name"] for o in part["outputs"] if o["kind"] == "carried"})
            self.assertLessEqual(set(block["takes"].values()), given)
            given |= set(block["gives"].values())
        self.assertEqual(set(model["boundary"]), given | {"hidden"})

    def assert_valid_part(self, model, kind, part, constants):
        self.assertEqual(sorted(part), ["inputs", "nodes", "outputs", "parameters", "tensors", "values"])
        known = set()
        for entry in part["inputs"]:
            self.assertIn(entry["kind"], INPUT_KINDS[kind])
            self.assertNotIn(entry["value"], known)
            known.add(entry["value"])
        for node in part["nodes"]:
            self.assertIn(node["op"].split("::")[0], ("aten", "rt", "int"))
            self.assertIn(node["op"], model["operators"])
            self.assertLessEqual(set(values_of(node["args"])), known)
            made = [number for number in node["out"] if number is not None]
            self.assertFalse(known & set(made))
            known.update(made)
        self.assertEqual(known, set(range(part["values"])))
        self.assertLessEqual({o["value"] for o in part["outputs"]}, known)
        names = {i["name"] for i in part["inputs"] if i["kind"] == "parameter"}
        self.assertEqual(names, set(part["parameters"]))
        covered = dict.fromkeys(names, 0)
        for row in part["tensors"]:
            covered[row["param"]] += torch.Size(row["shape"]).numel()
        self.assertEqual(covered, {name: torch.Size(p["shape"]).numel() for name, p in part["parameters"].items()})
        used = {i["name"] for i in part["inputs"] if i["kind"] == "constant"}
        self.assertLessEqual(used, set(constants))
        return used
