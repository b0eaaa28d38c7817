"""Types of models from end to end, against transformers: one tiny random model of each, with every kind of layer that the
type has.

The float model's logits are transformers'. A quantized checkpoint, multiplied out, gives in transformers the logits that
`eval` computes from it. A run on two ranks that is killed between blocks and started again writes the bytes of a run that
was left in peace, whose report holds the proof. What is not quantized is the model's own, bit for bit.

  models_test.py Experts.test_gpt_oss     one class or one model
"""

import os
import pathlib
import resource
import sys
import time
import unittest

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "peer"), str(HERE.parent.parent / "launch")]

import torch
import transformers
from safetensors.torch import load_file

import program
import tiny_configs
import tiny_model
import unpacked
from graph_export.export import export_model

torch.set_num_threads(1)
ROWS, SEQLEN, VOCAB = 8, 24, 128
BOUND = 1e-4  # of the largest logit
NEAR = 0.2  # 4 bits in groups of 16 are about a tenth away from the weights; other matrices are farther than a half



def names(above, *layers):
    return {f"{above}.{layer}" for layer in layers}


ATTENTION = names("self_attn", "q_proj", "k_proj", "v_proj", "o_proj")
OPT = names("self_attn", "q_proj", "k_proj", "v_proj", "out_proj") | {"fc1", "fc2"}
NEOX = names("attention", "query_key_value", "dense") | names("mlp", "dense_h_to_4h", "dense_4h_to_h")
DEEPSEEK_ATTENTION = names("self_attn", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")


def gated(*parts):
    return {layer for part in parts for layer in names(part, "gate_proj", "up_proj", "down_proj")}


def mixtral(*parts):
    return {layer for part in parts for layer in names(part, "w1", "w2", "w3")}


LLAMA = ATTENTION | gated("mlp")
DEEPSEEK_EXPERTS = gated("mlp", "mlp.experts", "mlp.shared_experts")

# A class of tests -> name of a config in tests/peer/tiny_configs.py -> the layers of its blocks that are quantized.
MODELS = {
    "Dense": {
        **dict.fromkeys(("llama", "qwen3", "olmo3", "smollm3", "cohere2", "mistral", "qwen2", "gemma2"), LLAMA),
        "phi3@longrope": names("self_attn", "qkv_proj", "o_proj") | names("mlp", "gate_up_proj", "down_proj"),
        "gpt2": names("attn", "c_attn", "c_proj") | names("mlp", "c_fc", "c_proj"),
        **dict.fromkeys(("opt", "opt@350m"), OPT),  # norms before the layers, or behind the sums
        **dict.fromkeys(("gpt_neox", "gpt_neox@in_sequence"), NEOX),
    },
    "Experts": {
        **dict.fromkeys(("mixtral", "minimax_m2"), ATTENTION | mixtral("block_sparse_moe.experts")),
        "qwen3_moe": LLAMA | gated("mlp.experts"),
        "glm4_moe": ATTENTION | DEEPSEEK_EXPERTS,
        "deepseek_v3": DEEPSEEK_ATTENTION | DEEPSEEK_EXPERTS,
        "deepseek_v32": DEEPSEEK_ATTENTION | DEEPSEEK_EXPERTS | names("self_attn.indexer", "wq_b"),
        "gpt_oss": ATTENTION | gated("mlp.experts"),
        "llama4": ATTENTION | gated("feed_forward", "feed_forward.shared_expert", "feed_forward.experts"),
    },
    "Hybrids": {
        "qwen3_next": LLAMA | gated("mlp.experts", "mlp.shared_expert") | names("linear_attn", "in_proj_qkvz", "out_proj"),
        "qwen3_5_moe": ATTENTION | gated("mlp.experts", "mlp.shared_expert") |
        names("linear_attn", "in_proj_qkv", "in_proj_z", "out_proj"),
        "granitemoehybrid": ATTENTION | names("mamba", "in_proj", "out_proj") | names("shared_mlp", "input_linear", "output_linear") |
        mixtral("block_sparse_moe.experts"),
        "falcon_h1": ATTENTION | names("mamba", "in_proj", "out_proj") | gated("feed_forward"),
        "kimi_linear": ATTENTION | names("self_attn", "kv_a_proj_with_mqa", "kv_b_proj") | mixtral("block_sparse_moe.experts") |
        gated("block_sparse_moe", "block_sparse_moe.shared_experts"),
        **dict.fromkeys(("gemma3", "mistral3"), LLAMA),  # with their part for vision
        **dict.fromkeys(("gemma4_text", "gemma4_text@e2b"), LLAMA),  # e2b: later blocks take keys and values of earlier ones
        "gemma4_text@large": LLAMA | gated("experts"),
    },
}

# Rules for single layers: an indexer is kept in 16 bits unless a rule asks for it.
RULES = {"deepseek_v32": {"indexer.wq_b": {"bits": 4}}}


def relative(a, b):
    """Largest difference against the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def processor_time():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def class_of(config):
    """The whole model, with its part for vision, as it is published."""
    for auto in (transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM):
        if type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    raise AssertionError(f"transformers has no language model for {type(config)}")


class ModelCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tokens = cls.folder / "tokens.safetensors"
        cls.ids = tiny_model.make_tokens(cls.tokens, rows=ROWS, seqlen=SEQLEN, vocab=VOCAB)

    def make(self, name):
        """Writes a model's folder. -> the model in fp32"""
        config = tiny_configs.config_of(name)
        torch.manual_seed(3)
        model = class_of(config)(config)
        tiny_model.randomize(model)
        stored = set(model.state_dict())
        for name, buffer in model.named_buffers():
            if name in stored and buffer.is_floating_point():  # a router's e_score_correction_bias
                buffer.add_(torch.randn(buffer.shape) * 0.1)
        model.to(torch.bfloat16).save_pretrained(self.path)
        return self.load(self.path)

    def load(self, path):
        config = transformers.AutoConfig.from_pretrained(path)
        model, info = class_of(config).from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
        self.assertFalse(info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"], info)
        return model.eval()

    def theirs(self, model):
        with torch.no_grad():
            return model(input_ids=torch.from_numpy(self.ids).long(), use_cache=False).logits.float()

    def settings(self):
        return {"model.path": str(self.path), "model.graph": str(self.graph), "tuning.amp": False, "parallel.threads": 1}

    def logits(self, path):
        out = self.folder / "logits.safetensors"
        config = program.write_config(self.folder / "eval.yaml", self.settings() | {
            "model.path": str(path), "run.eval_tokens": str(self.tokens), "run.logits": str(out)})
        self.succeed(["eval", config])
        return load_file(out)["logits"]

    def quantize(self, output, kill=False):
        """On two ranks that share both stages; `kill`: kill -9 when a block is done, and again from the start."""
        config = program.write_config(self.folder / "quantize.yaml", self.settings() | {
            "calibration.tokens": str(self.tokens), "calibration.n_samples": ROWS, "calibration.seqlen": SEQLEN,
            "quantization.group_size": 16, "tuning.iters": 5, "tuning.lr": 0.02, "tuning.batch_size": 4, "parallel.shards": 2,
            "parallel.stages": 2} | ({"quantization.weight_config": self.rules} if self.rules else {}))
        command = program.quantize_command(config, output)
        if kill:
            log = self.folder / "killed.log"
            job = program.start(command, 2, log, **program.fault(f"*:fsync:1+:slow:/{output.name}"))
            try:
                program.wait_for(lambda: program.events(f"{output}.run", "block"), job)
            except AssertionError as error:
                self.fail(f"{error}\n{log.read_text(errors='replace')}")
            finally:
                program.kill(job)
            self.assertFalse((output / "config.json").exists(), "the job had ended before it was killed")
        self.succeed(command, 2)

    def check_proof(self, output, n_blocks):
        """What the run itself says of its result."""
        events = program.events(f"{output}.run")
        blocks = [e for e in events if e["event"] == "block"]
        self.assertEqual(sorted(e["block"] for e in blocks), list(range(n_blocks)))
        for block in blocks:
            self.assertTrue(0 < block["best_loss"] <= block["first_loss"] < float("inf"), block)
        tuned = sum(block["best_iteration"] > 0 for block in blocks)
        self.assertGreater(2 * tuned, n_blocks, "most blocks are better than rounded to nearest")
        self.assertIn("prove", [e["phase"] for e in events if e["event"] == "phase"])

    def check_quantized(self, output, wanted):
        source, tensors = unpacked.load_all(self.path), unpacked.load_all(output)
        biases = {f"{layer}.bias" for layer in unpacked.layers_of(tensors)}  # in fp16, as their scales
        for name in set(source) & set(tensors) - biases:
            self.assertEqual(source[name].dtype, tensors[name].dtype, name)
            self.assertTrue(torch.equal(source[name], tensors[name]), name)
        plain = self.folder / f"{output.name}-plain"
        layers = unpacked.multiply_out(output, plain, source, conv1d=self.model_type == "gpt2")
        self.assertEqual(unpacked.kinds_of_layers(layers), wanted)
        for layer, weight in unpacked.load_all(plain).items():
            self.assertLess(distance(weight.float(), source[layer].float()), NEAR, f"{layer} is another matrix than the model's")
        error = relative(self.logits(output), self.theirs(self.load(plain)))
        self.assertLess(error, BOUND, "logits of the quantized model")
        return len(layers), error

    def check_conversion(self, output):
        """A conversion finds the layers that a rule had quantized."""
        floats = self.folder / f"{output.name}-qdq"
        self.succeed(["convert", output, "--format", "qdq", "--output", floats])
        tensors = unpacked.load_all(floats)
        for layer, weight in unpacked.load_all(self.folder / f"{output.name}-plain").items():
            self.assertTrue(torch.equal(weight.to(tensors[layer].dtype), tensors[layer]), layer)

    def hold(self, name, wanted):
        marks = [processor_time()]
        self.path, self.graph = self.folder / name, self.folder / f"{name}-graph"
        model = self.make(name)
        self.model_type, self.rules = model.config.model_type, RULES.get(name)
        marks.append(processor_time())
        export_model(str(self.path), str(self.graph), SEQLEN, "float32")
        marks.append(processor_time())
        error = relative(self.logits(self.path), self.theirs(model))
        self.assertLess(error, BOUND, "logits")
        marks.append(processor_time())
        peace, killed = self.folder / f"{name}-w4", self.folder / f"{name}-killed"
        self.quantize(peace)
        self.check_proof(peace, model.config.get_text_config().num_hidden_layers)
        marks.append(processor_time())
        count, quantized_error = self.check_quantized(peace, wanted)
        if self.rules:
            self.check_conversion(peace)
        marks.append(processor_time())
        self.quantize(killed, kill=True)
        self.assertEqual(program.digests(killed), program.digests(peace))
        marks.append(processor_time())
        parts = " + ".join(f"{b - a:.1f}" for a, b in zip(marks, marks[1:]))
        print(f"{name}: logits differ by {error:.1e}, quantized {quantized_error:.1e} of their scale; {count} layers; "
              f"{marks[-1] - marks[0]:.1f} s of processors ({parts})", file=sys.stderr, flush=True)


def make_class(title, models):
    return type(title, (ModelCase,), {
        f"test_{name.replace('@', '_')}": lambda self, name=name, wanted=wanted: self.hold(name, wanted)
        for name, wanted in models.items()})


for title, models in MODELS.items():
    globals()[title] = make_class(title, models)


if __name__ == "__main__":
    unittest.main()
