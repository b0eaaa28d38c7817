"""Every recipe of configs/ passes plan, from the figures of its model's config.json alone (tests/data/models)."""

import json
import pathlib
import re
import unittest

import torch
import transformers

import program

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "data" / "models"

# recipe -> (model, cluster). The cluster is that of the recipe's first lines.
RECIPES = {
    "deepseek-v3-w4g128": ("deepseek-v3", "h100-8"),
    "glm-4.5-w4g128": ("glm-4.5", "h100-8"),
    "gpt-oss-120b-w4g64": ("gpt-oss-120b", "h100-8"),
    "gpt2-w4g128": ("gpt2", "cpu-2-cores"),
    "kimi-k2.5-w3g128": ("kimi-k2.5", "h100-8"),
    "llama-3.1-70b-w4g128": ("llama-3.1-70b", "h100-8x8"),
    "llama-3.1-8b-w4g128": ("llama-3.1-8b", "h100-1"),
    "llama-4-scout-w4g128": ("llama-4-scout", "h100-8"),
    "mixtral-8x7b-w4g128": ("mixtral-8x7b", "h100-8"),
    "qwen2.5-72b-w4g128": ("qwen2.5-72b", "h100-8x8"),
    "qwen3-32b-w4g128": ("qwen3-32b", "h100-8"),
    "qwen3-next-80b-a3b-w4g128": ("qwen3-next-80b-a3b", "h100-8"),
    "smollm2-135m-w2g32": ("smollm2-135m", "cpu-2-cores"),
    "smollm2-135m-w3g64": ("smollm2-135m", "cpu-2-cores"),
    "smollm2-135m-w4g64": ("smollm2-135m", "cpu-2-cores"),
}

# One block of these with all of its experts on each rank is larger than the devices of a cluster; what plan says of it.
TOO_LARGE = {
    "deepseek-v3-w4g128": ("h200-8x4", "the smallest layout needs 18"),
    "kimi-k2.5-w3g128": ("h200-8x4", "the smallest layout needs 26"),
}

# Parameters as the models' cards give them (Hugging Face, "model size"; to the last one from their safetensors), without
# blocks for multi-token prediction: "671B", "355B", "117B" (116.83), "1T", "109B", "80B".
PARAMETERS = {
    "deepseek-v3": 671_026_404_352,
    "glm-4.5": 352_797_814_784,
    "gpt-oss-120b": 116_829_156_672,
    "gpt2": 124_439_808,
    "kimi-k2.5": 1_026_879_353_328,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-4-scout": 108_641_793_536,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-32b": 32_762_123_264,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "smollm2-135m": 134_515_008,
}


def built(model):
    """The whole model, with its vision part, without weights."""
    config = transformers.AutoConfig.from_pretrained(MODELS / model)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # from_config() wants none
    whole = hasattr(config, "vision_config")
    with torch.device("meta"):
        return (transformers.AutoModelForImageTextToText if whole else transformers.AutoModelForCausalLM).from_config(config)


class RecipesTest(program.Case):
    def test_every_recipe_is_listed(self):
        self.assertEqual(sorted(p.stem for p in (ROOT / "configs").glob("*.yaml")), sorted(RECIPES))

    def test_the_models_figures_are_the_published_ones(self):
        for model, parameters in PARAMETERS.items():
            self.assertEqual(sum(p.numel() for p in built(model).parameters()), parameters, model)

    def test_every_recipe_passes_plan(self):
        for recipe, (model, cluster) in RECIPES.items():
            with self.subTest(recipe):
                text = (ROOT / "configs" / f"{recipe}.yaml").read_text()
                if model != "smollm2-135m":  # those say where their inputs come from instead
                    self.assertIn(f"--cluster configs/clusters/{cluster}.yaml", text)
                result = self.succeed(["plan", ROOT / "configs" / f"{recipe}.yaml", "--json",
                                       "--cluster", ROOT / "configs" / "clusters" / f"{cluster}.yaml",
                                       "--set", f"model.path={MODELS / model}"])
                plan = result.json
                self.assertEqual(plan["layers_in_16_bits"], [])
                self.assertLess(plan["bytes_a_rank"], 80e9)
                self.assertGreater(plan["seconds"]["tune"], 0)
                self.check_size(plan, recipe, model)

    def test_a_block_that_no_device_can_hold_is_refused(self):
        for recipe, (cluster, problem) in TOO_LARGE.items():
            with self.subTest(recipe):
                self.fail_with(["plan", ROOT / "configs" / f"{recipe}.yaml",
                                "--cluster", ROOT / "configs" / "clusters" / f"{cluster}.yaml",
                                "--set", f"model.path={MODELS / RECIPES[recipe][0]}",
                                "--set", "parallel.experts=replicated"], 1, 2,
                               "cluster.device_memory: 141.00 GB are too little", problem,
                               "of it for one block and its tuning", "set parallel.experts: divided")

    def test_the_largest_models_are_forecast_from_config_json_alone(self):
        """By the recipe of another model: only the path is changed. Both fit into devices of 80 GB."""
        for model in ("llama-3.1-405b", "qwen3-235b-a22b"):
            for cluster in ("h100-8x8", "a100-8"):
                with self.subTest(model, cluster=cluster):
                    plan = self.succeed(["plan", ROOT / "configs" / "llama-3.1-70b-w4g128.yaml", "--json",
                                         "--cluster", ROOT / "configs" / "clusters" / f"{cluster}.yaml",
                                         "--set", f"model.path={MODELS / model}"]).json
                    self.assertLess(plan["bytes_a_rank"], 80e9)
                    self.check_size(plan, "any-w4g128", model)
                    for phase in ("calibrate", "tune", "prove"):
                        self.assertGreater(plan["seconds"][phase], 0)

    def check_size(self, plan, recipe, model):
        """The forecast of the checkpoint against bits and scales counted by hand."""
        bits, group = (int(n) for n in recipe.rsplit("-w", 1)[1].split("g"))
        config = transformers.AutoConfig.from_pretrained(MODELS / model)
        shape = config.get_text_config()
        vision = sum(p.numel() for n, p in built(model).named_parameters() if not re.search("language_model|lm_head", n)
                     ) if shape is not config else 0  # not forecast: only the checkpoint's headers say what it holds
        outside = shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
        inside = PARAMETERS[model] - outside - vision
        element = 2 if shape.dtype in (torch.bfloat16, torch.float16) else 4  # GPT-2 is published in fp32
        expected = element * outside + inside * (bits + (16 + bits) / group) / 8
        written = [size for name, size in plan["disk"].items() if "checkpoint" in name]
        self.assertEqual(len(written), 1, plan["disk"])
        self.assertAlmostEqual(written[0] / expected, 1, delta=0.05, msg=json.dumps(plan["disk"]))


if __name__ == "__main__":
    unittest.main()
