#!/usr/bin/env python3
"""Makes a token set, the calibration or held-out input of `roundtable`, from text.

  launch/prepare_calibration.py --model DIR --text FILE... --seqlen N --n-samples N --out FILE
                                [--dataset-split train] [--seed 42] [--concat] [--allow-fewer]

Text, by extension (the first three may also end in .gz):
  .jsonl    one document per line: an object with "text", or a string
  .json     a list of such objects or strings
  .txt      one document
  .parquet  one document per row, in the column "text" (needs pyarrow)
A directory is a data set in the form of the Hugging Face hub: of the files above, at any depth, those whose name or
folder is the split are read (train.jsonl, data/train-00000-of-00002.parquet, train/part.parquet), in order of name.
Sampling is auto-round's: documents are shuffled and cut to `seqlen` tokens; documents that are shorter or
consist mostly of one token are dropped. With --concat documents are joined, with the end-of-text token
between them, and the stream is cut into pieces of `seqlen` tokens, which are then shuffled.

The token set is a safetensors file with one tensor, input_ids, int32 [n_samples, seqlen], and the metadata
format, version, tokenizer_sha256, vocab_size, source, seed, sampling. The same input gives the same bytes.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import sys
import tempfile
import zlib

BATCH = 256  # documents tokenized at once


class Failure(Exception):
    """What the user can fix; shown as one line."""


# --- text ------------------------------------------------------------------------------------------------------

def read_text(path):
    if not os.path.isfile(path):
        raise Failure(f"{path}: no such file")
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
            return f.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: not UTF-8 (byte {error.start})")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Failure(f"{path}: not a whole gzip file ({error})")


def text_of(item, place):
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise Failure(f'{place}: a document must be a string, or an object with a string "text"')
    return text


def read_jsonl(path):
    documents = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise Failure(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}")
        documents.append(text_of(item, f"{path}:{number}"))
    return documents


def read_json(path):
    try:
        items = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        hint = " (if it has one document per line, name it .jsonl)" if error.msg == "Extra data" else ""
        raise Failure(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}{hint}")
    if not isinstance(items, list):
        raise Failure(f'{path}: must hold a list of strings or of objects with "text"')
    return [text_of(item, f"{path}: item {number}") for number, item in enumerate(items)]


def read_parquet(path):
    if not os.path.isfile(path):
        raise Failure(f"{path}: no such file")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise Failure(f"{path}: reading parquet needs pyarrow: pip install pyarrow")
    try:
        file = parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise Failure(f'{path}: no column "text", only {", ".join(file.schema_arrow.names)}')
        rows = [row for batch in file.iter_batches(columns=["text"]) for row in batch.column(0).to_pylist()]
    except pyarrow.ArrowInvalid as error:
        raise Failure(f"{path}: not a parquet file ({str(error).splitlines()[0]})")
    return [text_of({"text": row}, f"{path}: row {number}") for number, row in enumerate(rows) if row is not None]


READERS = {".parquet": read_parquet, ".jsonl": read_jsonl, ".json": read_json, ".txt": lambda path: [read_text(path)]}


def extension_of(path):
    return os.path.splitext(path[:-3] if path.endswith(".gz") else path)[1]


def is_of_split(relative, split):
    *folders, name = relative.split(os.sep)
    return split in folders or name.startswith((f"{split}.", f"{split}-", f"{split}_"))


def files_of(path, split):
    """The file itself, or the files of the split in a directory."""
    if not os.path.isdir(path):
        return [path]
    files = sorted(os.path.relpath(os.path.join(folder, name), path)
                   for folder, _, names in os.walk(path) for name in names if extension_of(name) in READERS)
    found = [os.path.join(path, name) for name in files if is_of_split(name, split)]
    if not found:
        raise Failure(f"{path}: no files of the split '{split}' (--dataset-split) among {len(files)}: "
                      f"{', '.join(files[:5])}")
    return found


def read_documents(paths, split):
    documents = []
    for path in [file for path in paths for file in files_of(path, split)]:
        if extension_of(path) not in READERS:
            raise Failure(f"{path}: its name must end in .jsonl, .json or .txt (or one of these and .gz), or in .parquet")
        documents += READERS[extension_of(path)](path)
    return [document for document in documents if document]


# --- the model's tokenizer -------------------------------------------------------------------------------------

def load_json(path, what):
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise Failure(f"{path}:{error.lineno}: not JSON: {error.msg}")
    except Failure as error:
        raise Failure(f"{error} (--model takes a Hugging Face model directory: {what})")


class ModelTokenizer:
    def __init__(self, directory):
        from tokenizers import Tokenizer

        if not os.path.isdir(directory):
            raise Failure(f"{directory}: no such model directory")
        config = load_json(os.path.join(directory, "config.json"), "config.json gives the vocabulary's size")
        config = config.get("text_config", config)
        if not isinstance(config.get("vocab_size"), int):
            raise Failure(f"{directory}/config.json: no vocab_size")
        self.vocab_size = config["vocab_size"]
        eos = config.get("eos_token_id")
        self.eos = eos[0] if isinstance(eos, list) and eos else eos

        path = os.path.join(directory, "tokenizer.json")
        content = read_text(path).encode()
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self.tokenizer = Tokenizer.from_file(path)
        except Exception as error:  # tokenizers raises a bare Exception
            raise Failure(f"{path}: not a tokenizer: {error}")
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def encode(self, documents, special_tokens=True):
        """Yields each document's token ids, in order."""
        for i in range(0, len(documents), BATCH):
            for encoding in self.tokenizer.encode_batch(documents[i:i + BATCH], add_special_tokens=special_tokens):
                yield encoding.ids


