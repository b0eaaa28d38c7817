"""launch/prepare_calibration.py against auto-round's own loader: the same documents, cut, dropped and shuffled.

Parquet and zstd too, which only this environment can write.
"""

import json
import os
import pathlib
import random
import sys
import tempfile
import unittest

os.environ["CUDA_VISIBLE_DEVICES"] = ""
TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "e2e"), str(TESTS / "launch")]

import pyarrow
import tiny_model
import transformers
from auto_round.calib_dataset import get_dataloader
from calibration_case import call
from pyarrow import parquet
from safetensors.numpy import load_file

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
        result = call("--model", self.model, "--text", text, "--seqlen", SEQLEN, "--n-samples", N_SAMPLES, "--out", out, *more)
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

    def refuse(self, text, words):
        result = call("--model", self.model, "--text", text, "--seqlen", 8, "--n-samples", 1, "--out", self.folder / "x")
        self.assertEqual(result.returncode, 2)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertIn(words, result.stderr)

    def test_zstd(self):
        path = self.folder / "corpus.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in self.texts))
        packed = self.folder / "corpus.jsonl.ZST"
        half = path.read_bytes()[:1000], path.read_bytes()[1000:]
        with open(packed, "wb") as file:  # two frames, as those who append write it
            for part in half:
                file.write(pyarrow.compress(part, codec="zstd", asbytes=True))
        self.assertEqual(self.ours(packed), self.ours(path))
        packed.write_bytes(packed.read_bytes()[:-9])
        self.refuse(packed, "not a whole zstd file")
        packed.write_bytes(b"no frame of zstd")
        self.refuse(packed, "not a whole zstd file")

    def test_conversations_in_parquet(self):
        path, table = self.folder / "chats.jsonl", self.folder / "chats.parquet"
        chats = [[{"role": "user", "content": text, "name": None}] for text in self.texts]
        path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
        parquet.write_table(pyarrow.table({"id": list(range(60)), "messages": chats}), table)
        (self.model / "chat_template.jinja").write_text(
            "{% for m in messages %}{% if m.name is defined %}{{ raise_exception('name') }}{% endif %}"
            "<s> {{ m.content }} </s>{% endfor %}")
        self.assertEqual(self.ours(table, "--chat-template"), self.ours(path, "--chat-template"))

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
        self.refuse(table, 'no column "text", only content')
        self.refuse(fake, "not a parquet file")


if __name__ == "__main__":
    unittest.main()
