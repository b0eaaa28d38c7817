"""Scores of auto_scheme, and the choice that they lead to, against auto-round's own functions on the same tokens."""

import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import program
import tiny_model
import torch
import transformers
from auto_round.auto_scheme import delta_loss
from auto_round.auto_scheme.utils import apply_quant_scheme, remove_quant_scheme
from auto_round.schemes import QuantizationScheme
from auto_round.utils import get_module
from safetensors.torch import load_file

OPTIONS = {"w2g32": (2, 32, True), "w4g32-asym": (4, 32, False), "w8g-1": (8, -1, True)}
BATCH, BUDGET = 2, 4.6


def their_scheme(word):
    bits, group_size, sym = OPTIONS[word]
    return dataclasses.asdict(QuantizationScheme(bits=bits, group_size=group_size, sym=sym, data_type="int", act_bits=16))


class SchemeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        keep = tempfile.TemporaryDirectory()
        cls.addClassCleanup(keep.cleanup)
        folder = pathlib.Path(keep.name)
        settings = tiny_model.make_inputs(folder, rows=8, seqlen=16) | {
            "tuning.amp": False, "output.path": str(folder / "out"),
            "output.formats": ["auto_round"], "quantization.auto_scheme": {
                "avg_bits": BUDGET, "options": list(OPTIONS), "nsamples": 8, "batch_size": BATCH}}
        result = program.run(["scheme", program.write_config(folder / "config.yaml", settings), "--json"])
        assert result.code == 0, result
        cls.ours = result.json
        files = [json.loads(path.read_text()) for path in (folder / "out.run").glob("scores-*.json")]
        cls.scores = {file["option"]: [score for block in file["scores"] for score in block] for file in files}
        cls.ids = load_file(folder / "tokens.safetensors")["input_ids"].long()
        cls.model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        cls.names = [f"model.layers.{block}.{part}" for block in range(len(files[0]["scores"])) for part in
                     ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                      "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]

    def their_scores(self, word):
        apply_quant_scheme(self.model, self.names, {}, their_scheme(word))
        loader = [{"input_ids": batch, "attention_mask": torch.ones_like(batch)} for batch in self.ids.split(BATCH)]
        before, delta_loss.get_dataloader = delta_loss.get_dataloader, lambda *a, **k: loader
        try:
            found = delta_loss.get_score_for_scheme(
                self.model, None, self.names, {}, "ours", nsamples=len(self.ids), seqlen=self.ids.shape[1],
                need_weight_grad=True, enable_torch_compile=False, low_gpu_mem_usage=True, major_device="cpu",
                batch_size=BATCH)
        finally:
            delta_loss.get_dataloader = before
            remove_quant_scheme(self.model)
        return found

    def test_scores_bits_and_the_choice(self):
        theirs = {word: self.their_scores(word) for word in OPTIONS}
        for word, scores in self.scores.items():
            expected = torch.tensor([theirs[word][name][1] for name in self.names])
            torch.testing.assert_close(torch.tensor(scores), expected, rtol=1e-4, atol=0)
        # Their programme, with the layers tied that engines make one of.
        ties = [[f"model.layers.{block}.{part}" for part in parts] for block in range(len(self.names) // 7) for parts in
                (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",),
                 ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))]
        layers = {tie[0]: [(word, sum(theirs[word][name][0] for name in tie), sum(theirs[word][name][1] for name in tie), tie)
                           for word in OPTIONS] for tie in ties}
        weights = sum(get_module(self.model, name).weight.numel() for name in self.names)
        _, path = delta_loss.choose_bits_per_layer_with_path(layers, int(BUDGET * weights))
        choice = {name: word for tie, word in path for name in tie}
        self.assertEqual(self.ours["layers"], choice)
        bits = sum(theirs[choice[name]][name][0] for name in self.names)
        self.assertAlmostEqual(self.ours["mean_bits"], bits / weights, places=9)


if __name__ == "__main__":
    unittest.main()
