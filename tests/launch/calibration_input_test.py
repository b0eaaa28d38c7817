"""launch/prepare_calibration.py: what real files hold (byte order marks, CRLF, null, conversations), AutoTokenizer's ids,
text that does not fit into memory, warnings, and files that are not overwritten."""

import json
import os
import random
import resource
import sys
import unittest
from unittest import mock

from calibration_case import BOS, CalibrationCase, call, document, ids, make_model
from calibration import corpus, files, readers, tokenizer
from calibration.documents import Texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

TEMPLATE = ("{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant', 'tool'] %}"
            "{{ raise_exception('no role ' + m.role) }}{% endif %}"
            "<s> {{ {'system': 'w90', 'user': 'w91', 'assistant': 'w92', 'tool': 'w93'}[m.role] }} {{ m.content }} </s> "
            "{% endfor %}")


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f)


class TextTest(CalibrationCase):
    def test_a_byte_order_mark_and_crlf_are_no_text(self):
        expected = self.tokens(self.write("a.txt", "w1 w2\nw3 w4"), seqlen=4, n_samples=1)
        make_character_model(self.model)
        characters = [self.tokens(self.write("a.txt", "w1 w2\nw3 w4"), seqlen=11, n_samples=1)]
        for content in ("\ufeffw1 w2\nw3 w4", "w1 w2\r\nw3 w4", "\ufeffw1 w2\r\nw3 w4"):
            path = self.write_bytes("b.txt", content.encode())
            self.assertEqual([self.tokens(path, seqlen=11, n_samples=1)], characters)
        make_model(self.model)
        row = '{"text": "w1 w2 w3 w4"}'
        for name, content in (("a.jsonl", f"\ufeff{row}\r\n"), ("a.json", f"\ufeff[{row}]\r\n"),
                              ("a.csv", "\ufefftext,id\r\nw1 w2 w3 w4,1\r\n"), ("a.jsonl.gz", f"\ufeff{row}\n")):
            self.assertEqual(self.tokens(self.write(name, content), seqlen=4, n_samples=1), expected, name)

    def test_documents_without_text_are_left_out_with_a_warning(self):
        good = [{"text": document(10 * i, 9)} for i in range(3)]
        expected = self.tokens(self.write("good.json", json.dumps(good)))
        self.assertEqual(self.warnings, "")
        items = [good[0], {"text": None}, {"text": ""}, good[1], good[2], {"text": None, "id": 1}]
        for path in (self.write("a.json", json.dumps(items)), self.write("a.jsonl", "\n".join(map(json.dumps, items)))):
            self.assertEqual(self.tokens(path), expected)
            self.assertEqual(self.warnings, "warning: documents that were left out, because they have no text (null): 2\n")

    def test_text_key(self):
        documents = [document(10 * i, 9) for i in range(3)]
        expected = self.tokens(self.jsonl("text.jsonl", documents))
        path = self.write("a.jsonl", "\n".join(json.dumps({"id": "w1", "content": d}) for d in documents))
        self.assertEqual(self.tokens(path, more=["--text-key", "content"]), expected)
        table = self.write("a.csv", "id,content\n" + "".join(f'1,"{d}\n"\n' for d in documents))
        self.assertEqual(self.tokens(table, more=["--text-key", "content"]), expected)
        os.remove(self.out)
        self.assert_fails(self.start(path), 'a.jsonl:1: no "text", only "id", "content"', "--text-key")
        self.assert_fails(self.start(self.write("chat.jsonl", '{"messages": []}')), 'only "messages"', "--chat-template")


