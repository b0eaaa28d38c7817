"""The documents of files that need not fit into memory.

A first pass checks every item and counts. It keeps only the number of each document (8 bytes) and no text. Later passes
read the documents that sampling asks for, as many at once as fit into `MEMORY`.
"""

import heapq
import random
import sys
from array import array

from calibration.documents import NoText
from calibration.readers import reader_of
from exit_codes import Failure

MEMORY = 128 << 20  # bytes of text that are held at once
AT_ONCE = 1 << 16  # documents that one pass looks for
NUMBERED = 1 << 23  # documents among which samples are drawn


def size_of(document):
    """Bytes of memory; of a conversation, those of its words."""
    if isinstance(document, str):
        return sys.getsizeof(document)
    return sum(sys.getsizeof(value) for message in document for value in message.values())


class Corpus:
    def __init__(self, paths, kind, seed=0):
        self.paths, self.kind = paths, kind
        self.numbers = array("Q")  # of the items that are documents; in a corpus of more than NUMBERED, of a part of them
        self.count = self.size = self.nulls = 0
        self.refused, self.first_refusal = 0, ""  # by the chat template
        self.taken = None  # of how many documents the samples may come, where those are not all
        chance = random.Random(f"part of the documents {seed}")
        for number, (place, document) in enumerate(self.parsed()):
            if document is None:
                self.nulls += 1
            elif document:
                self.size += size_of(document)
                self.count += 1
                if len(self.numbers) < NUMBERED:
                    self.numbers.append(number)
                elif (i := chance.randrange(self.count)) < NUMBERED:  # Vitter's algorithm R: each is as likely
                    self.numbers[i] = number

    def parsed(self, wanted=None):
        """Yields (place, document) of every item, or of the items whose numbers are wanted, in order."""
        number = -1
        for path in self.paths:
            reader = reader_of(path, self.kind.fields)
            for place, raw in reader.items(path):
                number += 1
                if wanted is None or number in wanted:
                    yield place, self.kind.parse(reader.item(place, raw), place)

    def drawn(self, rng):
        """Yields the documents as strings, in the order that rng.shuffle() gives a list of them."""
        rng.shuffle(self.numbers)
        start = 0
        while start < len(self.numbers):
            documents = self.read(self.numbers[start:start + AT_ONCE])
            start += len(documents)
            yield from self.rendered(documents)

    def in_order(self, rng):
        """Yields the documents as strings, in order: all, or those drawn that fit into memory."""
        if self.size <= MEMORY:
            yield from self.rendered(found for found in self.parsed() if found[1])
            return
        rng.shuffle(self.numbers)
        numbers = self.numbers[:AT_ONCE]
        documents = self.read(numbers)
        self.taken = len(documents)
        documents = sorted(zip(numbers, documents), key=lambda pair: pair[0], reverse=True)
        while documents:  # each is freed once it is tokens
            yield from self.rendered([documents.pop()[1]])

    def rendered(self, documents):
        for place, document in documents:
            try:
                text = self.kind.render(document)
            except NoText as error:
                self.refused += 1
                self.first_refusal = self.first_refusal or f"{place}: {error}"
                continue
            if text:
                yield text

    def read(self, numbers):
        """The first of these documents, as many as fit into memory, but at least one."""
        rank_of = {number: rank for rank, number in enumerate(numbers)}
        kept, ranks, size, limit = {}, [], 0, len(numbers)
        for number, found in zip(sorted(numbers), self.parsed(rank_of), strict=False):
            rank = rank_of[number]
            if rank >= limit:
                continue
            kept[rank] = found
            heapq.heappush(ranks, -rank)
            size += size_of(found[1])
            while size > MEMORY and len(kept) > 1:
                limit = -heapq.heappop(ranks)
                size -= size_of(kept.pop(limit)[1])
        if len(kept) < limit:
            raise Failure(f"{', '.join(self.paths[:3])}: changed while it was read; run the same command again")
        return [kept[rank] for rank in range(limit)]
