#!/usr/bin/env python3
"""Makes a token set, the calibration or held-out input of `roundtable`, from text.

  launch/prepare_calibration.py --model DIR --text FILE... --seqlen N --n-samples N --out FILE
                                [--text-key NAME] [--chat-template] [--dataset-split train]
                                [--seed 42] [--concat] [--allow-fewer]

Text, by extension (the first four may also end in .gz, or in .zst, which needs pyarrow):
  .jsonl    one document per line: an object with "text", or a string
  .json     a list of such objects or strings
  .txt      one document; from a file of more than 16 million characters, each million is a document
  .csv      one document per row, in the column "text"
  .parquet  one document per row, in the column "text" (needs pyarrow)
--text-key names another field or column than "text". Documents without text (null) are left out.
With --chat-template a document is a conversation, which the tokenizer's own chat template turns into text:
"messages" with "role" and "content", ShareGPT's "conversations" with "from" and "value", or alpaca's "instruction",
"input" and "output".
A directory is a data set in the form of the Hugging Face hub: of the files above, at any depth, those whose name or
folder is the split are read (train.jsonl, data/train-00000-of-00002.parquet, train/part.parquet), in order of name.

Tokens are those of transformers' AutoTokenizer. Sampling is auto-round's: documents are shuffled and cut to `seqlen`
tokens; documents that are shorter or consist mostly of one token are dropped. With --concat documents are joined,
with the end-of-text token between them, and the stream is cut into pieces of `seqlen` tokens, which are then shuffled.

The text need not fit into memory: it is read twice, and its longest document has to fit. From more than 128 MiB of
text, --concat joins only as many documents as have this size, drawn at random. From more than 8 million documents,
samples are drawn among 8 million of them, taken at random.

The token set is a safetensors file with one tensor, input_ids, int32 [n_samples, seqlen], and the metadata
format, version, tokenizer_sha256, vocab_size, source, seed, sampling. The same input gives the same bytes.
Exit codes: 0 done, 2 bad input, 3 machine (disk, memory, a missing package).
"""

import argparse
import os
import random
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from calibration.corpus import Corpus
from calibration.documents import Chats, Texts
from calibration.files import files_of
from calibration.token_set import FORMAT, check_place, write_token_set
from exit_codes import Failure, run, warn


def read_arguments(arguments):
    parser = argparse.ArgumentParser(description="Makes a token set from text.", epilog=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="Hugging Face model directory (tokenizer.json, "
                        "config.json), or the name of a model in the Hugging Face cache")
    parser.add_argument("--text", required=True, nargs="+", metavar="FILE", help=".jsonl, .json, .txt, .csv, also with .gz "
                        "or .zst; .parquet; or a directory of them")
    parser.add_argument("--seqlen", required=True, type=int, metavar="N", help="tokens per sample")
    parser.add_argument("--n-samples", required=True, type=int, metavar="N", help="number of samples")
    parser.add_argument("--out", required=True, metavar="FILE", help="the token set (.safetensors)")
    parser.add_argument("--text-key", metavar="NAME", help='the field or column with the text ("text"), or with the messages')
    parser.add_argument("--chat-template", action="store_true", help="documents are conversations; write them out by the "
                        "tokenizer's chat template")
    parser.add_argument("--dataset-split", default="train", metavar="NAME", help="the split of a directory to read (train)")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="seed of the shuffle (42)")
    parser.add_argument("--concat", action="store_true", help="join documents and cut the stream")
    parser.add_argument("--allow-fewer", action="store_true", help="accept fewer samples than --n-samples")
    return parser.parse_args(arguments)


def check_number(samples, corpus, a):
    found = len(samples.rows)
    if found == a.n_samples or (found and a.allow_fewer):
        return
    if corpus.refused and corpus.refused == corpus.count:
        raise Failure(f"the chat template refuses every conversation; the first is {corpus.first_refusal}")
    fixes = ["more text", "a smaller --seqlen"] + ([f"--n-samples {found}"] if found else [])
    if not a.concat:
        fixes.append("--concat to join short documents")
    raise Failure(f"{corpus.count} documents give {found} samples of {a.seqlen} tokens, but {a.n_samples} "
                  f"were asked for; give {', '.join(fixes[:-1])} or {fixes[-1]}")


def warn_of_text(corpus):
    if corpus.nulls:
        warn(f"documents that were left out, because they have no text (null): {corpus.nulls}")
    if corpus.refused:
        warn(f"conversations that were left out, because the chat template refuses them: {corpus.refused}; "
             f"the first is {corpus.first_refusal}")


def prepare(a):
    for name in ("seqlen", "n_samples"):
        if getattr(a, name) < 1:
            raise Failure(f"--{name.replace('_', '-')} must be at least 1")
    files = [file for path in a.text for file in files_of(path, a.dataset_split)]
    # They take seconds to load, which --help and a wrong name of a file do not wait for.
    from calibration.sampling import sample_concatenated, sample_truncated, warn_of_odd
    from calibration.tokenizer import ModelTokenizer

    tokenizer = ModelTokenizer(a.model)
    check_place(a.out, tokenizer.directory)
    if a.chat_template:
        tokenizer.use_chat_template()
    corpus = Corpus(files, Chats(a.text_key, tokenizer) if a.chat_template else Texts(a.text_key or "text"), a.seed)
    sample = sample_concatenated if a.concat else sample_truncated
    samples = sample(tokenizer, corpus, a.seqlen, a.n_samples, random.Random(a.seed))
    check_number(samples, corpus, a)
    largest = max(int(row.max()) for row in samples.rows)
    if largest >= tokenizer.vocab_size:
        raise Failure(f"the tokenizer gives token {largest}, but {tokenizer.directory}/config.json has vocab_size "
                      f"{tokenizer.vocab_size}; take the tokenizer.json and tokenizer_config.json that belong to the "
                      "model")
    warn_of_text(corpus)
    warn_of_odd(samples, tokenizer.pad)
    write_token_set(a.out, samples.rows, {
        "format": FORMAT,
        "version": "1",
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": str(tokenizer.vocab_size),
        "source": ", ".join(os.path.basename(os.path.normpath(path)) for path in a.text),
        "seed": str(a.seed),
        "sampling": ("concat" if a.concat else "truncate") + (", chat template" if a.chat_template else ""),
    })
    taken = f"{corpus.taken} of {corpus.count}" if corpus.taken else corpus.count
    print(f"{a.out}: {len(samples.rows)} samples of {a.seqlen} tokens from {taken} documents")


def main(arguments=None):
    return run(prepare, read_arguments(arguments))


if __name__ == "__main__":
    sys.exit(main())