class ChatTest(CalibrationCase):
    def setUp(self):
        super().setUp()
        make_model(self.model, bos=True)  # a <s> that the template must not get twice
        write_json(os.path.join(self.model, "tokenizer_config.json"),
                   {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"})
        with open(os.path.join(self.model, "chat_template.jinja"), "w", encoding="utf-8") as f:
            f.write(TEMPLATE)

    def chat(self, name, items, **arguments):
        path = self.write(name, "\n".join(map(json.dumps, items)))
        return self.tokens(path, more=["--chat-template"], **arguments)

    def test_three_shapes_give_what_apply_chat_template_gives(self):
        pairs = [(f"w{i} w{i + 1}", f"w{i + 2} w{i + 3}") for i in (10, 20, 30)]
        own = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
        theirs = AutoTokenizer.from_pretrained(self.model)
        expected = [theirs.apply_chat_template(messages, tokenize=True, return_dict=False) for messages in own]
        self.assertEqual(expected[0][:3], [BOS, 93, 12])
        random.Random(42).shuffle(expected)
        shapes = {
            "messages.jsonl": [{"messages": m, "id": 1} for m in own],
            "list.jsonl": own,
            "conversations.jsonl": [{"conversations": m} for m in own],
            "sharegpt.jsonl": [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
                               for q, a in pairs],
            "alpaca.jsonl": [{"instruction": q, "input": "", "output": a} for q, a in pairs],
            "input.jsonl": [{"instruction": q.split()[0], "input": q.split()[1], "output": a} for q, a in pairs],
        }
        for name, items in shapes.items():
            with self.subTest(name):
                self.assertEqual(self.chat(name, items, seqlen=len(expected[0])), expected)
                self.assertEqual(self.warnings, "")
        self.assertEqual(self.metadata["sampling"], "truncate, chat template")
        path = self.write("dialog.jsonl", "\n".join(json.dumps({"dialog": m}) for m in own))
        self.assertEqual(self.tokens(path, seqlen=10, more=["--chat-template", "--text-key", "dialog"]),
                         [row[:10] for row in expected])
        stream = self.tokens(path, seqlen=5, more=["--chat-template", "--text-key", "dialog", "--concat"])
        self.assertFalse([row for row in stream if row[:2] == [BOS, BOS]])

    def test_what_is_no_conversation(self):
        cases = [
            ({"text": "w1"}, 'no messages or conversations or "instruction", only "text"'),
            ("w1", "leave --chat-template out"),
            ({"messages": "w1"}, '"messages" must be a list'),
            ({"messages": ["w1"]}, 'must have "role" and "content"'),
            ({"messages": [{"content": "w1"}]}, 'must have "role" and "content"'),
            ({"instruction": ["w1"]}, "must be strings"),
        ]
        for item, words in cases:
            with self.subTest(words):
                path = self.write("bad.jsonl", json.dumps(item))
                self.assert_fails(self.start(path, more=["--chat-template"]), "bad.jsonl:1: ", words)

    def test_what_the_template_refuses_is_left_out_with_a_warning(self):
        good = {"messages": [{"role": "user", "content": "w1 w2 w3"}]}
        bad = {"messages": [{"role": "bishop", "content": "w1 w2 w3"}]}
        null = {"messages": [{"role": "user", "content": None}]}
        self.chat("a.jsonl", [good, bad, null], seqlen=4, n_samples=1)
        self.assertIn("they have no text (null): 1\n", self.warnings)
        # The shuffle puts the bad one first.
        self.assertRegex(self.warnings, "refuses them: 1; the first is .*/a.jsonl:2: no role bishop")
        os.remove(self.out)
        self.assert_fails(self.start(self.write("b.jsonl", json.dumps(bad)), more=["--chat-template"]),
                          "refuses every conversation", "b.jsonl:1: no role bishop")

    def test_a_tokenizer_without_template(self):
        os.remove(os.path.join(self.model, "chat_template.jinja"))
        self.assert_fails(self.start(self.write("a.jsonl", "[]"), more=["--chat-template"]), "has one")


def make_character_model(directory, vocab_size=300):
    """One token per character: nothing is lost that a text holds."""
    make_model(directory, vocab_size)
    vocab = {"</s>": 0} | {character: i + 1 for i, character in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    characters = Tokenizer(models.BPE(vocab, []))
    characters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    characters.decoder = decoders.ByteLevel()
    characters.save(os.path.join(directory, "tokenizer.json"))


class TokenizerTest(CalibrationCase):
    def test_the_ids_are_those_of_auto_tokenizer(self):
        texts = [document(10 * i, 9) for i in range(3)]
        path = self.jsonl("a.jsonl", texts)
        differ = 0
        for make in (make_model, make_character_model):
            for bos in ({}, {"add_bos_token": True, "bos_token": "</s>"}):
                for own in ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"tokenizer_class": "GPT2Tokenizer"},
                            {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
                            {"extra_special_tokens": ["w1 w2", "w1"]}):
                    if make is make_model and own.get("tokenizer_class") == "GPT2Tokenizer":
                        continue
                    make(self.model, vocab_size=300)
                    plain = Tokenizer.from_file(os.path.join(self.model, "tokenizer.json"))
                    write_json(os.path.join(self.model, "tokenizer_config.json"), bos | own)
                    with self.subTest(make=make.__name__, config=bos | own):
                        theirs = AutoTokenizer.from_pretrained(self.model)
                        expected = [theirs(text)["input_ids"][:8] for text in texts]
                        differ += expected != [plain.encode(text).ids[:8] for text in texts]
                        self.assertEqual(sorted(self.tokens(path)), sorted(expected))
        self.assertGreater(differ, 0)  # tokenizer.json alone would give others

    def test_a_class_that_does_not_belong_to_the_file_is_refused(self):
        write_json(os.path.join(self.model, "tokenizer_config.json"), {"tokenizer_class": "LlamaTokenizer"})
        self.assert_fails(self.start(self.write("a.txt", document(0, 99))), "makes no tokens", "tokenizer_class")

    def test_code_of_the_model_is_not_run(self):
        write_json(os.path.join(self.model, "tokenizer_config.json"),
                   {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}})
        with open(os.path.join(self.model, "own.py"), "w", encoding="utf-8") as f:
            f.write("raise SystemExit(9)")
        self.assertEqual(self.tokens(self.write("a.txt", document(0, 9)), n_samples=1), [ids(0, 8)])
        self.assertIn("is not run", self.warnings)

    def test_a_model_of_the_hugging_face_cache(self):
        snapshot = self.path("hub/models--round--table/snapshots/abc")
        os.makedirs(snapshot)
        make_model(snapshot)
        os.makedirs(self.path("hub/models--round--table/refs"))
        with open(self.path("hub/models--round--table/refs/main"), "w", encoding="utf-8") as f:
            f.write("abc")
        text = self.write("a.txt", document(0, 9))
        with mock.patch("huggingface_hub.constants.HF_HUB_CACHE", self.path("hub")):
            self.model = "round/table"
            self.assertEqual(self.tokens(text, n_samples=1), [ids(0, 8)])
            os.remove(self.out)
            self.assert_fails(self.start(text, out=os.path.join(snapshot, "new.safetensors")), "in the model's directory")
            for self.model in ("round/tables", "tables", "a/b/c", "a..b", "./round/table"):
                self.assert_fails(self.start(text), f"{self.model}: no such model directory, and no such model in the Hugging "
                                  f"Face cache ({self.path('hub')})", "hf download")


class StreamTest(CalibrationCase):
    """With a small memory the same documents are drawn as from a list of all of them."""

    def documents(self, name):
        chance = random.Random(3)
        return self.write(name, "\n".join(json.dumps({"text": document(i, chance.randrange(3, 40))}) for i in range(300)))

    def with_memory(self, n_bytes, at_once, path, **arguments):
        self.reads = []  # documents and bytes that were in memory at once
        read = corpus.Corpus.read

        def noted(this, numbers):
            found = read(this, numbers)
            self.reads.append((len(found), sum(corpus.size_of(document) for _, document in found)))
            return found

        with mock.patch.object(corpus.Corpus, "read", noted), mock.patch.object(corpus, "MEMORY", n_bytes), mock.patch.object(corpus, "AT_ONCE", at_once), \
                mock.patch.object(files, "PIECE", 64):
            return self.tokens(path, **arguments)

    def test_the_same_samples_in_many_passes(self):
        for name in ("a.jsonl", "a.jsonl.gz"):
            path = self.documents(name)
            expected = self.tokens(path, n_samples=200)
            for n_bytes, at_once in ((1 << 20, 16), (2000, 1000), (1, 40)):
                self.assertEqual(self.with_memory(n_bytes, at_once, path, n_samples=200), expected)
                self.assertGreater(len(self.reads), 10)
                self.assertFalse([r for r in self.reads if r[0] > at_once or (r[1] > n_bytes and r[0] > 1)])

    def test_json_lists_in_small_windows(self):
        items = [{"text": document(i, 9), "more": [{"a\n": "]\"}"}, -1.5e3, None]} for i in range(50)]
        expected = self.tokens(self.write("a.jsonl", "\n".join(map(json.dumps, items))), n_samples=50)
        for indent in (None, 2):
            path = self.write("a.json", json.dumps(items, indent=indent))
            for piece in (1, 7, 64):
                with mock.patch.object(files, "PIECE", piece):
                    self.assertEqual(self.tokens(path, n_samples=50), expected)
        os.remove(self.out)
        place = json.dumps(items, indent=2)[:-1].rstrip() + "\n   oops]"
        with mock.patch.object(files, "PIECE", 7):
            self.assert_fails(self.start(self.write("bad.json", place)),
                              f"bad.json:{place.count(chr(10)) + 1}: not JSON: Expecting ',' delimiter at column 4")

    def test_more_documents_than_are_numbered(self):
        path = self.documents("a.jsonl")
        with mock.patch.object(corpus, "NUMBERED", 50):
            first = self.tokens(path, n_samples=20)
            self.assertEqual(self.tokens(path, n_samples=20), first)
            other = self.tokens(path, n_samples=20, more=["--seed", "7"])
        self.assertEqual(len({tuple(row) for row in first}), 20)
        self.assertNotEqual(first, other)
        self.assertGreater(max(row[0] for row in first), 150)  # not the first 50 of 300, whose words begin at token 2

    def test_concat_joins_what_fits(self):
        path = self.documents("a.jsonl")
        whole = self.tokens(path, n_samples=500, more=["--concat"])
        part = self.with_memory(20000, 1000, path, n_samples=50, more=["--concat"])
        self.assertEqual(self.with_memory(20000, 1000, path, n_samples=50, more=["--concat"]), part)
        self.assertEqual(self.with_memory(1 << 20, 7, path, n_samples=500, more=["--concat"]), whole)
        with mock.patch.object(corpus, "MEMORY", 20000):
            self.assertRegex(self.start(path, n_samples=50, more=["--concat"]).stdout, r"from \d+ of 300 documents")
            documents = corpus.Corpus([path], Texts("text"))
            first_words = [int(text.split()[0][1:]) for text in documents.in_order(random.Random(1))]
        self.assertEqual(len(first_words), documents.taken)
        # Document i starts with word i, or with word i - 200.
        self.assertLessEqual(sum(a > b for a, b in zip(first_words, first_words[1:])), 1)

    def test_a_long_text_file_is_many_documents(self):
        lines = [document(7 * i, 9) + "\n" for i in range(40)]
        path = self.write("a.txt", "".join(lines))
        self.assertEqual(self.tokens(path, n_samples=1), [ids(0, 8)])
        with mock.patch.object(readers, "WHOLE_TEXT", 400), mock.patch.object(readers, "PART_OF_TEXT", 50), \
                mock.patch.object(files, "PIECE", 16):
            samples = self.tokens(path, n_samples=39)
            self.assertEqual(len(samples), 39)
            starts = {tuple(ids(7 * i, 8)) for i in range(40)}
            self.assertLessEqual({tuple(row) for row in samples}, starts)  # no line is cut
            self.tokens(self.write("b.txt", "w1w" * 500), seqlen=1, n_samples=10)  # a line longer than a part

    def test_of_a_long_line_only_the_start_is_tokenized(self):
        words = [f"w{i % 150}" for i in range(4_000_000)]
        path = self.jsonl("a.jsonl", [" ".join(words)])
        size = os.path.getsize(path)
        self.assertGreater(size, 15e6)
        seen = []
        content, batches = tokenizer.ModelTokenizer.content, tokenizer.batches
        with mock.patch.object(tokenizer.ModelTokenizer, "content",
                               lambda self, text: seen.append(text) or content(self, text)), \
                mock.patch.object(tokenizer, "batches",
                                  lambda texts: batches(seen.append(text) or text for text in texts)):
            self.assertEqual(self.tokens(path, n_samples=1), [ids(0, 8)])
        self.assertGreater(len(seen), 2)
        self.assertLess(sum(map(len, seen)), 50_000)

    def test_a_start_has_the_tokens_of_the_whole(self):
        """A tokenizer that reads from the right: the first tokens depend on the whole length of a word."""
        vocab = {"</s>": 0, "a": 1, "aa": 2, "b": 3, " ": 4, "aaaa": 5}
        merges = [("a", "a"), ("aa", "aa")]
        Tokenizer(models.BPE(vocab, merges)).save(os.path.join(self.model, "tokenizer.json"))
        scores = [("</s>", 0.0), ("a", -3.0), ("aaa", -3.0), ("b", -3.0), (" ", -3.0), ("aaaaaaa", -3.0)]
        for make in (None, Tokenizer(models.Unigram(scores, 0))):
            if make:
                make.save(os.path.join(self.model, "tokenizer.json"))
            model = tokenizer.ModelTokenizer(self.model)
            whole = Tokenizer.from_file(os.path.join(self.model, "tokenizer.json"))
            for text in ("a" * 30001, "a" * 30000, "a" * 29999 + "b", "ab aa " * 8000, "b" + "aab" * 10000):
                self.assertEqual(model.content(model.head(text, 16))[:16], whole.encode(text).ids[:16])


class WarningTest(CalibrationCase):
    def test_odd_samples_are_counted(self):
        rows = [document(0, 8)] * 3 + [document(50, 8), document(60, 8), "w5 " * 6 + "w1 w2"]
        text = self.jsonl("a.jsonl", rows + ["w1 w2 w3 " + "w5 " * 5])
        self.tokens(text, n_samples=6)
        self.assertEqual(self.warnings.splitlines(), [
            "warning: samples that are copies of others: 2 of 6; remove repeated documents from the text",
            "warning: samples that are mostly one token: 1 of 6; look for tables, rules or padding in the text",
            "warning: samples that were left out, because they are mostly their last token: 1"])
        write_json(os.path.join(self.model, "tokenizer_config.json"), {"pad_token": "w199"})
        text = self.jsonl("a.jsonl", ["w199 w199 " + document(0, 6), document(9, 6) + " w199 w199", document(0, 8)])
        self.tokens(text)
        self.assertEqual(self.warnings, "warning: samples that start or end with padding (token 201): 2 of 3; take text "
                         "without padding\n")


class OutputTest(CalibrationCase):
    def test_nothing_but_a_token_set_is_overwritten(self):
        text = self.jsonl("a.jsonl", [document(i, 9) for i in range(3)])
        other = self.write("notes.txt", "mine")
        fake = self.write_bytes("fake.safetensors", (2).to_bytes(8, "little") + b"{}")
        os.mkdir(self.path("folder"))
        os.symlink(other, self.path("link"))
        weights = self.write("model/model.safetensors", "weights")
        for place in (text, other, fake, self.path("folder"), self.path("link"), "/dev/null"):
            with self.subTest(place):
                before = os.path.getsize(place)
                self.assert_fails(self.start(text, out=place), f"--out {place}: exists and is not a token set")
                self.assertEqual(os.path.getsize(place), before)
        for place in (weights, os.path.join(self.model, "config.json"), os.path.join(self.model, "new.safetensors")):
            self.assert_fails(self.start(text, out=place), f"--out {place}: it is in the model's directory")
        for _ in range(2):
            self.tokens(text, out=self.path("new/folder/set.safetensors"))
        os.symlink(self.path("nowhere"), self.path("dangling"))
        self.assert_fails(self.start(text, out=self.path("dangling")), "exists and is not a token set")

    def test_exit_codes(self):
        text = self.jsonl("a.jsonl", [document(i, 9) for i in range(3)])
        for place in ("a.jsonl/set", "a.jsonl/folder/set"):
            self.assert_fails(self.start(text, out=self.path(place)), f"--out {self.path(place)}: ", "is not a directory")
        with mock.patch.dict(sys.modules, {"pyarrow": None}):
            for name in ("a.parquet", "a.jsonl.zst"):
                self.assert_fails(self.start(self.write_bytes(name, b"x")), name, "pip install pyarrow", code=3)
        self.assertEqual(call("--model").returncode, 2)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            self.assert_fails(self.start(text), "File too large", code=3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


if __name__ == "__main__":
    unittest.main()
