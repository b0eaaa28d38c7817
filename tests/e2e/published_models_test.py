"""Models as their publishers quantize them, taken whole: DeepSeek-V3 in FP8 with blocks of scales, gpt-oss in MXFP4. The float
model that we see gives transformers' logits; a run that is killed and started again ends with the bytes of one that was
left in peace; experts are quantized one by one, and routers stay."""

import json
import unittest

import torch
import transformers
from safetensors.torch import load_file, save_file

import program
import tiny_model

SEQLEN, ROWS = 16, 8
LUT = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def save(folder, model, tensors, quantization):
    """The model's folder with these tensors in two files."""
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    tiny_model.save_tokenizer(folder)
    files = {name: f"model-0000{1 + name.endswith(('_scale_inv', '_scales'))}-of-00002.safetensors" for name in tensors}
    for file in sorted(set(files.values())):
        save_file({n: t.contiguous() for n, t in tensors.items() if files[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def random_model(config, make):
    torch.manual_seed(3)
    model = make(config).eval().to(torch.bfloat16).float()
    tiny_model.randomize(model)
    return model.to(torch.bfloat16).float()


def stored(model, folder):
    """Names on disk -> tensors, as transformers writes them."""
    model.to(torch.bfloat16).save_pretrained(folder)
    return {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}


class PublishedCase(program.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ids = tiny_model.make_tokens(cls.folder / "tokens.safetensors", rows=ROWS, seqlen=SEQLEN)

    def config(self, name, **settings):
        return program.write_config(self.folder / f"{name}.yaml", {
            "model.path": str(self.folder / name), "calibration.tokens": str(self.folder / "tokens.safetensors"),
            "calibration.n_samples": ROWS, "calibration.seqlen": SEQLEN, "quantization.group_size": 32,
            "tuning.iters": 12, "tuning.batch_size": 4, "tuning.amp": False, "parallel.threads": 1, "parallel.stages": 2,
            "parallel.shards": 2, "run.eval_tokens": str(self.folder / "tokens.safetensors")} | settings)

    def logits(self, path):
        out = self.folder / "logits.safetensors"
        config = program.write_config(self.folder / "eval.yaml", {
            "model.path": str(path), "run.eval_tokens": str(self.folder / "tokens.safetensors"), "run.logits": str(out),
            "tuning.amp": False, "parallel.threads": 1})
        self.succeed(["eval", config])
        return load_file(out)["logits"]

    def theirs(self, model):
        with torch.no_grad():
            return model(torch.from_numpy(self.ids).long(), use_cache=False).logits.float()

    def run_whole(self, name, truth):
        """The float model is `truth`; a run that is killed resumes to the bytes of another. -> the output's tensors."""
        self.assertLess(relative(self.logits(self.folder / name), self.theirs(truth)), 1e-5, "logits of what was published")
        config = self.config(name)
        peace = self.folder / f"{name}-peace"
        self.succeed(program.quantize_command(config, peace), 2)
        killed = self.folder / f"{name}-killed"
        job = program.start(program.quantize_command(config, killed), 2, **program.fault(f"*:fsync:1+:slow:/{name}-killed"))
        try:
            program.wait_for(lambda: program.events(f"{killed}.run", "block"), job)
        finally:
            program.kill(job)
        self.succeed(program.quantize_command(config, killed), 2)
        self.assertEqual(program.digests(killed), program.digests(peace))
        self.assertEqual(self.logits(peace).isfinite().all(), True)
        written = json.loads((peace / "config.json").read_text())
        self.assertEqual(written["quantization_config"]["quant_method"], "auto-round")
        return {n: t for path in peace.glob("*.safetensors") for n, t in load_file(path).items()}

    def hold_rounding(self, name, dequantized=()):
        """`round` reads what the publisher has quantized, and makes what `quantize` makes without steps; parts that are
        no blocks are in floats too, for the config does not tell any more how they were stored."""
        single = ("tuning.init_scale=one", "tuning.iters=0", "parallel.shards=1", "parallel.stages=1", "run.eval_tokens=")
        config = self.config(name)
        made = []
        for command in ("quantize", "round"):
            output = self.folder / f"{name}-{command}"
            self.succeed([command, *program.quantize_command(config, output, *single)[1:]])
            made.append({n: t for path in output.glob("*.safetensors") for n, t in load_file(path).items()})
        want, have = made
        for tensor in dequantized:
            self.assertEqual(have.pop(tensor).dtype, torch.bfloat16)
            want = {n: t for n, t in want.items() if not n.startswith(tensor)}
        self.assertEqual(set(have), set(want))
        for tensor in want:
            self.assertTrue(torch.equal(have[tensor], want[tensor]), tensor)


def deepseek():
    return transformers.DeepseekV3Config(
        vocab_size=tiny_model.VOCAB, hidden_size=64, intermediate_size=96, moe_intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
        n_group=2, topk_group=1, first_k_dense_replace=1, q_lora_rank=32, kv_lora_rank=48, qk_nope_head_dim=16,
        qk_rope_head_dim=16, v_head_dim=16, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)


class DeepseekTest(PublishedCase):
    def test_fp8(self):
        model = random_model(deepseek(), transformers.DeepseekV3ForCausalLM)
        tensors = {}
        for name, weight in stored(model, self.folder / "plain").items():
            if weight.dim() != 2 or not name.endswith("_proj.weight") and "kv_a_proj" not in name:
                tensors[name] = weight
                continue
            rows, columns = weight.shape
            scale = torch.empty(-(-rows // 32), -(-columns // 32))
            quantized, back = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), torch.empty(weight.shape)
            for i in range(scale.shape[0]):
                for j in range(scale.shape[1]):
                    part = (slice(32 * i, 32 * i + 32), slice(32 * j, 32 * j + 32))
                    scale[i, j] = weight[part].float().abs().max() / 448
                    quantized[part] = (weight[part].float() / scale[i, j]).to(torch.float8_e4m3fn)
                    back[part] = quantized[part].float() * scale[i, j]
            tensors[name], tensors[f"{name}_scale_inv"] = quantized, scale
            (self.folder / "back").mkdir(exist_ok=True)
            save_file({"w": back.to(torch.bfloat16)}, self.folder / "back" / f"{name}.safetensors")
        # The block for multi-token prediction: transformers has no code for it, and it is carried over.
        extra = "model.layers.61.eh_proj.weight"
        tensors[extra] = torch.randn(64, 128).to(torch.float8_e4m3fn)
        tensors[f"{extra}_scale_inv"] = torch.rand(2, 4)
        save(self.folder / "deepseek", model, tensors, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                                       "weight_block_size": [32, 32]})
        plain = {n: t for n, t in stored(model, self.folder / "plain").items()}
        for path in (self.folder / "back").iterdir():
            plain[path.name.removesuffix(".safetensors")] = load_file(path)["w"]
        save_file({n: t.contiguous() for n, t in plain.items()}, self.folder / "plain" / "model.safetensors", metadata={"format": "pt"})
        truth = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "plain", dtype=torch.float32).eval()
        written = self.run_whole("deepseek", truth)
        self.assertIn("model.layers.1.mlp.experts.3.up_proj.qweight", written)
        self.assertIn("model.layers.2.self_attn.kv_a_proj_with_mqa.qweight", written)
        self.assertEqual(written["model.layers.1.mlp.gate.weight"].dtype, torch.bfloat16)
        for name in (extra, f"{extra}_scale_inv"):
            self.assertEqual(written[name].dtype, tensors[name].dtype)
            self.assertTrue(torch.equal(written[name].view(torch.uint8), tensors[name].view(torch.uint8)))
        self.hold_rounding("deepseek", dequantized=[extra])

    def test_packed_experts(self):
        """Kimi K2: experts in packed integers, with scales in bf16 and the config of a format that we write too."""
        model = random_model(deepseek(), transformers.DeepseekV3ForCausalLM)
        tensors, plain = {}, stored(model, self.folder / "kimi-plain")
        for name, weight in list(plain.items()):
            if ".mlp.experts." not in name:
                tensors[name] = weight
                continue
            groups = weight.float().view(weight.shape[0], -1, 32)
            scale = (groups.abs().amax(-1, keepdim=True) / 7).to(torch.bfloat16)
            q = (groups / scale.float()).round().clamp(-8, 7)
            plain[name] = (q * scale.float()).view(weight.shape).to(torch.bfloat16)
            words = ((q.view(weight.shape[0], -1, 8).long() + 8) << torch.arange(0, 32, 4)).sum(-1)
            tensors[f"{name}_packed"] = torch.where(words < 2 ** 31, words, words - 2 ** 32).to(torch.int32)
            tensors[f"{name}_scale"] = scale.squeeze(-1)
            tensors[f"{name}_shape"] = torch.tensor(weight.shape, dtype=torch.int32)
        save(self.folder / "kimi", model, tensors, {
            "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
                "num_bits": 4, "type": "int", "group_size": 32, "strategy": "group", "symmetric": True, "dynamic": False}}}})
        save_file(plain, self.folder / "kimi-plain" / "model.safetensors", metadata={"format": "pt"})
        truth = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "kimi-plain", dtype=torch.float32).eval()
        self.assertLess(relative(self.logits(self.folder / "kimi"), self.theirs(truth)), 1e-5)
        config, single = self.config("kimi"), ("parallel.shards=1", "run.eval_tokens=")
        self.succeed(program.quantize_command(config, self.folder / "auto", *single))
        # What we write in that format is ours to read.
        self.succeed(program.quantize_command(config, self.folder / "llmc", "output.formats=[llm_compressor]", *single))
        self.assertLess(relative(self.logits(self.folder / "llmc"), self.logits(self.folder / "auto")), 1e-5)


