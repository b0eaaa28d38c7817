"""launch/export_model.py: every trap of models that are exported, the tables of tensors on disk, and what is refused."""

import copy
import json
import logging
import os
import subprocess
import sys
import types
import unittest
import unittest.mock

from graph_folder import LAUNCH, FolderTest  # first: it sets the environment of transformers

import torch
from transformers import CONFIG_MAPPING
from transformers.core_model_loading import revert_weight_conversion

from graph_export import check, disk_names, export, interpret, lower, operators, shrink, trace
from graph_export.encode import Encoder
from graph_export.errors import BadInput
from graph_export.model_source import Source

torch.set_num_threads(1)
logging.disable(logging.WARNING)


class TrapTest(FolderTest):
    """Habits of models that make a clean graph of another function, or none."""

    def test_a_plain_model_of_its_own_code(self):
        self.toy("none")
        model = self.export()
        self.assertEqual((model["architecture"], model["own_code"], model["batch"]), ("ToyForCausalLM", True, 0))
        self.assertEqual([block["prefix"] for block in model["blocks"]], ["layers.0.", "layers.1.", "layers.2."])
        self.assertIn("rt::attention", model["operators"])
        self.assertEqual(model["untouched"], [f"layers.{i}.table" for i in range(3)])
        self.assertNotIn("aten::permute", model["operators"])  # the order of dimensions is the model's own
        attention = next(node for node in model["kinds"][0]["nodes"] if node["op"] == "rt::attention")
        self.assertEqual((attention["args"][3], attention["args"][6]), (None, True))
        # 2 FLOPs for each of 2 heads, 16 x 16 pairs and 16 + 16 elements
        self.assertEqual(attention["flops"], 2 * 2 * 16 * 16 * 32)
        self.assertEqual(attention["bytes"], 16 * 32 * 4)

    def test_regions_without_gradients(self):
        """The result of x.float() in a region may be x, so its gradient must pass."""
        self.toy("regions")
        nodes = self.export()["kinds"][0]["nodes"]
        self.assertTrue(any(node.get("no_grad") for node in nodes))

    def test_regions_that_are_detached_are_seen(self):
        self.toy("regions")
        original = check.interpret.run

        def detach(part, tensors, *args):
            part = copy.deepcopy(part)
            for node in part["nodes"]:
                node.pop("no_grad", None)
            part["inputs"] = [dict(i) for i in part["inputs"]]
            first = next(i for i in part["inputs"] if i["kind"] == "hidden")["value"]
            fresh = part["values"]
            part["values"] += 1
            for node in part["nodes"]:
                if node["op"] == "aten::gather":
                    node["args"][0] = {"v": fresh}
            part["nodes"].insert(0, {"op": "aten::detach", "args": [{"v": first}], "out": [fresh]})
            return original(part, tensors, *args)
        with unittest.mock.patch.object(check.interpret, "run", detach):
            self.assert_refused("the gradient of", "differs from transformers")

    def test_the_name_of_the_attention_is_tested(self):
        """A model that leaves its mask out under a name that it does not know still gets its mask."""
        self.toy("names")
        attention = next(node for node in self.export()["kinds"][0]["nodes"] if node["op"] == "rt::attention")
        self.assertIsNotNone(attention["args"][3])

    def test_an_attention_under_its_own_name_is_seen(self):
        self.toy("names")
        original = export.Exporter.block_part

        def renamed(exporter, model, *args):
            saved, model.config._attn_implementation_internal = model.config._attn_implementation, "rt"
            try:
                return original(exporter, model, *args)
            finally:
                model.config._attn_implementation_internal = saved
        with unittest.mock.patch.object(export.Exporter, "block_part", renamed):
            self.assert_refused("block 0")

    def test_a_table_of_zeros_hides_that_tokens_are_read(self):
        self.toy("table")
        model = self.export()
        self.assertIn("tokens", [i["kind"] for i in model["kinds"][0]["inputs"]])
        self.assertIn("table", model["kinds"][0]["parameters"])

    def test_ways_that_are_taken_only_while_exporting(self):
        self.toy("none")
        plain = len(self.export()["kinds"][0]["nodes"])
        self.toy("exporting")
        self.assertEqual(len(self.export()["kinds"][0]["nodes"]), plain)

    def test_gradients_that_are_noise(self):
        """The bias of a key has no gradient but rounding errors; its relative difference says nothing."""
        self.known("opt", ffn_dim=96, word_embed_proj_dim=64)
        model = self.export()
        self.assertLess(model["check"]["gradient"], check.GRADIENT)
        self.assertIn("rt::attention", model["operators"])  # no other way was tried

    def test_blocks_that_ask_for_their_number(self):
        """Nothing but the number differs: one kind, and the comparison of every block sees it."""
        self.toy("index")
        self.assert_refused("the output of block 1", "differs from transformers")

    def test_a_hidden_state_that_is_written_into(self):
        self.toy("written")
        nodes = self.export()["kinds"][0]["nodes"]
        self.assertEqual(nodes[0]["op"], "aten::clone")

    def test_a_block_that_asks_for_the_size_of_the_batch(self):
        self.toy("batch")
        model = self.export()
        self.assertEqual(model["batch"], 1)
        self.assertNotIn("aten::sym_size.int", {node["op"] for node in model["kinds"][0]["nodes"]})

    def test_constants_in_the_code(self):
        """One that is there twice is taken once; torch.tensor(0.5) makes, copies and detaches another."""
        self.toy("constants")
        part = self.export()["kinds"][0]
        names = [i["name"] for i in part["inputs"] if i["kind"] == "constant"]
        self.assertEqual(sorted(names), sorted(set(names)))
        plain = {node["op"].split("::")[1] for node in part["nodes"]}
        self.assertFalse(plain & {"detach_", "lift_fresh_copy", "lift_fresh"})

    def test_more_positions_than_tokens(self):
        self.toy("longer")
        self.assert_refused("block 0: its hidden state is [3, 32, 32] for 3 samples of 16 tokens")

    def test_samples_that_are_not_the_first_dimension(self):
        self.toy("turned")
        model = self.export()
        self.assertEqual(model["boundary"]["hidden"]["shape"], [16, 2, 32])

    def test_the_embedding_again(self):
        self.toy("embedding")
        model = self.export()
        self.assertEqual(len(model["boundary"]), 4)  # the model computes it for every block
        self.assertEqual([len(block["takes"]) for block in model["blocks"]], [1, 1, 1])

    def test_what_a_block_gives_to_the_next(self):
        self.toy("carried")
        model = self.export()
        self.assertEqual([len(block["takes"]) for block in model["blocks"]], [0, 1, 1])
        self.assertEqual([len(block["gives"]) for block in model["blocks"]], [1, 1, 0])

    def test_what_cannot_be_exported_is_refused_by_name(self):
        for trap, part in (("between", "between the blocks"), ("twice", "block 0 runs 2 times"), ("buffer", "buffer scale"),
                           ("contents", "block 0 (ToyLayer)"), ("derived", "computed from what earlier blocks give")):
            with self.subTest(trap):
                self.toy(trap)
                self.assert_refused("config.json", part)

    def test_a_wrong_graph_is_not_written(self):
        self.toy("none")
        wrong = dict(operators.COMPUTE)
        wrong["rt::attention"] = lambda q, k, v, mask, *rest: operators.compute_attention(q, k, v, mask, None, rest[1], False, 0, 0.0)
        with unittest.mock.patch.dict(interpret.COMPUTE, wrong):
            lines = self.export() and self.lines
        self.assertIn("PyTorch's operators compute it", " ".join(lines))  # what our operator gets wrong, PyTorch's computes

    def test_own_code_runs_only_if_the_user_says_so(self):
        self.toy("none")
        self.assert_refused("toy_of_the_test", "--trust-remote-code", own_code=False)


