"""What the tests of launch/prepare_calibration.py share: a tokenizer of 200 words, and calls of the script in this process."""

import contextlib
import gzip
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "launch"))
import prepare_calibration
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers, processors

EOS, BOS, WORDS = 0, 1, 200  # token i + 2 is word "wi"


def make_model(directory, vocab_size=WORDS + 2, bos=False, **config):
    vocab = {"</s>": EOS, "<s>": BOS, **{f"w{i}": i + 2 for i in range(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
        json.dump({"vocab_size": vocab_size, "eos_token_id": EOS, **config}, f)


def document(start, length):
    """Words start, start + 1, ... : each document is told by its first token."""
    return " ".join(f"w{(start + i) % WORDS}" for i in range(length))


def ids(start, length):
    return [(start + i) % WORDS + 2 for i in range(length)]


class Done:
    def __init__(self, returncode, stdout, stderr):
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


def call(*arguments):
    """The script, in this process: loading transformers takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = prepare_calibration.main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code
    return Done(code, out.getvalue(), err.getvalue())


class CalibrationCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.model = self.path("model")
        os.mkdir(self.model)
        make_model(self.model)
        self.out = self.path("tokens.safetensors")

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, content):
        opener = gzip.open if name.endswith(".gz") else open
        with opener(self.path(name), "wt", encoding="utf-8") as f:
            f.write(content)
        return self.path(name)

    def write_bytes(self, name, content):
        with open(self.path(name), "wb") as f:
            f.write(content)
        return self.path(name)

    def jsonl(self, name, documents):
        return self.write(name, "".join(json.dumps({"text": d}) + "\n" for d in documents))

    def start(self, *text, seqlen=8, n_samples=3, out=None, more=()):
        return call("--model", self.model, "--text", *text, "--seqlen", seqlen, "--n-samples", n_samples,
                    "--out", out or self.out, *more)

    def tokens(self, *text, **arguments):
        result = self.start(*text, **arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.warnings = result.stderr
        with safe_open(arguments.get("out") or self.out, "np") as f:
            self.assertEqual(list(f.keys()), ["input_ids"])
            self.metadata = f.metadata()
            tensor = f.get_tensor("input_ids")
        self.assertEqual(tensor.dtype, "int32")
        return tensor.tolist()

    def assert_fails(self, result, *parts, code=2):
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertTrue(result.stderr.startswith("error: "), result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)
        self.assertFalse(os.path.exists(self.out))
        self.assertEqual([n for n in os.listdir(self.folder.name) if ".tmp." in n], [])
