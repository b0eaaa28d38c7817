"""Mixed bits by budget (quantization.auto_scheme): scores on any number of ranks, kept for other budgets and after a kill,
and a choice that a run keeps to."""

import json
import pathlib
import tempfile
import unittest

import torch
import transformers
from safetensors.torch import load_file

import program
import tiny_model

OPTIONS = ["w2g32", "w4g32", "w8g32"]


def budget(bits, options=OPTIONS, **more):
    return json.dumps({"avg_bits": bits, "options": options, "nsamples": 8, "batch_size": 2} | more)


def scores(folder):
    """Option -> what its file holds."""
    files = [json.loads(path.read_text()) for path in pathlib.Path(folder).glob("scores-*.json")]
    return {file["option"]: file for file in files}


def flat(file):
    return torch.tensor([score for block in file["scores"] for score in block], dtype=torch.float64)


def rounded(weight, bits, group=32):
    """auto-round's symmetric grid with its full range, and scales in fp16."""
    groups = weight.float().reshape(weight.shape[0], -1, group)
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    levels = 2 ** (bits - 1)
    sign = torch.where(high < -low, 1.0, -1.0)
    scale = (sign * torch.maximum(-low, high) / levels).half().float()
    return (scale * (groups / scale).round().clamp(-levels, levels - 1)).reshape(weight.shape)


