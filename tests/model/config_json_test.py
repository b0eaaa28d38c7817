"""What config.json leaves out means what it means to transformers: every key that src/model/description reads.

For each family and each key of its config class the key is left out, and set to null; keys of older versions and of
other families are added. transformers and logits_tool compute the logits of the same tiny model from the same
config.json. Where transformers refuses the config, there is nothing to compare with.

usage: config_json_test.py LOGITS_TOOL
"""

import copy
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import warnings

import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import tiny_model

transformers.utils.logging.set_verbosity_error()
warnings.simplefilter("ignore")
TOOL = sys.argv.pop(1)
BOUND = 3e-5  # of the largest logit, in fp32
SEQLEN = 24   # longer than the windows
VOCAB = 64

# Beside the settings of tiny_model: windows that are seen, and more than one in a model.
WINDOW = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
OWN = {"qwen2": WINDOW, "qwen3": WINDOW, "qwen3_moe": WINDOW, "mixtral": {"sliding_window": 12},
       "gemma3": {"layer_types": ["sliding_attention", "full_attention"]}}

# Without these no model has a shape: transformers takes those of the class's first model, which no tiny model has.
REQUIRED = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "ffn_dim",
            "n_embd", "n_layer", "n_head", "num_experts", "num_local_experts", "num_experts_per_tok",
            "moe_intermediate_size"}
SCALED = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "truncate": False, "beta_fast": 2.0, "beta_slow": 0.1}
# Keys beside those of the class. None takes a key away.
ADDED = {
    "shapes of other families": {"head_dim": 32, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "an old theta": {"rope_parameters": None, "rope_theta": 500.0},
    "old scaling": {"rope_parameters": None, "rope_theta": 500.0, "rope_scaling": SCALED},
    "an empty scaling": {"rope_scaling": {}},
    "null scaling": {"rope_scaling": "null"},
    "two scalings": {"rope_scaling": SCALED | {"factor": 2.0}},
    "an old part": {"rope_parameters": None, "partial_rotary_factor": 0.5},
    "an old part, scaled": {"rope_parameters": None, "partial_rotary_factor": 0.5, "rope_scaling": SCALED},
    "a part": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}},
    "a part, scaled": {"rope_parameters": SCALED | {"rope_theta": 100.0, "partial_rotary_factor": 0.5}},
    "NeoX's names": {"rope_parameters": None, "rotary_pct": 0.5, "rotary_emb_base": 500},
    "Gemma's name": {"rope_parameters": None, "rope_local_base_freq": 300.0, "rope_theta": 500.0},
    "Gemma's pattern": {"layer_types": None, "sliding_window_pattern": 2, "sliding_window": 12},
    "yarn by the model's length": {"rope_parameters": None, "rope_scaling": YARN},
    "yarn by a length beside it": {"rope_parameters": None, "rope_scaling": YARN,
                                   "original_max_position_embeddings": 32},
    "yarn by its own length": {"rope_parameters": YARN | {"rope_theta": 100.0, "original_max_position_embeddings": 64}},
    "a window of other families": {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]},
}


def known_keys():
    """Every key that the program reads."""
    text = "".join(p.read_text() for p in (ROOT / "src" / "model" / "description" / "families").glob("*.cc"))
    return set(re.findall(r'"([a-z0-9_]+)"', text))


def base_config(family):
    """A config.json with every key of the class."""
    make_config, _, own = tiny_model.ALL_FAMILIES[family]
    settings = tiny_model.SHAPE | {"intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": VOCAB} | own
    config = make_config(**settings | OWN.get(family, {})).to_dict()
    return {key: value for key, value in config.items() if key not in ("architectures", "transformers_version")}


def changed(config, changes):
    config = copy.deepcopy(config)
    for key, value in changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = None if value == "null" else value
    return config


