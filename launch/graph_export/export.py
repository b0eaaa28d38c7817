"""The whole export: the small sibling first (it says what flows between blocks, and whether the graphs are right), then
the model itself, of any size, without weights."""

import os
import time

import torch
import transformers

from . import capture, check, folder, hollow, parts, shrink, tables, trace
from .encode import dtype_name
from .ends import Embed, Head, without_parameters
from .errors import BadInput
from .model_source import Source, computed_buffers, config_sha256, fill_buffers
from .probe import probe, random_tokens
from .provenance import storage

WAYS = (trace.ANY_BATCH, trace.FROM_TWO, trace.FIXED)
EXAMPLES = 2  # samples of an example input
SMALL_MODEL, SMALL_SEQLEN = 4 << 20, 64  # parameters, and tokens per sample
FORMAT, VERSION = "roundtable-graph", 1


class Exporter:
    def __init__(self, source, seqlen, dtype, say):
        self.source, self.seqlen, self.dtype, self.say = source, seqlen, dtype, say
        self.where = source.path
        self.own_attention = True

    # --- the small sibling -------------------------------------------------------------------------------------------

    def look_at_sibling(self):
        source = self.source
        self.model = source.build(source.config, self.dtype, "meta")
        size = sum(parameter.numel() for parameter in self.model.parameters())
        # A small model is its own sibling: the graphs that are checked are those that are written.
        self.is_sibling = size <= SMALL_MODEL and self.seqlen <= SMALL_SEQLEN and self.dtype == torch.float32
        config = source.config if self.is_sibling else shrink.shrink(source.config, self.seqlen)
        self.sibling_seqlen = self.seqlen if self.is_sibling else min(self.seqlen, shrink.SMALL_SEQLEN)
        try:
            self.sibling = source.build(config, torch.float32, "cpu")
        except BadInput as error:
            raise BadInput(error if self.is_sibling else f"{error} (this is its small sibling, on which the graphs are checked)")
        self.unknown_names = self.find_unknown_buffers(config)
        check.random_weights(self.sibling)
        self.vocabulary = self.sibling.get_input_embeddings().weight.shape[0]
        try:
            self.probe = probe(self.sibling, self.vocabulary, self.sibling_seqlen, self.where)
        except BadInput:
            most = max_positions(source.config)
            if most is None or self.seqlen <= most:
                raise
            raise BadInput(f"{self.where}: max_position_embeddings: the model has {most} positions, and samples have {self.seqlen} "
                           f"tokens; make token sets of at most {most}")

    def find_unknown_buffers(self, config):
        """Names of buffers whose values, computed while a model is built, do not come back on one that was built without
        data. The graphs must not read them."""
        meta = self.source.build(config, torch.float32, "meta")
        fill_buffers(meta)
        made = computed_buffers(meta)
        return {name for name, buffer in computed_buffers(self.sibling).items()
                if name in made and not torch.equal(made[name].float(), buffer.float())}

    def sibling_kinds(self):
        tokens = random_tokens(self.vocabulary, 1, self.sibling_seqlen, seed=5)
        self.sibling_calls = capture.capture(self.sibling, self.probe, tokens, self.where)

    def check_kind(self, members):
        """Exports the first block of a kind of the sibling, and compares all of its blocks. -> the part, and the largest
        differences of outputs and of gradients."""
        layers, first = self.sibling.get_submodule(self.probe.layers), members[0]
        failures = []
        for ways, grow in ((WAYS[:2], {}), (WAYS[:2], self.growing(first)), (WAYS[2:], {})):
            if ways == WAYS[:2] and failures and not grow:
                continue
            try:
                part = self.block_part(self.sibling, layers[first], self.sibling_calls[first], first, self.sibling_inputs(first), ways, grow)
                part.grow = grow
                worst = 0.0
                for index in members:
                    found = check.guarded(lambda: check.check_outputs(part, layers[index], self.probe, index, index == first), self.where,
                                          f"block {index}")
                    check.require(found, check.OUTPUT, self.where, f"the output of block {index}")
                    worst = max(worst, found)
                found, name = check.guarded(
                    lambda: check.check_gradients(part, layers[first], self.sibling_calls[first], self.probe, first), self.where,
                    f"the gradient of block {first}")
                check.require(found, check.GRADIENT, self.where, f"the gradient of {name} in block {first}")
                return part, worst, found
            except BadInput as error:
                failures.append(error)
        raise failures[-1]

    def growing(self, index):
        """path -> dimension, of bound tensors that are larger in the probe's run, which has more samples."""
        found = {}
        large = dict(self.probe.calls[index].tensors())
        block = self.probe.blocks[index]
        for path, small in self.sibling_calls[index].tensors():
            other = large.get(path)
            if other is None or path in (block.hidden_in, *block.tokens, *block.takes) or other.shape == small.shape:
                continue
            for dimension in range(small.dim()):
                if other.dim() == small.dim() and other.shape[dimension] == small.shape[dimension] * self.probe.tokens.shape[0]:
                    found[path] = dimension
        return found

    def sibling_inputs(self, index):
        block, call = self.probe.blocks[index], self.probe.calls[index]
        return [block.ordered(call.value(block.hidden_in)), *(self.probe.tokens for _ in block.tokens),
                *(call.value(path) for path in (*block.takes, *block.unknown))]

    def block_part(self, model, layer, call, index, inputs, ways, grow):
        block = self.probe.blocks[index]
        function = parts.block_function(layer, call, block, grow)
        try:
            part = parts.export_function(model, function, inputs, *parts.block_names(block), ways, "layer.",
                                         self.own_attention, self.unknown)
            parts.refuse_unknown(part, block, f"block {index}")
        except BadInput as error:
            raise BadInput(f"{self.where}: block {index} ({type(layer).__name__}): {error}")
        return part

    def end_parts(self, model, tokens, hidden, ways=WAYS):
        embed, head = Embed(model, self.probe), Head(model, self.probe, tokens)
        found = []
        for name, function, example, outputs in (
                ("embedding part", embed, tokens, [("hidden",), *(("carried", n) for n in self.probe.embed_gives)]),
                ("head", head, hidden, [("logits",)])):
            inputs = [("tokens",)] if function is embed else [("hidden",)]
            trace_end = lambda: parts.export_function(model, function, [example], inputs, outputs, ways, "model.",
                                                      self.own_attention, self.unknown)
            try:
                try:
                    with without_parameters(model.get_submodule(self.probe.layers)):
                        found.append(trace_end())
                except BadInput:  # a model may look at its blocks' parameters outside of them
                    found.append(trace_end())
            except BadInput as error:
                raise BadInput(f"{self.where}: the {name}: {error}")
        return found

    # --- the model ---------------------------------------------------------------------------------------------------

    def look_at_model(self):
        fill_buffers(self.model)
        hollow.hollow_parameters(self.model)
        self.unknown = {storage(buffer): f"{self.where}: its buffer {name} cannot be computed from the config alone"
                        for model in (self.model, *([self.sibling] * self.is_sibling))
                        for name, buffer in model.named_buffers() if name in self.unknown_names}
        self.layers = self.model.get_submodule(self.probe.layers)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        tokens = random_tokens(vocabulary, 1, self.seqlen, seed=5)
        self.tokens = tokens.expand(EXAMPLES, -1).contiguous()
        self.calls = capture.capture(self.model, self.probe, tokens, self.where, self.unknown)
        self.kinds, self.first_blocks = capture.kinds_of(self.layers, self.calls, self.probe.blocks)

    def example_inputs(self, index, shapes):
        block, call = self.probe.blocks[index], self.calls[index]

        def example(leaf):
            return torch.zeros((EXAMPLES, *leaf.shape[1:]), dtype=leaf.dtype)
        return [example(block.ordered(call.leaf(block.hidden_in))), *(self.tokens for _ in block.tokens),
                *(torch.zeros((EXAMPLES, *shapes[name][0]), dtype=shapes[name][1]) for name in block.takes.values()),
                *(example(call.leaf(path)) for path in block.unknown)]

    def export_blocks(self, checked, embed):
        shapes = dict(zip(self.probe.embed_gives, embed.outputs[1:]))
        made = [None] * len(self.first_blocks)
        for index, kind in enumerate(self.kinds):
            if made[kind] is None:
                part = checked[kind]
                made[kind] = self.block_part(self.model, self.layers[index], self.calls[index], index,
                                             self.example_inputs(index, shapes), (part.batch,), part.grow)
            for name, output in zip(self.probe.blocks[index].gives.values(), made[kind].outputs[1:]):
                shapes[name] = output
        return made

    # --- all ---------------------------------------------------------------------------------------------------------

    def run(self):
        started = time.time()
        self.look_at_sibling()
        self.look_at_model()
        count = len(self.first_blocks)
        self.say(f"{len(self.kinds)} blocks of {count} kind{'s' * (count != 1)} "
                 f"({billions(sum(p.numel() for p in self.model.parameters()))} B parameters), {time.time() - started:.1f} s")
        self.sibling_kinds()
        checked, ends, outputs, gradients = self.check_all()
        if not self.own_attention:
            self.say("its attention is no plain one: PyTorch's operators compute it, not our own")
        self.say(f"checked on a small sibling: outputs differ from transformers by {max(outputs):.1e}, gradients by "
                 f"{max(gradients):.1e} (relative), {time.time() - started:.1f} s")
        if self.is_sibling:
            return self.assemble(checked, *ends, max(outputs), max(gradients))
        last = self.probe.blocks[-1]
        hidden = torch.zeros((EXAMPLES, *last.ordered(self.calls[-1].leaf(last.hidden_in)).shape[1:]), dtype=self.dtype)
        embed, head = self.end_parts(self.model, self.tokens, hidden)
        made = self.export_blocks(checked, embed)
        return self.assemble(made, embed, head, max(outputs), max(gradients))

    def check_all(self):
        """-> a checked part for each kind, embedding part and head, and the differences found. Where our attention cannot say what the model
        computes, PyTorch's is taken."""
        try:
            found = [self.check_kind([i for i, k in enumerate(self.kinds) if k == kind]) for kind in range(len(self.first_blocks))]
        except BadInput:
            if not self.own_attention:
                raise
            self.own_attention = False
            return self.check_all()
        parts_, outputs, gradients = (list(column) for column in zip(*found))
        ends, differences = self.check_ends()
        return parts_, ends, [*outputs, *differences], gradients

    def check_ends(self):
        probe = self.probe
        last = probe.blocks[-1].ordered(probe.calls[-1].value(probe.blocks[-1].hidden_out))
        embed, head = self.end_parts(self.sibling, probe.tokens, last)
        found = check.guarded(lambda: check.check_ends(embed, head, self.sibling, probe), self.where, "the embedding part or the head")
        for name, value in zip(("the output of the embedding part", "the logits"), found):
            check.require(value, check.OUTPUT, self.where, name)
        return (embed, head), found

    def assemble(self, made, embed, head, output, gradient):
        every = [embed, head, *made]
        prefixes, unused = tables.kind_tables(self.model, self.probe.layers, self.first_blocks, self.kinds, made, self.where)
        untouched = sorted(set(tables.end_tables(self.model, self.probe.layers, (embed, head), self.where) + unused))
        boundary, blocks = tables.boundary_and_blocks(self.probe, self.kinds, prefixes, made, embed, dtype_name)
        constants = folder.share_constants(every)
        operators = {}
        for part in every:
            operators.update(part.operators)
        model = {
            "format": FORMAT, "version": VERSION, "torch": plain(torch.__version__), "transformers": plain(transformers.__version__),
            "config_sha256": config_sha256(self.source.folder), "model_type": self.source.model_type,
            "architecture": type(self.model).__name__, "own_code": self.source.own_code, "seqlen": self.seqlen,
            "dtype": dtype_name(self.dtype), "vocab_size": head.outputs[0][0][-1],
            "batch": 1 if any(part.batch == trace.FIXED for part in every) else 0, "boundary": boundary,
            "operators": dict(sorted(operators.items())), "embed": embed.json, "head": head.json,
            "kinds": [part.json for part in made], "blocks": blocks, "untouched": untouched,
            "ignored": sorted(getattr(self.model, "_keys_to_ignore_on_load_unexpected", None) or ()),
            "check": {"output": float(output), "gradient": float(gradient)}}
        head_name = tables.untied_head(self.model, embed, head, self.where)
        described = {"head_name": head_name, "max_positions": max_positions(self.source.config),
                     "text_config": text_path(self.source.config)}
        model.update({key: value for key, value in described.items() if value})
        return model, constants