# --- sampling --------------------------------------------------------------------------------------------------

def usable(ids, seqlen):
    """auto-round's filter: a sample that is mostly its own last token (padding, a rule of dashes) teaches nothing."""
    return len(ids) == seqlen and (seqlen <= 2 or ids.count(ids[-1]) <= seqlen // 2)


def sample_truncated(tokenizer, documents, seqlen, n_samples, rng):
    documents = list(documents)
    rng.shuffle(documents)
    tokenizer.tokenizer.enable_truncation(seqlen)
    samples = []
    for ids in tokenizer.encode(documents):
        if usable(ids, seqlen):
            samples.append(ids)
            if len(samples) == n_samples:
                break
    return samples


def sample_concatenated(tokenizer, documents, seqlen, n_samples, rng):
    if len(documents) > 1 and tokenizer.eos is None:
        raise Failure("--concat needs eos_token_id in the model's config.json, to put it between documents")
    stream = []
    for ids in tokenizer.encode(documents, special_tokens=False):
        if stream:
            stream.append(tokenizer.eos)
        stream += ids
    # What the tokenizer puts before a text (Llama's <s>) comes before every piece, as in auto-round.
    prefix = tokenizer.tokenizer.encode("").ids
    body = seqlen - len(prefix)
    if body <= 0:
        raise Failure(f"--seqlen {seqlen} is too small: the tokenizer itself adds {len(prefix)} tokens to each sample")
    samples = [prefix + stream[i:i + body] for i in range(0, len(stream) - body + 1, body)]
    samples = [ids for ids in samples if usable(ids, seqlen)]
    rng.shuffle(samples)
    return samples[:n_samples]


# --- the file --------------------------------------------------------------------------------------------------

def write_token_set(path, samples, metadata):
    """Written by hand, because the order of the metadata in the safetensors library is random: the bytes would differ."""
    import numpy

    data = numpy.asarray(samples, dtype="<i4")
    header = {"__metadata__": metadata,
              "input_ids": {"dtype": "I32", "shape": list(data.shape), "data_offsets": [0, data.nbytes]}}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)

    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".tmp.", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text + data.tobytes())
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def prepare(arguments):
    for name in ("seqlen", "n_samples"):
        if getattr(arguments, name) < 1:
            raise Failure(f"--{name.replace('_', '-')} must be at least 1")
    tokenizer = ModelTokenizer(arguments.model)
    documents = read_documents(arguments.text, arguments.dataset_split)
    sample = sample_concatenated if arguments.concat else sample_truncated
    samples = sample(tokenizer, documents, arguments.seqlen, arguments.n_samples, random.Random(arguments.seed))

    found, asked = len(samples), arguments.n_samples
    if found == 0 or (found < asked and not arguments.allow_fewer):
        fixes = ["more text", "a smaller --seqlen"] + ([f"--n-samples {found}"] if found else [])
        if not arguments.concat:
            fixes.append("--concat to join short documents")
        raise Failure(f"{len(documents)} documents give {found} samples of {arguments.seqlen} tokens, but {asked} "
                      f"were asked for; give {', '.join(fixes[:-1])} or {fixes[-1]}")
    largest = max(max(ids) for ids in samples)
    if largest >= tokenizer.vocab_size:
        raise Failure(f"the tokenizer gives token {largest}, but {arguments.model}/config.json has vocab_size "
                      f"{tokenizer.vocab_size}; take the tokenizer.json that belongs to the model")

    write_token_set(arguments.out, samples, {
        "format": "roundtable.tokens",
        "version": "1",
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": str(tokenizer.vocab_size),
        "source": ", ".join(os.path.basename(os.path.normpath(path)) for path in arguments.text),
        "seed": str(arguments.seed),
        "sampling": "concat" if arguments.concat else "truncate",
    })
    print(f"{arguments.out}: {found} samples of {arguments.seqlen} tokens from {len(documents)} documents")


def main():
    parser = argparse.ArgumentParser(description="Makes a token set from text.", epilog=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="Hugging Face model directory: tokenizer.json, config.json")
    parser.add_argument("--text", required=True, nargs="+", metavar="FILE", help=".jsonl, .json, .txt, also with .gz; .parquet; or a directory of them")
    parser.add_argument("--seqlen", required=True, type=int, metavar="N", help="tokens per sample")
    parser.add_argument("--n-samples", required=True, type=int, metavar="N", help="number of samples")
    parser.add_argument("--out", required=True, metavar="FILE", help="the token set (.safetensors)")
    parser.add_argument("--dataset-split", default="train", metavar="NAME", help="the split of a directory to read (train)")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="seed of the shuffle (42)")
    parser.add_argument("--concat", action="store_true", help="join documents and cut the stream")
    parser.add_argument("--allow-fewer", action="store_true", help="accept fewer samples than --n-samples")
    try:
        prepare(parser.parse_args())
    except (Failure, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