class GptOssTest(PublishedCase):
    def test_mxfp4(self):
        config = transformers.GptOssConfig(
            vocab_size=tiny_model.VOCAB, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_local_experts=4,
            num_experts_per_tok=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=8,
            max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
        model = random_model(config, transformers.GptOssForCausalLM)
        tensors, plain = {}, stored(model, self.folder / "oss-plain")
        generator = torch.Generator().manual_seed(5)
        for name, weight in list(plain.items()):
            if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                tensors[name] = weight
                continue
            experts, inputs, outputs = weight.shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(121, 125, (experts, outputs, inputs // 32), generator=generator, dtype=torch.uint8)
            values = torch.stack([LUT[(blocks & 15).long()], LUT[(blocks >> 4).long()]], -1).flatten(-2)
            back = (values * torch.exp2(scales.float() - 127).unsqueeze(-1)).flatten(-2)
            plain[name] = back.transpose(1, 2).contiguous().to(torch.bfloat16)
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
        save(self.folder / "oss", model, tensors, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
        save_file({n: t.contiguous() for n, t in plain.items()}, self.folder / "oss-plain" / "model.safetensors", metadata={"format": "pt"})
        truth = transformers.AutoModelForCausalLM.from_pretrained(
            self.folder / "oss-plain", dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
        written = self.run_whole("oss", truth)
        experts = {n for n in written if ".mlp.experts." in n and n.endswith(".qweight")}
        self.assertEqual(len(experts), 2 * 4 * 3)
        self.hold_rounding("oss")
        self.assertIn("model.layers.1.mlp.experts.3.gate_proj.qweight", experts)


if __name__ == "__main__":
    unittest.main()
