"""Exports one function - a block, the embedding part, the head - as a part of model.json."""

from . import mixtures, operators, scans, trace
from .calls import BlockFunction
from .encode import Encoder
from .errors import BadInput, reason
from .fold import flag_masks, fold
from .lower import lower
from .provenance import storage


class Part:
    """`json`: inputs, nodes, outputs, values, parameters. `tensors`: name -> parameter or constant. `batch`: how it was
    traced. `outputs`: shapes and dtypes of the outputs, the batch left out."""

    def __init__(self, encoder, batch, outputs):
        self.json = encoder.result()
        self.constants, self.parameters, self.operators = encoder.constants, encoder.parameters, encoder.operators
        self.batch, self.outputs = batch, outputs


def attention_of(model):
    """'sdpa' or 'eager', as the model was built."""
    config = model.config.get_text_config(decoder=True) if hasattr(model.config, "get_text_config") else model.config
    return getattr(config, "_attn_implementation", None) or "eager"


def export_function(model, function, inputs, input_names, output_names, ways, prefix, own_attention=True, unknown=None):
    """`ways`: batches to try, of trace.py; FIXED is tried with a batch of one. unknown: storage -> what to say if the graph
    reads a tensor of it."""
    last = None
    for way in ways:
        examples = [x[:1] for x in inputs] if way == trace.FIXED else list(inputs)
        try:
            with operators.in_use(attention_of(model), own_attention), mixtures.in_use(model), scans.in_use(model), \
                    trace.frequencies_as_they_are(model):
                program = trace.trace(function, examples, way)
            module, sources = lower(program, prefix)
            refuse_unknown_tensors(module, sources, unknown or {})
            fold(module, sources)
            flag_masks(module, sources)
            encoder = Encoder(module, sources, input_names, output_names).run()
            out = next(node for node in module.graph.nodes if node.op == "output")
            shapes = [(list(value.meta["val"].shape[1:]), value.meta["val"].dtype) for value in out.args[0]]
            strip(encoder, prefix)
            return Part(encoder, way, shapes)
        except BadInput:
            raise
        except Exception as error:  # tracing raises anything
            last = error
    raise BadInput(f"torch.export cannot trace it: {reason(last)}")


def refuse_unknown_tensors(module, sources, unknown):
    for node in module.graph.nodes:
        if node.op == "placeholder" and node.users and sources[node.name].kind == "constant":
            key = storage(sources[node.name].tensor)
            if key in unknown:
                raise BadInput(unknown[key])


def strip(encoder, prefix):
    """Names of parameters start below the function's own attribute."""
    def plain(name):
        return name[len(prefix):] if name.startswith(prefix) else name
    encoder.parameters = {plain(name): tensor for name, tensor in encoder.parameters.items()}
    for entry in encoder.inputs:
        if entry["kind"] == "parameter":
            entry["name"] = plain(entry["name"])


def block_function(layer, call, block, grow=None):
    inputs = [block.hidden_in, *block.tokens, *block.takes, *block.unknown]
    return BlockFunction(layer, call, block, inputs, [block.hidden_out, *block.gives], grow)


def block_names(block):
    """Names of a block's inputs and outputs, in the order of block_function(). In a kind they are paths and places, since
    every block of the kind takes other tensors of the boundary."""
    inputs = [("hidden",), *(("tokens",) for _ in block.tokens), *(("carried", path) for path in block.takes),
              *(("unknown", path) for path in block.unknown)]
    return inputs, [("hidden",), *(("carried", " ".join(place)) for place in block.gives)]


def refuse_unknown(part, block, where):
    for entry in part.json["inputs"]:
        if entry["kind"] == "unknown":
            raise BadInput(f"{where}: it takes {entry['name']}, and {block.unknown[entry['name']]}")
