"""What a run of the small sibling says about every block: which argument is the hidden state, which arguments depend on
the tokens or on earlier blocks, and which of its results later blocks take.

Paths and places found here are those of the full model too, which never runs a block."""

import dataclasses

import torch

from .calls import Recorder, find_layers, hidden_path, hidden_place, run_model
from .errors import BadInput, reason
from .provenance import TOKENS, Provenance, storage

BATCH = 3
FIRST_TOKEN = 6  # below it lie special tokens


@dataclasses.dataclass
class Block:
    hidden_in: str                  # path of an argument
    hidden_out: tuple               # place of a result
    order: tuple                    # dimensions of the model's hidden state, as a graph has them: samples, positions, others
    tokens: list                    # paths of arguments that are the token ids
    takes: dict                     # path -> name of a boundary tensor
    gives: dict                     # place -> name of a boundary tensor
    unknown: dict                   # path -> why it cannot be an input, if a graph reads it

    def ordered(self, hidden):
        """The model's hidden state as a graph has it."""
        return hidden if self.is_plain() else hidden.permute(self.order).contiguous()

    def back(self, hidden):
        """The hidden state of a graph as the model has it."""
        return hidden if self.is_plain() else hidden.permute([self.order.index(d) for d in range(hidden.dim())])

    def is_plain(self):
        return self.order == tuple(range(len(self.order)))


@dataclasses.dataclass
class Probe:
    layers: str                     # path of the list of blocks
    blocks: list
    embed_gives: dict               # name -> (block, path): where a tensor that the embedding part gives shows up
    calls: list                     # of each block, in the run below
    tokens: torch.Tensor            # [BATCH, seqlen]
    logits: torch.Tensor
    shapes: dict                    # name of a boundary tensor -> a tensor of it


def random_tokens(vocabulary, batch, seqlen, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(min(FIRST_TOKEN, vocabulary - 1), vocabulary, (batch, seqlen), generator=generator)


def same(a, b):
    return storage(a) == storage(b) and a.shape == b.shape and a.stride() == b.stride() and a.storage_offset() == b.storage_offset()


def short(path):
    """[1]['position_embeddings'][0] -> position_embeddings.0"""
    parts = [part.strip("[]'\"") for part in path.replace("][", "]|[").split("|")]
    return ".".join(part for part in parts[1:] if part) or "argument"


def order_of(shape, tokens):
    """As Block.order, of a hidden state of this shape. gemma3n has [4, samples, positions, width]."""
    sizes = list(shape)
    if tuple(sizes[:2]) == tuple(tokens):
        return tuple(range(len(sizes)))
    if any(size not in sizes for size in tokens):
        return None
    first = [sizes.index(size) for size in tokens]
    return (*first, *(d for d in range(len(sizes)) if d not in first))


def probe(model, vocabulary, seqlen, where):
    """`where` names the config in errors."""
    tokens = random_tokens(vocabulary, BATCH, seqlen, seed=1)
    try:
        with torch.no_grad():
            path = find_layers(model, lambda: run_model(model, tokens))
            if path is None:
                raise BadInput(f"{where}: the model has no list of blocks that all run")
            layers = model.get_submodule(path)
            with Provenance() as provenance, Recorder(layers, provenance) as recorder:
                provenance.mark(tokens, {TOKENS})
                logits = run_model(model, tokens)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{where}: the small sibling of the model does not run: {reason(error)}")
    for index, calls in enumerate(recorder.calls):
        if len(calls) != 1:
            raise BadInput(f"{where}: block {index} runs {len(calls)} times per pass; a block must run once")
    calls = [calls[0] for calls in recorder.calls]
    return Classifier(calls, tokens, where).run(path, logits)


class Classifier:
    def __init__(self, calls, tokens, where):
        self.calls, self.tokens, self.where = calls, tokens, where
        self.embed_gives, self.named = {}, []  # named: (name, tensor)
        self.blocks = []

    def run(self, path, logits):
        for index, call in enumerate(self.calls):
            self.blocks.append(self.classify(index, call))
        return Probe(path, self.blocks, self.embed_gives, self.calls, self.tokens, logits, dict(self.named))

    def classify(self, index, call):
        hidden_in = hidden_path(call)
        hidden_out = hidden_place(call, hidden_in) if hidden_in else None
        if hidden_out is None:
            raise BadInput(f"{self.where}: block {index} does not take and give a hidden state of one shape")
        hidden = call.leaf(hidden_in)
        order = order_of(hidden.shape, self.tokens.shape)
        if order is None:
            raise BadInput(f"{self.where}: block {index}: its hidden state is [{', '.join(map(str, hidden.shape))}] for "
                           f"{self.tokens.shape[0]} samples of {self.tokens.shape[1]} tokens; a block must have a position for "
                           "each token")
        if index > 0 and not self.follows(index, hidden):
            raise BadInput(f"{self.where}: block {index} does not take what block {index - 1} gives: something is computed "
                           "between the blocks")
        block = Block(hidden_in, hidden_out, order, [], {}, {}, {})
        for path, leaf in call.tensors():
            if path == hidden_in or not call.labels[path]:
                continue
            if same(leaf, self.tokens) or (leaf.dtype == torch.int64 and leaf.shape == self.tokens.shape and torch.equal(leaf, self.tokens)):
                block.tokens.append(path)
            else:
                self.carry(index, path, leaf, block)
        return block

    def follows(self, index, hidden):
        before = self.calls[index - 1]
        given = dict(before.results())[self.blocks[-1].hidden_out]
        return given is hidden or same(given, hidden) or (given.shape == hidden.shape and torch.equal(given, hidden))

    def carry(self, index, path, leaf, block):
        known = next((name for name, tensor in self.named if tensor is leaf or same(tensor, leaf)), None)
        if known is None:
            known = self.find_source(index, path, leaf)
        if known is None:
            block.unknown[path] = "it is computed from what earlier blocks give"
        elif leaf.shape[0] != self.tokens.shape[0]:
            block.unknown[path] = "the batch is not its first dimension"
        else:
            block.takes[path] = known

    def find_source(self, index, path, leaf):
        """The name of the boundary tensor that this argument is; it is made if the source is found."""
        if self.calls[index].labels[path] == {TOKENS}:
            name = f"{short(path)}.embed{index}"
            self.embed_gives[name] = (index, path)
            self.named.append((name, leaf))
            return name
        for earlier in range(index - 1, -1, -1):
            for place, tensor in self.calls[earlier].results():
                if tensor is leaf or same(tensor, leaf):
                    name = f"{short(path)}.{earlier}"
                    self.blocks[earlier].gives[place] = name
                    self.named.append((name, leaf))
                    return name
        return None