def billions(count):
    return f"{count / 1e9:.3g}" if count < 999.5e9 else f"{count / 1e9:.0f}"


def plain(version):
    return version.split("+")[0]


def max_positions(config):
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def text_path(config):
    """The path below config.json's root of the part that describes the text model: "text_config"; "" for the root."""
    wanted = config.get_text_config()
    if wanted is config:
        return ""
    queue = [("", config)]
    while queue:
        path, part = queue.pop(0)
        if part is wanted:
            return path
        queue += [(f"{path}.{name}" if path else name, value) for name, value in vars(part).items()
                  if isinstance(value, transformers.PretrainedConfig)]
    return ""


def export_model(model_dir, out, seqlen, dtype, own_code=False, say=lambda line: None):
    """Writes the graph folder `out`. dtype: a name; say: takes lines for people. Can be called again and again in one
    process. -> model.json and the bytes of the folder. Throws BadInput."""
    folder.check_target(out)
    if not os.path.isdir(model_dir):
        raise BadInput(f"{model_dir}: no such folder; name the folder of a model")
    with torch.random.fork_rng(devices=[]):  # models draw weights while they are built
        torch.manual_seed(0)
        exporter = Exporter(Source(model_dir, own_code), seqlen, getattr(torch, dtype), say)
        model, constants = exporter.run()
    return model, folder.write(out, model, constants)
