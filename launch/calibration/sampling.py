"""Samples of `seqlen` tokens from documents, in auto-round's way, and what is odd about them."""

from array import array
from collections import Counter

import numpy

from exit_codes import Failure, warn


class Samples:
    def __init__(self):
        self.rows = []  # each an array of seqlen token ids
        self.monotonous = 0  # samples that were left out


def mostly_last(ids):
    """auto-round's filter: a sample that is mostly its own last token (padding, a rule of dashes) teaches nothing."""
    return len(ids) > 2 and numpy.count_nonzero(ids == ids[-1]) > len(ids) // 2


def sample_truncated(tokenizer, corpus, seqlen, n_samples, rng):
    samples = Samples()
    for ids in tokenizer.first_tokens(corpus.drawn(rng), seqlen):
        if len(ids) != seqlen:
            continue
        row = numpy.asarray(ids, dtype="i4")
        if mostly_last(row):
            samples.monotonous += 1
            continue
        samples.rows.append(row)
        if len(samples.rows) == n_samples:
            break
    return samples


def stream_of(tokenizer, corpus, rng):
    """The documents, joined."""
    if corpus.count > 1 and tokenizer.eos is None:
        raise Failure("--concat needs eos_token_id in the model's config.json, to put it between documents")
    stream = array("i")
    for ids in tokenizer.all_tokens(corpus.in_order(rng)):
        if stream:
            stream.append(tokenizer.eos)
        stream.extend(ids)
    return numpy.asarray(stream, dtype="i4")


def sample_concatenated(tokenizer, corpus, seqlen, n_samples, rng):
    stream = stream_of(tokenizer, corpus, rng)
    # What the tokenizer puts before a text (Llama's <s>) and after it surrounds every piece, as in auto-round.
    before, after = (numpy.asarray(ids, dtype="i4") for ids in tokenizer.special())
    body = seqlen - len(before) - len(after)
    if body <= 0:
        raise Failure(f"--seqlen {seqlen} is too small: the tokenizer itself adds {seqlen - body} tokens to each sample")

    def piece(start):
        return numpy.concatenate([before, stream[start:start + body], after])

    samples = Samples()
    starts = range(0, len(stream) - body + 1, body)
    usable = [start for start in starts if not mostly_last(piece(start))]
    samples.monotonous = len(starts) - len(usable)
    rng.shuffle(usable)
    samples.rows = [piece(start) for start in usable[:n_samples]]
    return samples


def warn_of_odd(samples, pad):
    """Samples that are taken, or were left out, and of which their user should know."""
    rows, total = samples.rows, len(samples.rows)
    copies = total - len({row.tobytes() for row in rows})
    if copies:
        warn(f"samples that are copies of others: {copies} of {total}; remove repeated documents from the text")
    constant = sum(1 for row in rows if Counter(row.tolist()).most_common(1)[0][1] > len(row) // 2 and len(row) > 2)
    if constant:
        warn(f"samples that are mostly one token: {constant} of {total}; look for tables, rules or padding in the text")
    padded = sum(1 for row in rows if pad is not None and len(row) > 1
                 and ((row[:2] == pad).all() or (row[-2:] == pad).all()))
    if padded:
        warn(f"samples that start or end with padding (token {pad}): {padded} of {total}; take text without padding")
    if samples.monotonous:
        warn(f"samples that were left out, because they are mostly their last token: {samples.monotonous}")
