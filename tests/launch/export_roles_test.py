"""Which layers of exported models are quantized, and what else model.json says about their tensors (graph_export/roles.py)."""

import json
import logging
import os
import re
import unittest

from graph_folder import SEQLEN, FolderTest  # first: it sets the environment of transformers

import torch
from transformers import CONFIG_MAPPING, AttentionInterface
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

from graph_export.roles import KEPT, Roles

torch.set_num_threads(1)
logging.disable(logging.WARNING)

EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
MLP = ["down_proj", "gate_proj", "up_proj"]


def names(*groups):
    """names("mlp", MLP) -> mlp.down_proj, mlp.gate_proj, ..."""
    return [f"{above}.{name}" for above, below in zip(groups[::2], groups[1::2]) for name in below]


class UseTest(FolderTest):
    def assert_uses(self, linear, router=(), kept=(), **options):
        model = self.export(seqlen=options.pop("seqlen", SEQLEN))
        found = {}
        for part in model["kinds"]:
            for row in part["tensors"]:
                name = re.sub(r"experts\.\d+\.", "experts.", row["disk"]).removesuffix(".weight")
                found.setdefault(row["use"], set()).add(name)
        for use, wanted in (("linear", linear), ("router", router), ("kept", kept)):
            self.assertEqual(sorted(found.get(use, [])), sorted(wanted), use)
        return model

    def test_qwen3_next(self):
        self.known("qwen3_next", head_dim=16, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
                   linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, shared_expert_intermediate_size=32, **EXPERTS)
        model = self.assert_uses(
            names("linear_attn", ["in_proj_qkvz", "out_proj"], "self_attn", ATTENTION, "mlp.experts", MLP, "mlp.shared_expert", MLP),
            ["mlp.gate"], ["linear_attn.in_proj_ba", "mlp.shared_expert_gate"])
        self.assertEqual(model["ignored"], ["^mtp.*"])

    def test_qwen3_5_moe(self):
        self.known("qwen3_5_moe_text", head_dim=16, num_hidden_layers=1, layer_types=["linear_attention"], linear_num_key_heads=2,
                   linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, shared_expert_intermediate_size=32, **EXPERTS)
        self.assert_uses(names("linear_attn", ["in_proj_qkv", "in_proj_z", "out_proj"], "mlp.experts", MLP, "mlp.shared_expert", MLP),
                         ["mlp.gate"], ["linear_attn.in_proj_a", "linear_attn.in_proj_b", "mlp.shared_expert_gate"])

    def test_llama4(self):
        """transformers runs every expert on every token; the graph runs those that were chosen, in any batch."""
        self.known("llama4_text", head_dim=16, num_hidden_layers=2, intermediate_size_mlp=96, num_local_experts=4, num_experts_per_tok=1,
                   interleave_moe_layer_step=2, no_rope_layers=[1, 0], attention_chunk_size=8)
        forward = Llama4TextMoe.forward
        model = self.assert_uses(
            names("self_attn", ATTENTION, "feed_forward", MLP, "feed_forward.experts", ["gate_up_proj", "down_proj"],
                  "feed_forward.shared_expert", MLP), ["feed_forward.router"])
        self.assertEqual(model["batch"], 0)
        self.assertIn("rt::dispatch", model["operators"])
        rows = {row["disk"]: row for part in model["kinds"] for row in part["tensors"]}
        self.assertTrue(rows["feed_forward.experts.down_proj"]["in_out"])
        self.assertIs(Llama4TextMoe.forward, forward)

    def test_experts_that_give_the_token_back(self):
        self.known("longcat_flash", num_layers=1, num_hidden_layers=2, ffn_hidden_size=96, expert_ffn_hidden_size=32, n_routed_experts=4,
                   zero_expert_num=2, moe_topk=3, head_dim=8, q_lora_rank=32, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
                   num_key_value_heads=4)
        model = self.export()
        rows = [row for row in model["kinds"][0]["tensors"] if "expert" in row]
        self.assertEqual((len(rows), {row["use"] for row in rows}), (4 * 3, {"linear"}))  # none for the other two

    def test_granite_hybrid(self):
        self.known("granitemoehybrid", num_hidden_layers=2, layer_types=["mamba", "attention"], num_local_experts=4, num_experts_per_tok=2,
                   shared_intermediate_size=32, mamba_n_heads=4, mamba_d_head=32, mamba_d_state=16, mamba_n_groups=1, mamba_chunk_size=8)
        self.assert_uses(names("mamba", ["in_proj", "out_proj"], "self_attn", ATTENTION,
                               "shared_mlp", ["input_linear", "output_linear"], "block_sparse_moe", ["input_linear", "output_linear"]),
                         ["block_sparse_moe.router.layer"])

    def test_falcon_h1(self):
        self.known("falcon_h1", num_hidden_layers=1, head_dim=16, mamba_d_ssm=128, mamba_n_heads=4, mamba_d_head=32, mamba_d_state=16,
                   mamba_n_groups=1, mamba_chunk_size=8)
        self.assert_uses(names("mamba", ["in_proj", "out_proj"], "self_attn", ATTENTION, "feed_forward", MLP))

    def test_mamba(self):
        """dt_proj meets no linear layer's operator; it is a linear layer all the same, and formats list it as one."""
        CONFIG_MAPPING["mamba"](hidden_size=32, intermediate_size=64, num_hidden_layers=1, state_size=4, time_step_rank=4,
                                vocab_size=128).save_pretrained(self.model)
        self.assert_uses(["mixer.in_proj", "mixer.out_proj"], [], ["mixer.x_proj", "mixer.dt_proj"], seqlen=4)

    def test_inputs_of_each_layer(self):
        self.known("gemma4_text", num_hidden_layers=1, layer_types=["full_attention"], num_kv_shared_layers=0, head_dim=16,
                   global_head_dim=16, hidden_size_per_layer_input=8, vocab_size_per_layer_input=128)
        model = self.assert_uses(names("self_attn", ATTENTION, "mlp", MLP), [], ["per_layer_input_gate", "per_layer_projection"])
        uses = {row["disk"]: row["use"] for row in model["embed"]["tensors"]}
        self.assertEqual(uses["model.per_layer_model_projection.weight"], "kept")

    def test_minimax(self):
        self.known("minimax_m2", num_hidden_layers=1, head_dim=16, num_local_experts=4, num_experts_per_tok=2)
        self.assert_uses(names("self_attn", ATTENTION, "block_sparse_moe.experts", ["w1", "w2", "w3"]), ["block_sparse_moe.gate"])


