"""Models whose experts are one tensor on disk, and text models inside of larger ones: transformers finds every quantized
layer under the name that we wrote, leaves the others as they are, and computes what `roundtable eval` computes."""

import json
import re
import sys
import unittest

from logits_test import LogitsCase, logits_of  # first: it hides the devices and registers auto-round's layers

import torch
import transformers
from safetensors.torch import load_file
from transformers.quantizers.quantizers_utils import should_convert_module

import program
import tiny_model

AUTO_ROUND = ["auto_round:auto_gptq", "auto_gptq"]
TEXT = {"vocab_size": tiny_model.VOCAB, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0}


def rope():
    """A new one each time: configs add to it."""
    return {"rope_type": "default", "rope_theta": 10000.0}


def gemma3():
    text = TEXT | {"query_pre_attn_scalar": 24, "sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"],
                   "rope_parameters": {kind: rope() for kind in ("sliding_attention", "full_attention")}}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
              "patch_size": 14}
    return transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, boi_token_index=500,
                                     eoi_token_index=501, image_token_index=502)


def qwen3_5_moe():
    text = TEXT | {"rope_parameters": rope(), "layer_types": ["linear_attention", "full_attention"],
                   "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 4,
                   "num_experts_per_tok": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                   "linear_key_head_dim": 16, "linear_value_head_dim": 16}
    vision = {"hidden_size": 32, "intermediate_size": 64, "depth": 1, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14}
    return transformers.Qwen3_5MoeConfig(text_config=text, vision_config=vision, image_token_id=500, video_token_id=501,
                                         vision_start_token_id=502, vision_end_token_id=503)


def llama4():
    text = TEXT | {"rope_parameters": rope(), "intermediate_size_mlp": 96, "num_local_experts": 4, "num_experts_per_tok": 1,
                   "interleave_moe_layer_step": 2, "attention_chunk_size": 8, "no_rope_layers": [1, 0]}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
              "patch_size": 14, "vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64}
    return transformers.Llama4Config(text_config=text, vision_config=vision, image_token_index=500)


def gpt_oss():
    return transformers.GptOssConfig(**TEXT | {"rope_parameters": rope(), "num_local_experts": 4, "num_experts_per_tok": 2,
                                              "sliding_window": 8})


def plain_frequencies(model):
    """As logits_test.load(): auto-round rounds the rotary frequencies to fp16 with the rest."""
    for module in [m for m in model.modules() if "RotaryEmbedding" in type(m).__name__ and hasattr(m, "config")]:
        fresh = type(module)(module.config)
        for name, buffer in fresh.named_buffers():
            getattr(module, name).copy_(buffer)


def tensors_of(folder):
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


def stored_weight(tensors, layer):
    """[out, in] of a layer of Llama 4, whose experts are [experts, in, 2 * out], gate before up."""
    if ".experts." not in layer:
        return tensors[f"{layer}.weight"].float()
    stack, expert, part = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)", layer).groups()
    if part == "down_proj":
        return tensors[f"{stack}.down_proj"][int(expert)].t().float()
    return tensors[f"{stack}.gate_up_proj"][int(expert)].t().chunk(2)[part == "up_proj"].float()


