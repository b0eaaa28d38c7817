"""The model's tokenizer: transformers' AutoTokenizer, as the programs that load the checkpoint use it.

In addition to tokenizer.json, tokenizer_config.json decides what a text becomes: the class, special tokens, and the
chat template. Not its add_bos_token: transformers 5.23 drops it where tokenizer.json exists, whose post-processor
decides (tokenization_utils_base.py, _from_pretrained). The model is a directory, or the name of one that the Hugging
Face cache holds; nothing is downloaded.
"""

import hashlib
import json
import os

from exit_codes import Failure, warn

BATCH = 256  # documents tokenized at once
BATCH_TEXT = 1 << 20  # characters of them: the tokenizer takes about 150 bytes per token while it works
PROBE = "The table is round."
MARGIN = 64  # tokens that must agree in addition to those that are taken


def model_directory(model):
    if os.path.isdir(model):
        return model
    if os.path.exists(model):
        raise Failure(f"{model}: not a directory; --model takes a Hugging Face model directory")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    if model.count("/") <= 1 and not model.startswith((".", "/", "~")):
        try:
            return snapshot_download(model, local_files_only=True)
        except (HFValidationError, LocalEntryNotFoundError):
            pass
    raise Failure(f"{model}: no such model directory, and no such model in the Hugging Face cache "
                  f"({constants.HF_HUB_CACHE}); to download it, run: hf download {model}")


def read(path, why):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as error:
        raise Failure(f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror} "
                      f"(--model takes a Hugging Face model directory: {why})") from error


def load(directory):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = os.path.join(directory, "tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # on a damaged file transformers and tokenizers raise anything
        try:
            Tokenizer.from_file(path)
        except Exception as fault:
            raise Failure(f"{path}: not a tokenizer: {fault}") from fault
        if "trust_remote_code" in str(error):
            warn(f"{directory}: its tokenizer has Python code of its own, which is not run; tokenizer.json is taken as it is")
            return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Failure(f"{directory}: transformers' AutoTokenizer cannot read its tokenizer ({reason}); compare "
                      "tokenizer_config.json with the original's") from error


class ModelTokenizer:
    def __init__(self, model):
        self.directory = model_directory(model)
        path = os.path.join(self.directory, "config.json")
        try:
            config = json.loads(read(path, "config.json gives the vocabulary's size").decode())
        except ValueError as error:
            raise Failure(f"{path}: not JSON: {error}") from error
        config = config.get("text_config", config) if isinstance(config, dict) else {}
        if not isinstance(config.get("vocab_size"), int):
            raise Failure(f"{path}: no vocab_size")
        self.vocab_size = config["vocab_size"]
        eos = config.get("eos_token_id")
        self.eos = eos[0] if isinstance(eos, list) and eos else eos
        content = read(os.path.join(self.directory, "tokenizer.json"), "tokenizer.json makes tokens of text")
        self.sha256 = hashlib.sha256(content).hexdigest()

        self.tokenizer = load(self.directory)
        self.tokenizer.truncation_side = "right"
        self.adds_special_tokens = True
        if not self.content(PROBE):
            raise Failure(f"{self.directory}: transformers' {type(self.tokenizer).__name__} makes no tokens of a text; "
                          "tokenizer_class in tokenizer_config.json does not belong to tokenizer.json")
        self.pad = self.tokenizer.pad_token_id

    def use_chat_template(self):
        """Special tokens then come from the template alone, as in apply_chat_template(tokenize=True)."""
        if not self.tokenizer.chat_template:
            raise Failure(f"{self.directory}: --chat-template needs the tokenizer's chat template, and neither "
                          "chat_template.jinja nor tokenizer_config.json has one")
        self.adds_special_tokens = False

    def chat_text(self, messages):
        return self.tokenizer.apply_chat_template(messages, tokenize=False)

    def content(self, text):
        """The tokens of a text without special ones."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def special(self):
        """What the tokenizer puts before a text, and after it."""
        whole = self.tokenizer(PROBE, add_special_tokens=self.adds_special_tokens)["input_ids"]
        content = self.content(PROBE)
        for start in range(len(whole) - len(content) + 1):
            end = start + len(content)
            if whole[start:end] == content:
                return whole[:start], whole[end:]
        return [], []

    def head(self, text, n_tokens):
        """A start of a long text that has the same first tokens.

        How a word is split depends on what follows it, but not from far away: a start and one twice as long must agree
        in these tokens and in some more.
        """
        n_tokens += MARGIN
        size, before = 4096 + 8 * n_tokens, None
        while size < len(text):
            space = text.rfind(" ", size // 2, size)
            start = text[:space if space > 0 else size]
            ids = self.content(start)[:n_tokens]
            if len(ids) == n_tokens and ids == before:
                return start
            size, before = 2 * size, ids
        return text

    def first_tokens(self, texts, n_tokens):
        """Yields the first tokens of each text, special ones among them."""
        for batch in batches(self.head(text, n_tokens) for text in texts):
            yield from self.tokenizer(batch, add_special_tokens=self.adds_special_tokens, truncation=True,
                                      max_length=n_tokens)["input_ids"]

    def all_tokens(self, texts):
        """Yields the tokens of each text, without special ones."""
        for batch in batches(texts):
            yield from self.content(batch)


def batches(texts):
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == BATCH or size >= BATCH_TEXT:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
