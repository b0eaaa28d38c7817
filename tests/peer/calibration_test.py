"""launch/prepare_calibration.py against auto-round's own loader: the same documents, cut, dropped and shuffled.

Parquet too, which only this environment can write.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import pyarrow
import tiny_model
import transformers
from auto_round.calib_dataset import get_dataloader
from pyarrow import parquet
from safetensors.numpy import load_file

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "prepare_calibration.py"
SEQLEN, N_SAMPLES = 16, 20


def documents():
    """60 documents: many too short, some mostly of one word."""
    chance = random.Random(3)
    texts = []
    for i in range(60):
        words = [f"w{chance.randrange(3, tiny_model.VOCAB)}" for _ in range(chance.randrange(4, 40))]
        if i % 7 == 0:
            words = words[:3] + ["w9"] * 30
        texts.append(" ".join(words))
    return texts


class CalibrationTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.model = self.folder / "model"
        tiny_model.save_tokenizer(self.model)
        (self.model / "config.json").write_text(json.dumps({"vocab_size": tiny_model.VOCAB, "eos_token_id": 2}))
        self.texts = documents()

    def ours(self, text, *more):
        out = self.folder / "tokens.safetensors"
        result = subprocess.run([sys.executable, SCRIPT, "--model", self.model, "--text", text, "--seqlen", str(SEQLEN),
                                 "--n-samples", str(N_SAMPLES), "--out", out, *more], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        return load_file(out)["input_ids"].tolist()

    def theirs(self, path):
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(self.model)
        loader = get_dataloader(tokenizer, SEQLEN, dataset_name=str(path), seed=42, bs=1, nsamples=N_SAMPLES)
        samples = [row for batch in loader for row in batch["input_ids"].tolist()]
        return [row for row in samples if len(row) == SEQLEN][:N_SAMPLES]

    def test_the_same_samples_in_the_same_order(self):
        path = self.folder / "corpus.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in self.texts))
        ours, theirs = self.ours(path), self.theirs(path)
        self.assertEqual(len(ours), N_SAMPLES)
        self.assertEqual(ours, theirs)

    def test_parquet(self):
        path = self.folder / "corpus.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in self.texts))
        table = self.folder / "set" / "data" / "train-00000-of-00001.parquet"
        table.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.table({"id": list(range(60)), "text": self.texts}), table, row_group_size=25)
        expected = self.ours(path)
        self.assertEqual(self.ours(table), expected)
        self.assertEqual(self.ours(self.folder / "set"), expected)
        parquet.write_table(pyarrow.table({"content": self.texts}), table)
        fake = self.folder / "fake.parquet"
        fake.write_text("no table")
        for text, words in ((table, 'no column "text", only content'), (fake, "not a parquet file")):
            result = subprocess.run([sys.executable, SCRIPT, "--model", self.model, "--text", text, "--seqlen", "8",
                                     "--n-samples", "1", "--out", self.folder / "x"], capture_output=True, text=True)
            self.assertEqual(result.returncode, 1)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertIn(words, result.stderr)


if __name__ == "__main__":
    unittest.main()