class ModelTest(FolderTest):
    """Models of transformers, small."""

    def assert_table_holds(self, model_type):
        """Every tensor on disk, as transformers writes it from numbered elements, is what the table says."""
        model = self.export()
        source = Source(self.model)
        module = source.build(source.config, torch.float32, "cpu")
        count, numbered = 0, {}
        for name, tensor in module.state_dict().items():
            numbered[name] = torch.arange(count, count + tensor.numel(), dtype=torch.float64).view(tensor.shape)
            count += tensor.numel()
        on_disk = revert_weight_conversion(module, dict(numbered))
        seen = set()
        for block in model["blocks"]:
            part = model["kinds"][block["kind"]]
            index = model["blocks"].index(block)
            layers = next(n for n, m in module.named_modules() if isinstance(m, torch.nn.ModuleList) and n.count(".") < 3)
            for row in part["tensors"]:
                parameter = numbered[f"{layers}.{index}.{row['param']}"]
                view = torch.as_strided(parameter, row["shape"], row["stride"], row["offset"])
                self.assertTrue(torch.equal(view, on_disk[block["prefix"] + row["disk"]]), row["disk"])
                seen.add(block["prefix"] + row["disk"])
        for part in (model["embed"], model["head"]):
            seen |= {row["disk"] for row in part["tensors"]}
        tied = {name for name in on_disk if name not in seen and disk_names.tied_names(module).get(name, name) != name}
        self.assertEqual(seen | set(model["untouched"]) | tied, set(on_disk))
        return model

    def test_gpt2(self):
        CONFIG_MAPPING["gpt2"](n_embd=64, n_layer=2, n_head=4, vocab_size=128, n_positions=64).save_pretrained(self.model)
        model = self.assert_table_holds("gpt2")
        rows = {row["disk"]: row for row in model["kinds"][0]["tensors"]}
        self.assertTrue(rows["attn.c_attn.weight"]["in_out"])
        self.assertEqual(rows["attn.c_attn.weight"]["use"], "linear")
        ends = [{row["disk"] for row in model[end]["tensors"]} for end in ("embed", "head")]
        self.assertEqual(ends[0] & ends[1], {"transformer.wte.weight"})  # tied

    def test_experts_one_by_one_on_disk(self):
        self.known("mixtral", num_local_experts=4, num_experts_per_tok=2)
        model = self.assert_table_holds("mixtral")
        rows = {row["disk"]: row for row in model["kinds"][0]["tensors"]}
        up = next(row for name, row in rows.items() if name.endswith("experts.2.w3.weight"))
        self.assertEqual((up["expert"], up["use"], up["shape"]), (2, "linear", [96, 64]))
        uses = {name: row["use"] for name, row in rows.items()}
        self.assertEqual([name for name, use in uses.items() if use == "router"], ["block_sparse_moe.gate.weight"])

    def test_experts_as_one_tensor_on_disk(self):
        self.known("gpt_oss", num_local_experts=4, num_experts_per_tok=2, head_dim=16, sliding_window=8,
                   layer_types=["sliding_attention", "full_attention", "sliding_attention"])
        model = self.assert_table_holds("gpt_oss")
        self.assertEqual([block["kind"] for block in model["blocks"]], [0, 1, 0])
        rows = {row["disk"]: row for row in model["kinds"][0]["tensors"]}
        self.assertTrue(rows["mlp.experts.gate_up_proj"]["in_out"])
        self.assertEqual(rows["mlp.router.weight"]["use"], "router")
        windows = [next(n for n in kind["nodes"] if n["op"] == "rt::attention")["args"][6:8] for kind in model["kinds"]]
        self.assertEqual(windows, [[True, 8], [True, 0]])

    def test_a_sparse_indexer(self):
        """Its mask reaches our attention, and its projections are kept."""
        self.known("deepseek_v32", num_key_value_heads=4, q_lora_rank=32, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8,
                   v_head_dim=16, n_routed_experts=8, num_experts_per_tok=2, n_group=2, topk_group=1, moe_intermediate_size=32,
                   first_k_dense_replace=1, index_topk=8, index_n_heads=2, index_head_dim=16, num_hidden_layers=2)
        model = self.export()
        for kind in model["kinds"]:
            attention = next(node for node in kind["nodes"] if node["op"] == "rt::attention")
            self.assertIsNotNone(attention["args"][3])
            uses = {row["disk"]: row["use"] for row in kind["tensors"]}
            self.assertEqual({use for name, use in uses.items() if ".indexer." in name and ".weight" in name and "norm" not in name}, {"kept"})
            self.assertEqual(uses["self_attn.o_proj.weight"], "linear")

    def test_deepseek_v3_from_its_config_alone(self):
        """671 B parameters, in a process of its own that may take little memory."""
        CONFIG_MAPPING["deepseek_v3"](num_hidden_layers=5).save_pretrained(self.model)
        result = subprocess.run([sys.executable, os.path.join(LAUNCH, "export_model.py"), self.model, "--out", self.out, "--seqlen", "64"],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"5 blocks of 2 kinds \(26\.\d B parameters\)")
        memory = float(result.stdout.rsplit(" GiB of memory", 1)[0].split()[-1])
        self.assertLess(memory, 3)
        with open(os.path.join(self.out, "model.json"), encoding="utf-8") as file:
            model = json.load(file)
        self.assert_valid(model)
        self.assertEqual((model["dtype"], model["boundary"]["hidden"]["shape"]), ("bfloat16", [64, 7168]))
        self.assertEqual(model["kinds"][1]["parameters"]["mlp.experts.gate_up_proj"]["shape"], [256, 4096, 7168])
        self.assertEqual(model["kinds"][1]["parameters"]["mlp.gate.e_score_correction_bias"]["dtype"], "float32")


    def test_keys_and_values_that_blocks_share(self):
        self.known("gemma4_text", num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2, num_kv_shared_layers=2,
                   head_dim=16, global_head_dim=16, sliding_window=8, hidden_size_per_layer_input=8, vocab_size_per_layer_input=128)
        model = self.export()
        self.assertEqual([len(block["gives"]) for block in model["blocks"]], [2, 2, 0, 0])
        self.assertEqual([len(block["takes"]) for block in model["blocks"]], [1, 1, 3, 3])  # and what embed gives for each block
        self.assertEqual({o["kind"] for o in model["embed"]["outputs"]}, {"hidden", "carried"})

    def test_parts_that_no_graph_uses_may_be_fused_on_disk(self):
        """Kimi K2.5: q, k and v of its vision part are one tensor on disk. Such tensors are copied, and need no table."""
        text = dict(model_type="deepseek_v3", hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=4, vocab_size=128, n_routed_experts=8, n_group=1, topk_group=1,
                    num_experts_per_tok=2, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=16, qk_nope_head_dim=16,
                    qk_rope_head_dim=8, v_head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
        vision = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2, num_hidden_layers=1, patch_size=2, pos_emb_height=4,
                      pos_emb_width=4)
        CONFIG_MAPPING["kimi_k25"](text_config=text, vision_config=vision, projection_hidden_size=32,
                                   tie_word_embeddings=False).save_pretrained(self.model)
        model = self.export()
        self.assertEqual(model["blocks"][1]["prefix"], "language_model.model.layers.1.")
        self.assertIn("vision_tower.encoder.blocks.0.wqkv.weight", model["untouched"])
        self.assertIn("vision_tower.patch_embed.proj.weight", model["untouched"])
        self.assertIn("mm_projector.pre_norm.weight", model["untouched"])
        self.assertFalse([name for name in model["untouched"] if name.startswith("language_model.")])

    def test_sizes_in_words(self):
        self.assertEqual([export.billions(n) for n in (26.14e9, 671e9, 999.6e9, 1026.9e9)], ["26.1", "671", "1000", "1027"])

    def test_a_model_under_another_name(self):
        self.known("deepseek_v3")
        with open(os.path.join(self.model, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self.write({**config, "model_type": "kimi_k2", "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}})
        source = Source(self.model)
        self.assertEqual((source.model_class.__name__, source.own_code), ("DeepseekV3ForCausalLM", False))


class RefusalTest(FolderTest):
    def test_bad_folders(self):
        self.assert_refused("no such folder")
        for text, part in (("{", "cannot be read as JSON"), ("[]", "model_type"), ('{"model_type": 3}', "model_type"),
                           ('{"model_type": "nothing"}', "does not know 'nothing'"), ('{"model_type": "vit"}', "no causal language model"),
                           ('{"model_type": "llama", "num_attention_heads": "x"}', "config.json")):
            with self.subTest(text):
                self.write(text)
                self.assert_refused(part)
        os.remove(os.path.join(self.model, "config.json"))
        self.assert_refused("config.json: no such file")

    def test_outputs_that_are_something_else(self):
        self.toy("none")
        os.mkdir(self.out)
        with open(os.path.join(self.out, "notes.txt"), "w", encoding="utf-8") as file:
            file.write("mine")
        with self.assertRaisesRegex(BadInput, "notes.txt"):
            self.export()
        os.remove(os.path.join(self.out, "notes.txt"))
        self.export()
        self.export()  # an older graph is replaced

    def test_the_command_says_one_line(self):
        for options in (["--seqlen", "64"], ["--seqlen", "1"]):
            result = subprocess.run([sys.executable, os.path.join(LAUNCH, "export_model.py"), self.model, "--out", self.out, *options],
                                    capture_output=True, text=True)
            self.assertEqual(result.returncode, 2)
            self.assertNotIn("Traceback", result.stderr)
        self.assertIn("--seqlen", result.stderr)


class PieceTest(unittest.TestCase):
    def test_causal_masks(self):
        causal = torch.ones(8, 8, dtype=torch.bool).tril()
        window = causal & torch.ones(8, 8, dtype=torch.bool).triu(-2)
        self.assertEqual(operators.causal_window(causal[None, None]), 0)
        self.assertEqual(operators.causal_window(window[None, None]), 3)
        added = torch.zeros(8, 8).masked_fill(~window, torch.finfo(torch.float32).min)
        self.assertEqual(operators.causal_window(added[None, None]), 3)
        for other in (torch.ones(8, 8, dtype=torch.bool), window.clone().fill_diagonal_(False), added * 0.5 + 1,
                      torch.stack([causal, window]), torch.zeros(8, 8, dtype=torch.bool), torch.zeros(3)):
            self.assertIsNone(operators.causal_window(other))

    def test_small_siblings_keep_what_matters(self):
        config = CONFIG_MAPPING["qwen3_moe"](num_attention_heads=64, num_key_value_heads=4, num_hidden_layers=94, sliding_window=4096,
                                             mlp_only_layers=[0, 5], norm_topk_prob=True)
        small = shrink.shrink(config, 2048)
        self.assertEqual((small.num_hidden_layers, small.mlp_only_layers, small.norm_topk_prob), (94, [0, 5], True))
        self.assertEqual((small.hidden_size, small.num_attention_heads, small.num_key_value_heads), (64, 4, 2))
        self.assertEqual(config.hidden_size, 2048)  # the original is not changed

    def test_operators_of_experts(self):
        """Rows of no expert (indices past the last) come out as zeros and hurt nothing."""
        torch.manual_seed(0)
        x, weight = torch.randn(5, 4), torch.randn(3, 6, 4)
        index = torch.tensor([[0, 2], [2, 3], [1, 0], [2, 1], [3, 3]])
        rows, ends, order = operators.compute_dispatch(x, index, 3)
        out = operators.compute_expert_linear(rows, weight, None, ends, False)
        got = operators.compute_combine(out, torch.ones(5, 2), order)
        want = torch.stack([sum((weight[e] @ x[t] for e in index[t].tolist() if e < 3), torch.zeros(6)) for t in range(5)])
        self.assertTrue(torch.allclose(got, want, atol=1e-5))

    def test_a_part_of_each_head_that_is_rotated(self):
        """mistral4 says which part; the sizes of both parts shrink."""
        values = dict(qk_rope_head_dim=64, qk_nope_head_dim=64, kv_lora_rank=256, head_dim=128,
                      rope_parameters={"partial_rotary_factor": 0.5})
        self.assertEqual(shrink.smaller_values(values, 32)["rope_parameters"]["partial_rotary_factor"], 8 / 24)
        values["rope_parameters"]["partial_rotary_factor"] = 0.25  # it is of something else
        self.assertEqual(shrink.smaller_values(values, 32)["rope_parameters"]["partial_rotary_factor"], 0.25)

    def test_tensors_on_disk_in_another_form(self):
        """mistral_large4's vision part is written in another order of rows: it is copied, so its name is enough."""
        def on_disk(model, tensors):
            return {f"disk.{name}": t * 2 if name == "vision" else t for name, t in tensors.items()}
        shapes = {"vision": (4, 2), "text": (2, 2)}
        model = types.SimpleNamespace(config=CONFIG_MAPPING["llama"]())
        with unittest.mock.patch.object(disk_names, "revert_weight_conversion", on_disk):
            found = disk_names.slices_of(model, shapes, "here", {"text"})
            self.assertEqual([(piece.name, piece.parameter) for piece in found], [("disk.vision", None), ("disk.text", "text")])
            for used in (None, {"vision"}):
                with self.assertRaisesRegex(BadInput, "here: the tensor disk.vision on disk is no slice of one parameter"):
                    disk_names.slices_of(model, shapes, "here", used)

    def test_a_part_that_writes_is_run_in_order(self):
        class Writes(torch.nn.Module):
            def forward(self, *inputs):
                out = torch.empty_like(inputs[0])
                out[:, :1] = inputs[0][:, 1:2]
                out[:, 1:] = 2.0
                return (out,)
        program = trace.trace(Writes(), [torch.randn(3, 4)], trace.ANY_BATCH)
        module, inputs = lower.lower(program, "layer.")
        encoder = Encoder(module, inputs, [("hidden",)], [("hidden",)]).run()
        x = torch.randn(2, 4)
        self.assertTrue(torch.equal(interpret.run(encoder.result(), encoder.constants, x)[0], Writes()(x)[0]))


if __name__ == "__main__":
    unittest.main()
