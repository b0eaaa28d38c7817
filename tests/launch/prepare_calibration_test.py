"""launch/prepare_calibration.py: kinds of files, which samples are taken, and what is refused."""

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
import unittest

from calibration_case import BOS, EOS, WORDS, CalibrationCase, document, ids, make_model
from safetensors import safe_open

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "launch", "prepare_calibration.py")


class PrepareCalibrationTest(CalibrationCase):
    # --- what is read

    def test_each_kind_of_file_gives_the_same_tokens(self):
        documents = [document(10 * i, 12) for i in range(3)]
        expected = self.tokens(self.jsonl("a.jsonl", documents))
        self.assertEqual(sorted(expected), sorted(ids(10 * i, 8) for i in range(3)))
        self.assertEqual(self.tokens(self.jsonl("a.jsonl.gz", documents)), expected)
        self.assertEqual(self.tokens(self.write("lines.jsonl", "\n".join(json.dumps(d) for d in documents) + "\n\n")),
                         expected)
        self.assertEqual(self.tokens(self.write("a.json", json.dumps(documents))), expected)
        self.assertEqual(self.tokens(self.write("o.json", json.dumps([{"text": d, "id": 1} for d in documents]))), expected)
        self.assertEqual(self.tokens(self.write("a.json.gz", json.dumps(documents))), expected)
        self.assertEqual(self.tokens(self.write("UPPER.JSONL", "\n".join(json.dumps(d) for d in documents))), expected)
        os.rename(self.path("a.jsonl.gz"), self.path("A.JSONL.GZ"))
        self.assertEqual(self.tokens(self.path("A.JSONL.GZ")), expected)
        self.assertEqual(self.tokens(self.write("a.csv", "id,text\n" + "".join(f"{i},{d}\n" for i, d in enumerate(documents)))),
                         expected)
        texts = [self.write(f"{i}.txt", d) for i, d in enumerate(documents[:2])]
        texts.append(self.write("2.txt.gz", documents[2]))
        self.assertEqual(self.tokens(*texts), expected)

    def test_a_directory_stands_for_its_split(self):
        os.makedirs(self.path("set/data/validation"))
        train = [document(10 * i, 12) for i in range(2)]
        self.jsonl("set/data/train-00001-of-00002.jsonl", train[1:])
        self.jsonl("set/data/train-00000-of-00002.jsonl.gz", train[:1])
        self.jsonl("set/data/trainers.jsonl", [document(90, 12)])
        self.write("set/data/validation/part.txt", document(50, 12))
        self.write("set/README.md", "train")
        expected = self.tokens(self.jsonl("train.jsonl", train), n_samples=2)
        self.assertEqual(self.tokens(self.path("set"), n_samples=2), expected)
        self.assertEqual(self.metadata["source"], "set")
        self.assertEqual(self.tokens(self.path("set") + "/", n_samples=1, more=["--dataset-split", "validation"]),
                         [ids(50, 8)])
        os.remove(self.out)
        self.assert_fails(self.start(self.path("set"), more=["--dataset-split", "test"]), "no files of the split 'test'",
                          "validation")

    def test_metadata_says_where_the_tokens_come_from(self):
        self.tokens(self.jsonl("a.jsonl", [document(i, 9) for i in range(3)]), self.jsonl("b.jsonl", []))
        with open(os.path.join(self.model, "tokenizer.json"), "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        self.assertEqual(self.metadata, {"format": "roundtable.tokens", "version": "1", "tokenizer_sha256": digest,
                                         "vocab_size": str(WORDS + 2), "source": "a.jsonl, b.jsonl", "seed": "42",
                                         "sampling": "truncate"})

    # --- which samples are taken

    def test_shorter_documents_are_dropped_and_longer_cut(self):
        text = self.jsonl("a.jsonl", [document(0, 7), document(20, 8), document(40, 30), "", document(60, 1)])
        self.assertEqual(sorted(self.tokens(text, n_samples=2)), [ids(20, 8), ids(40, 8)])
        os.remove(self.out)
        self.assert_fails(self.start(text, n_samples=3), "2 samples of 8 tokens", "3", "--n-samples 2", "--concat")

    def test_samples_of_one_token_are_dropped(self):
        text = self.jsonl("a.jsonl", ["w1 w2 w3 " + "w5 " * 5, "w1 w2 w3 w4 " + "w5 " * 4])
        self.assertEqual(self.tokens(text, n_samples=1), [[3, 4, 5, 6, 7, 7, 7, 7]])

    def test_allow_fewer(self):
        text = self.jsonl("a.jsonl", [document(0, 9)])
        self.assertEqual(self.tokens(text, n_samples=5, more=["--allow-fewer"]), [ids(0, 8)])
        os.remove(self.out)
        self.assert_fails(self.start(text, seqlen=99, more=["--allow-fewer"]), "0 samples")

    def test_the_seed_sets_the_order(self):
        text = self.jsonl("a.jsonl", [document(5 * i, 9) for i in range(30)])
        expected = list(range(30))
        random.Random(42).shuffle(expected)
        samples = self.tokens(text, n_samples=10)
        self.assertEqual(samples, [ids(5 * i, 8) for i in expected[:10]])
        other = self.tokens(text, n_samples=10, more=["--seed", "7"], out=self.path("other.safetensors"))
        self.assertNotEqual(samples, other)

    def test_the_same_input_gives_the_same_bytes(self):
        text = self.jsonl("a.jsonl", [document(5 * i, 9) for i in range(30)])
        contents = set()
        for name in ("x.safetensors", "y.safetensors", "z.safetensors"):
            self.tokens(text, out=self.path(name))
            with open(self.path(name), "rb") as f:
                contents.add(f.read())
        self.assertEqual(len(contents), 1)

    def test_concat_joins_documents_with_eos_and_cuts_the_stream(self):
        documents = [document(20 * i, 5) for i in range(5)]
        stream = []
        for i in range(5):
            stream += ([EOS] if i else []) + ids(20 * i, 5)  # 29 tokens: 3 pieces of 8 and a rest
        text = self.jsonl("a.jsonl", documents)
        samples = self.tokens(text, n_samples=3, more=["--concat"])
        self.assertEqual(sorted(samples), sorted(stream[i:i + 8] for i in (0, 8, 16)))
        self.assertEqual(self.metadata["sampling"], "concat")
        os.remove(self.out)
        self.assert_fails(self.start(text, n_samples=4, more=["--concat"]), "3 samples")

    def test_concat_starts_every_piece_as_the_tokenizer_starts_a_text(self):
        make_model(self.model, bos=True)
        samples = self.tokens(self.write("a.txt", document(0, 21)), n_samples=3, more=["--concat"])
        self.assertEqual(sorted(samples), [[BOS] + ids(7 * i, 7) for i in range(3)])
        self.assertEqual(self.tokens(self.write("a.txt", document(0, 21)), n_samples=1), [[BOS] + ids(0, 7)])

    # --- bad input

    def test_bad_files(self):
        good = self.jsonl("good.jsonl", [document(i, 9) for i in range(3)])
        cases = [
            (self.path("nowhere.txt"), ["nowhere.txt: no such file"]),
            (self.write("bad.jsonl", '{"text": "w1"}\n\n{"text": \n'), ["bad.jsonl:3: not JSON"]),
            (self.write("key.jsonl", '{"text": "w1"}\n{"txt": "w1"}\n'), ["key.jsonl:2", '"text"']),
            (self.write("number.jsonl", '{"text": 3}\n'), ["number.jsonl:1"]),
            (self.write("bad.json", '["w1",\n"w2"\n"w3"]'), ["bad.json:3: not JSON"]),
            (self.write("lines.json", '{"text": "w1"}\n{"text": "w2"}\n'), ["lines.json: must hold a list", ".jsonl"]),
            (self.write("object.json", '{"text": "w1"}'), ["object.json: must hold a list"]),
            (self.write("item.json", '["w1", 2]'), ["item.json: item 1"]),
            (self.write("tail.json", '["w1"]\n{}'), ["tail.json:2: not JSON: Extra data at column 1"]),
            (self.write("torn.json", '["w1", "w2'), ["torn.json:1: not JSON: Unterminated string"]),
            (self.write("a.docx", "w1"), ["a.docx", ".jsonl"]),
            (self.write("none.csv", "id,content\n1,w1\n"), ["none.csv:2", 'no "text", only "id", "content"', "--text-key"]),
            (self.write("deep.jsonl", "[" * 100000), ["deep.jsonl:1: not JSON: it is nested too deeply"]),
            (self.write("digits.jsonl", '{"id": ' + "1" * 5000 + "}"), ["digits.jsonl:1: not JSON"]),
            (self.write("half.jsonl", '{"text": "w1 \\ud800"}'), ["half.jsonl:1: half of a surrogate pair"]),
        ]
        cases += [
            (self.write_bytes("latin.txt", b"w1\nw2 caf\xe9 w1"), ["latin.txt:2: not UTF-8 (byte 9 of the file)", "iconv"]),
            (self.write_bytes("latin.jsonl", b'{"text": "w1"}\n{"text": "\xe9"}'), ["latin.jsonl:2: not UTF-8 (byte 10 of the line)"]),
            (self.write_bytes("latin.csv", b"text\nw1\n\xe9"), ["latin.csv:3: not UTF-8 (byte 8 of the file)"]),
            (self.write_bytes("wide.txt", "w1".encode("utf-16")), ["wide.txt:1: not UTF-8, but UTF-16 (byte 0"]),
            (self.write_bytes("cut.txt", "w1 \u20ac".encode()[:-1]), ["cut.txt:1: not UTF-8 (byte 3 of the file)"]),
            (self.write_bytes("fake.txt.gz", b"not compressed"), ["fake.txt.gz: not a whole gzip file"]),
        ]
        whole = self.write("whole.txt.gz", document(0, 150))
        with open(whole, "rb") as f, open(self.path("torn.txt.gz"), "wb") as g:
            g.write(f.read()[:-12])
        cases.append((self.path("torn.txt.gz"), ["torn.txt.gz: not a whole gzip file"]))
        for path, parts in cases:
            with self.subTest(os.path.basename(path)):
                self.assert_fails(self.start(good, path), *parts)

    def test_bad_model(self):
        text = self.jsonl("a.jsonl", [document(i, 9) for i in range(3)])
        make_model(self.model, vocab_size=5)
        self.assert_fails(self.start(text), "vocab_size 5")
        make_model(self.model, eos_token_id=None)
        self.assert_fails(self.start(text, more=["--concat"]), "eos_token_id")
        self.assert_fails(self.start(text, seqlen=0), "--seqlen must be at least 1")
        with open(os.path.join(self.model, "tokenizer.json"), "w", encoding="utf-8") as f:
            f.write("{}")
        self.assert_fails(self.start(text), "tokenizer.json: not a tokenizer")
        os.remove(os.path.join(self.model, "tokenizer.json"))
        self.assert_fails(self.start(text), "tokenizer.json: no such file")
        self.model = self.path("absent")
        self.assert_fails(self.start(text), "absent: no such model directory")

    def test_the_script_itself(self):
        """As users start it: in a process of its own."""
        text = self.jsonl("a.jsonl", [document(i, 9) for i in range(3)])
        expected = self.tokens(text)
        command = [sys.executable, SCRIPT, "--model", self.model, "--text", text, "--seqlen", "8", "--n-samples"]
        done = subprocess.run([*command, "3", "--out", self.out], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with safe_open(self.out, "np") as f:
            self.assertEqual(f.get_tensor("input_ids").tolist(), expected)
        done = subprocess.run([*command, "three", "--out", self.out], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)

    def test_a_failure_leaves_the_token_set_that_was_there(self):
        text = self.jsonl("a.jsonl", [document(i, 9) for i in range(3)])
        before = self.tokens(text)
        self.assertEqual(self.start(text, n_samples=4).returncode, 2)
        with safe_open(self.out, "np") as f:
            self.assertEqual(f.get_tensor("input_ids").tolist(), before)


if __name__ == "__main__":
    unittest.main()