class NamesTest(LogitsCase):
    def make(self, name, config, make):
        torch.manual_seed(5)
        path = self.folder / name
        model = make(config).eval().to(torch.bfloat16).float()
        tiny_model.randomize(model)
        model.to(torch.bfloat16).save_pretrained(path)
        tiny_model.save_tokenizer(path)
        return path

    def quantize(self, path, formats, **settings):
        output = self.folder / f"{path.name}-out"
        tokens = self.folder / "tokens.safetensors"
        tiny_model.make_tokens(tokens, rows=4, seqlen=16, vocab=400)
        config = program.write_config(self.folder / f"{path.name}.yaml", {
            "model.path": str(path), "calibration.tokens": str(tokens), "calibration.n_samples": 4, "calibration.seqlen": 16,
            "quantization.group_size": 32, "tuning.iters": 2, "tuning.batch_size": 4, "tuning.amp": False,
            "parallel.threads": 1, "output.path": str(output), "output.formats": formats} | settings)
        self.succeed(["quantize", config])
        return {f: output if f == formats[0] else output / f.replace(":", "-") for f in formats}

    def load(self, auto, path, **options):
        model = auto.from_pretrained(path, dtype=torch.float32, device_map="cpu", attn_implementation="eager",
                                     experts_implementation="eager", **options).to(torch.float32).eval()
        plain_frequencies(model)
        return model

    def hold(self, path, format, auto, ours, bound=1e-4, **options):
        if format == "auto_gptq":
            options["quantization_config"] = transformers.AutoRoundConfig()
        theirs = logits_of(self.load(auto, path, **options), self.ids)
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        print(f"{path.name}, {format}, {auto.__name__}: logits differ by {error:.1e} of their scale", file=sys.stderr)
        self.assertLess(error, bound, f"{path.name}, {format}")

    def reference(self, path):
        self.ids = tiny_model.make_tokens(self.folder / "ids.safetensors", rows=2, seqlen=16, seed=11, vocab=400)
        return self.ours(path, self.ids)

    def hold_all(self, name, config, make, formats, autos, **settings):
        """-> tensors and quantization_config of the first format."""
        folders = self.quantize(self.make(name, config, make), [*formats, "qdq"], **settings)
        _, ours = self.reference(folders[formats[0]])
        own = self.reference(folders["qdq"])[1]  # rounded to bf16 once more
        # auto-round takes transformers' conversion of experts away, for all models of a type and for good: it comes last.
        for format, path in sorted(folders.items(), key=lambda item: item[0].startswith("auto")):
            if format == "auto_awq":
                self.hold_awq(path, make)
                continue
            for auto in autos:
                options = {}
                if format == "llm_compressor" and "Moe" in make.__name__:
                    options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
                # Dequantized experts are in the type of their scales, fp16.
                self.hold(path, format, auto, own if format == "qdq" else ours, 3e-2 if options else 1e-4, **options)
        first = folders[formats[0]]
        return tensors_of(first), json.loads((first / "config.json").read_text())["quantization_config"]

    def hold_awq(self, path, make):
        """AWQ's layers are for GPUs: transformers says which modules it would make of them (integrations/awq.py)."""
        config = transformers.AutoConfig.from_pretrained(path)
        kept = config.quantization_config["modules_to_not_convert"]
        with torch.device("meta"):
            modules = make(config).named_modules()
        wanted = {name for name, module in modules if isinstance(module, torch.nn.Linear) and should_convert_module(name, kept)}
        found = {n.removesuffix(".qweight") for n in tensors_of(path) if n.endswith(".qweight")}
        self.assertEqual({n.replace("language_model.model.", "model.language_model.") for n in found}, wanted)

    def test_gemma3_with_its_vision_tower(self):
        tensors, _ = self.hold_all("gemma3", gemma3(), transformers.Gemma3ForConditionalGeneration,
                                   [*AUTO_ROUND, "llm_compressor", "auto_awq"], [transformers.AutoModelForImageTextToText],
                                   **{"quantization.ignore_layers": ["layers.1.mlp.down_proj"]})
        self.assertIn("language_model.model.layers.0.mlp.up_proj.qweight", tensors)
        self.assertIn("language_model.model.layers.1.mlp.down_proj.weight", tensors)
        self.assertTrue([n for n in tensors if n.startswith("vision_tower.")])

    def test_qwen3_5_moe_whole_and_as_a_text_model(self):
        tensors, _ = self.hold_all("qwen3_5_moe", qwen3_5_moe(), transformers.Qwen3_5MoeForConditionalGeneration,
                                   [*AUTO_ROUND, "llm_compressor"],
                                   [transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM])
        self.assertIn("model.language_model.layers.1.mlp.experts.3.gate_proj.qweight", tensors)

    def test_llama4_experts_are_one_tensor(self):
        """Layer by layer: auto-round 0.16.1 (modeling/fused_moe/llama4.py) multiplies what an expert gives by the router's
        score, and Llama 4 multiplies what it takes."""
        path = self.make("llama4", llama4(), transformers.Llama4ForConditionalGeneration)
        folders = self.quantize(path, [*AUTO_ROUND, "qdq"])
        _, ours = self.reference(folders["qdq"])
        self.hold(folders["qdq"], "qdq", transformers.AutoModelForImageTextToText, ours)
        plain = tensors_of(folders["qdq"])
        for format in AUTO_ROUND:
            options = {"quantization_config": transformers.AutoRoundConfig()} if format == "auto_gptq" else {}
            model = self.load(transformers.AutoModelForImageTextToText, folders[format], **options)
            found = {name: module for name, module in model.named_modules() if hasattr(module, "qweight")}
            self.assertEqual(len(found), 4 + 3 + 4 + 3 + 4 * 3)
            for name, module in found.items():
                with torch.no_grad():
                    weight = module(torch.eye(module.infeatures)).t()
                error = (weight - stored_weight(plain, name)).abs().max() / weight.abs().max()
                self.assertLess(error.item(), 1e-2, f"{format}: {name}")  # qdq is bf16
            self.assertTrue([n for n in model.state_dict() if n.startswith("vision_model.") and n.endswith("proj.weight")])

    def test_gpt_oss_gate_and_up_by_turns(self):
        tensors, _ = self.hold_all("gpt_oss", gpt_oss(), transformers.GptOssForCausalLM, AUTO_ROUND,
                                   [transformers.AutoModelForCausalLM])
        self.assertIn("model.layers.0.mlp.experts.3.up_proj.bias", tensors)


if __name__ == "__main__":
    unittest.main()