def plain_scores(model_path, ids, bits, batch_size):
    """The same by autograd through the whole model of transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    linears = {name: module for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)}
    lost = {}
    for name, module in linears.items():
        original = module.weight.detach().clone()
        module.weight.data = rounded(original, bits)
        lost[name] = original - module.weight.detach()
    sums, losses = dict.fromkeys(linears, 0.0), []
    for batch in torch.tensor(ids).long().split(batch_size):
        model.zero_grad()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        losses.append(loss.item())
        for name, module in linears.items():
            sums[name] += (module.weight.grad * lost[name]).abs().double().sum().item()
    return sums, sum(losses) / len(losses)


class SchemeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.keep = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.keep.name)
        cls.settings = tiny_model.make_inputs(cls.folder, rows=8, seqlen=16) | {
            "tuning.iters": 2, "tuning.amp": False, "parallel.stages": 1, "output.formats": ["auto_round", "llm_compressor"],
            "quantization.auto_scheme": json.loads(budget(3.9))}
        cls.config = program.write_config(cls.folder / "config.yaml", cls.settings)

    @classmethod
    def tearDownClass(cls):
        cls.keep.cleanup()

    def call(self, command, out, ranks=1, code=0, *settings, **environment):
        arguments = [command, self.config, "--set", f"output.path={self.folder / out}"]
        for setting in settings:
            arguments += ["--set", setting]
        if command == "scheme":
            arguments += ["--json"]
        result = program.run(arguments, ranks, **environment)
        self.assertEqual(result.code, code, result)
        return result

    def test_scores_are_those_of_autograd_on_any_ranks(self):
        one = self.call("scheme", "one").json
        for ranks in (2, 4):
            self.assertEqual(self.call("scheme", f"on{ranks}", ranks).json, one)
            for option, file in scores(self.folder / f"on{ranks}.run").items():
                torch.testing.assert_close(flat(file), flat(scores(self.folder / "one.run")[option]), rtol=1e-6, atol=0)
        files = scores(self.folder / "one.run")
        self.assertEqual(sorted(files), OPTIONS)
        ids = load_file(self.folder / "tokens.safetensors")["input_ids"].numpy()
        for option in OPTIONS:
            sums, loss = plain_scores(self.folder / "model", ids, int(option[1]), 2)
            self.assertAlmostEqual(files[option]["loss"], loss, delta=1e-5 * loss)
            block = [f"layers.{b}.{part}" for b in range(len(files[option]["scores"])) for part in
                     ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                      "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
            expected = torch.tensor([sums[name] for name in block], dtype=torch.float64)
            torch.testing.assert_close(flat(files[option]), expected, rtol=1e-4, atol=0)
        # What is printed, and what engines need.
        self.assertLessEqual(one["mean_bits"], 3.9)
        for b in range(len(files["w2g32"]["scores"])):
            at = f"model.layers.{b}."
            self.assertEqual(len({one["layers"][f"{at}self_attn.{p}_proj"] for p in "qkv"}), 1)
            self.assertEqual(one["layers"][f"{at}mlp.gate_proj"], one["layers"][f"{at}mlp.up_proj"])

    def test_a_kill_loses_one_option_and_another_budget_none(self):
        undisturbed = self.call("quantize", "whole", 2)
        self.assertRegex(undisturbed.out, r"auto_scheme  3\.\d+ bits in the mean: w2g32 \d+ layers, w4g32")
        run, log = self.folder / "killed.run", self.folder / "fault.log"
        job = program.start(program.quantize_command(self.config, self.folder / "killed"), 2,
                            **program.fault("0:fsync:2:hang:/killed.run/scores-", log))
        program.wait_for(log.exists, job)
        program.kill(job)
        done = {path: path.stat().st_mtime_ns for path in run.glob("scores-*.json")}
        self.assertEqual(list(scores(run)), ["w2g32"])
        self.assertFalse((run / "journal").exists())
        result = self.call("quantize", "killed", 2)
        self.assertEqual(re_scored(result.err), ["w4g32", "w8g32"])
        self.assertEqual({path: path.stat().st_mtime_ns for path in done}, done)
        self.assertEqual(program.digests(self.folder / "killed"), program.digests(self.folder / "whole"))
        self.check_card_and_readers()
        # A choice on record stays, without scores too; another one is refused, before anything is scored.
        (self.folder / "cache").mkdir()
        for path in run.glob("scores-*.json"):
            path.rename(self.folder / "cache" / path.name)
        self.assertRegex(self.call("plan", "killed").out, r"auto_scheme  w2g32 \d+ layers, .*; 3\.\d+ bits in the mean")
        other = self.call("quantize", "killed", 1, 2, f"quantization.auto_scheme={budget(5)}")
        self.assertIn("differs in: quantization.auto_scheme", other.errors[0])
        self.assertFalse(scores(run))
        # Another budget and one more option, of another run that shares the folder of scores.
        cache = f"calibration.cache={self.folder / 'cache'}"
        self.assertIn("w8g32 ", self.call("plan", "other", 1, 0, cache, f"quantization.auto_scheme={budget(5)}").out)
        more = self.call("scheme", "other", 1, 0, cache,
                         f"quantization.auto_scheme={budget(5, OPTIONS + ['w3g32-asym', 'bf16'])}")
        self.assertGreater(more.json["mean_bits"], 4.5)
        self.assertEqual(re_scored(more.err), ["w3g32-asym"])

    def check_card_and_readers(self):
        """The card names the choice, and both formats give the same model."""
        card = (self.folder / "whole" / "README.md").read_text()
        self.assertIn("bits in the mean with scales and zero points: w2g32 in", card)
        written = json.loads((self.folder / "whole" / "config.json").read_text())["quantization_config"]
        self.assertTrue(written["extra_config"])
        perplexity = []
        for folder in ("whole", "whole/llm_compressor"):
            result = program.run(["eval", self.config, "--json", "--set", f"model.path={self.folder / folder}",
                                  "--set", f"run.eval_tokens={self.folder / 'tokens.safetensors'}"])
            self.assertEqual(result.code, 0, result)
            perplexity.append(result.json["perplexity"])
        self.assertEqual(perplexity[0], perplexity[1])

    def test_what_cannot_be(self):
        for command, value, words in (
                ("plan", budget(1.5), "quantization.auto_scheme: avg_bits 1.5 is out of reach"),
                ("quantize", budget(3.9, ["w4g32", "mxfp4"]), "option mxfp4 has weights of data_type mx_fp"),
                ("scheme", "{}", "quantization.auto_scheme: is not set")):
            result = self.call(command, "refused", 1, 2, f"quantization.auto_scheme={value}")
            self.assertEqual(len(result.errors), 1, result)
            self.assertIn(words, result.errors[0])
        self.assertFalse((self.folder / "refused.run").exists())
        self.assertIn("not yet chosen", self.call("plan", "refused").out)


def re_scored(err):
    """Options that a start has scored, by its lines of progress: "scheme w2g32: 4 blocks"."""
    return [line.split(":")[0].split()[1] for line in err.splitlines()
            if line.startswith("scheme ") and line.endswith(" blocks")]


if __name__ == "__main__":
    unittest.main()