class NameTest(unittest.TestCase):
    """roles.KEPT, without a model."""

    def use(self, name, shape=(64, 64), others=()):
        """The use of a weight that is multiplied by hidden states. others: name -> shape."""
        parameters = {name: {"shape": list(shape)}, **{other: {"shape": list(s)} for other, s in dict(others).items()}}
        inputs = [{"value": 0, "kind": "hidden"}] + [{"value": i, "kind": "parameter", "name": n} for i, n in enumerate(parameters, 1)]
        nodes = [{"op": "aten::linear", "args": [{"v": 0}, {"v": i}], "out": [100 + i]} for i in range(1, len(inputs))]
        return Roles({"inputs": inputs, "nodes": nodes, "parameters": parameters}).use[name]

    def test_names_that_are_kept(self):
        for name in ("self_attn.indexer.wq_b.weight", "self_attn.indexer.weights_proj.weight", "self_attn.qsa_indexer.index_qk_proj.weight",
                     "self_attn.compressor.kv_proj.weight", "self_attn.compressor.indexer.q_b_proj.weight", "attn_hc.fn", "ffn_hc.fn",
                     "attn_hyper_connection.input_mix_weight_up.weight", "input_layernorm.mlp.fc1.weight", "mlp.gate.router_mlp.fc1.weight",
                     "self_attn.f_b_proj.weight", "altup.modality_router.weight", "laurel.linear_left.weight", "mamba.x_proj.weight",
                     "mlp.gate.weight", "linear_attn.in_proj_ba.weight", "mlp.shared_expert_gate.weight"):
            self.assertEqual(self.use(name), "kept", name)

    def test_names_that_look_like_them(self):
        for name in ("mlp.gate_proj.weight", "self_attn.q_b_proj.weight", "self_attn.kv_b_proj.weight", "norm_attn_norm.attn.Wqkv.weight",
                     "linear_attn.in_proj_qkv.weight", "mamba.in_proj.weight", "mlp.gate_up_proj.weight", "self_attn.gate_proj.weight",
                     "mlp.shared_expert.gate_proj.weight"):
            self.assertEqual(self.use(name), "linear", name)

    def test_gates_with_one_output_per_head(self):
        self.assertEqual(self.use("self_attn.g_proj.weight", (4, 64), {"self_attn.o_proj.weight": (64, 128)}), "kept")
        self.assertEqual(self.use("self_attn.g_proj.weight", (128, 64), {"self_attn.o_proj.weight": (64, 128)}), "linear")

    def test_each_entry_says_why_and_for_whom(self):
        for entry in KEPT:
            re.compile(entry.names)
            self.assertGreater(len(entry.reason), 20, entry.names)
            self.assertRegex(entry.engine, "vLLM|SGLang|llama.cpp|auto-round|transformers")


class DescriptionTest(FolderTest):
    """What model.json says of the model, and that an export leaves nothing behind."""

    def test_a_head_that_is_the_embedding(self):
        self.known("llama", num_hidden_layers=1, tie_word_embeddings=True, max_position_embeddings=96)
        model = self.export()
        self.assertEqual((model["head_name"], model["max_positions"]), ("lm_head.weight", 96))
        self.assertNotIn("text_config", model)
        self.known("llama", num_hidden_layers=1, tie_word_embeddings=False)
        self.assertNotIn("head_name", self.export())

    def test_the_text_part_of_a_larger_model(self):
        text = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                    vocab_size=128, max_position_embeddings=64)
        vision = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4)
        CONFIG_MAPPING["gemma3"](text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=3, boi_token_index=4,
                                 eoi_token_index=5, tie_word_embeddings=True).save_pretrained(self.model)
        model = self.export()
        self.assertEqual((model["text_config"], model["max_positions"]), ("text_config", 64))
        self.assertEqual(model["head_name"], "language_model.lm_head.weight")
        self.assertTrue(any("vision_tower" in name for name in model["untouched"]))

    def test_exports_in_one_process_do_not_meet(self):
        self.known("llama", num_hidden_layers=1)

        def state():
            return (torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.compiler.is_exporting, torch.compiler.is_compiling,
                    AttentionInterface.get_interface, torch.is_grad_enabled(), torch.get_num_threads())
        before, first = state(), self.export()
        for seqlen, dtype in ((SEQLEN * 2, "float32"), (SEQLEN, "bfloat16")):
            model = self.export(dtype, seqlen)
            self.assertEqual((model["seqlen"], model["dtype"]), (seqlen, dtype))
        with open(os.path.join(self.out, "model.json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file)["dtype"], "bfloat16")
        self.assertEqual(self.export(), first)
        self.assertEqual(state(), before)


if __name__ == "__main__":
    unittest.main()