class Cases:
    """Model directories, and what both sides make of each."""

    def __init__(self, folder):
        self.folder = folder
        self.ids = torch.randint(0, VOCAB, (2, SEQLEN), generator=torch.Generator().manual_seed(3))
        self.compared = 0
        self.tool = subprocess.Popen([TOOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self):
        self.tool.stdin.close()
        self.tool.stdout.close()
        self.tool.wait()

    def ours(self, path):
        self.tool.stdin.write(f"{path}\n")
        self.tool.stdin.flush()
        return json.loads(self.tool.stdout.readline())

    def compare(self, family, config, weights=True):
        """None if both agree, or what differs."""
        path = self.folder / "case"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        make_config, make, _ = tiny_model.ALL_FAMILIES[family]
        try:
            theirs = make_config.from_dict(copy.deepcopy(config))
            if theirs.num_attention_heads % getattr(theirs, "num_key_value_heads", 1) != 0:
                return None  # the model cannot run
            logits = self.run_transformers(make, theirs, path) if weights else None
        except Exception:  # of many kinds: a strict type, a missing key of a RoPE, shapes that do not fit
            return None
        self.compared += 1
        (path / "config.json").write_text(json.dumps(config))
        answer = self.ours(path)
        if "error" in answer:
            return answer["error"]
        if logits is not None:
            found = load_file(path / "logits.safetensors")["logits"]
            off = ((found - logits).abs().max() / logits.abs().max()).item()
            if not off < BOUND:
                return f"logits are off by {off:.1e}"
        return self.compare_sizes(theirs, answer)

    def run_transformers(self, make, config, path):
        torch.manual_seed(1)
        model = make(config).eval()
        tiny_model.randomize(model)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(0.01)  # so small that the norms' eps counts
            logits = model(self.ids).logits
        model.save_pretrained(path)
        save_file({"input_ids": self.ids.int()}, path / "tokens.safetensors")
        return logits

    @staticmethod
    def compare_sizes(theirs, ours):
        """What logits of a short text do not show: windows longer than it, and the model's length."""
        declared = {field.name for field in dataclasses.fields(theirs)}
        window = theirs.sliding_window or 0 if "sliding_window" in declared else 0
        kinds = theirs.layer_types if "layer_types" in declared else ["sliding_attention"] * theirs.num_hidden_layers
        want = {"windows": [window if kind == "sliding_attention" else 0 for kind in kinds],
                "max_position_embeddings": theirs.max_position_embeddings}
        if "num_key_value_heads" in declared:
            want["num_key_value_heads"] = theirs.num_key_value_heads
        differing = {key: (ours[key], value) for key, value in want.items() if ours[key] != value}
        return f"ours and theirs: {differing}" if differing else None


class ConfigJsonTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="roundtable-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.cases = Cases(cls.folder)
        cls.addClassCleanup(cls.cases.close)

    def check(self, family, cases, least, weights=True):
        """transformers takes at least `least` of the cases, and all that it takes are equal."""
        config = base_config(family)
        before = self.cases.compared
        faults = {}
        for name, changes in cases.items():
            fault = self.cases.compare(family, changed(config, changes), weights)
            if fault:
                faults[name] = fault
        self.assertEqual(faults, {}, family)
        self.assertGreaterEqual(self.cases.compared - before, least, family)

    def test_keys_left_out_and_null(self):
        known = known_keys()
        for family, (make_config, *_) in tiny_model.ALL_FAMILIES.items():
            keys = ({field.name for field in dataclasses.fields(make_config)} & known) - REQUIRED
            self.assertGreater(len(keys), 4, family)
            with self.subTest(family):
                self.check(family, {f"{key} {how}": {key: value} for key in sorted(keys)
                                    for how, value in (("left out", None), ("null", "null"))}, least=len(keys) - 2)

    def test_keys_of_older_versions_and_of_other_families(self):
        for family in tiny_model.ALL_FAMILIES:
            with self.subTest(family):
                cases = dict(ADDED)
                if family == "gpt_neox":  # transformers would compute its angles for other heads than it has
                    cases.pop("shapes of other families")
                self.check(family, cases, least=len(ADDED) - 7)

    def test_a_stored_head_of_a_tied_model(self):
        """transformers loads both tables, and ties them only if they are equal."""
        path = self.folder / "tied"
        self.cases.compare("llama", base_config("llama") | {"tie_word_embeddings": True})
        shutil.copytree(self.folder / "case", path)
        tensors = load_file(path / "model.safetensors")
        for head in (tensors["model.embed_tokens.weight"], torch.randn(VOCAB, 64)):
            save_file(tensors | {"lm_head.weight": head.clone()}, path / "model.safetensors", metadata={"format": "pt"})
            model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
            with torch.no_grad():
                theirs = model(self.cases.ids).logits
            self.assertNotIn("error", self.cases.ours(path))
            ours = load_file(path / "logits.safetensors")["logits"]
            self.assertLess(((ours - theirs).abs().max() / theirs.abs().max()).item(), BOUND)

    def test_a_window_that_is_left_out(self):
        """Longer than the default of 4096."""
        ids, self.cases.ids = self.cases.ids, torch.randint(0, VOCAB, (1, 4200))
        self.addCleanup(setattr, self.cases, "ids", ids)
        short = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2,
                 "layer_types": None, "max_window_layers": 0}
        for family in ("mistral", "qwen2"):
            self.check(family, {"left out": short | {"sliding_window": None},
                                "null": short | {"sliding_window": "null"}}, least=2)

    def test_defaults_that_a_small_model_does_not_show(self):
        many_heads = {"hidden_size": 256, "num_attention_heads": 64, "num_key_value_heads": None, "head_dim": None}
        many_blocks = {"num_hidden_layers": 30, "layer_types": None}
        for family in tiny_model.ALL_FAMILIES.keys() - {"gpt2"}:  # which has keys of its own for all this
            with self.subTest(family):
                self.check(family, {"key/value heads": many_heads, "blocks": many_blocks,
                                    "blocks alone": many_blocks | {"max_window_layers": None},
                                    "null": many_blocks | {"max_window_layers": "null"}}, least=2, weights=False)


if __name__ == "__main__":
    unittest.main()
