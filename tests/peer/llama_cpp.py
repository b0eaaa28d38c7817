"""llama.cpp itself, through its C interface (llama.h), out of the library that the xllamacpp package carries.

The parameters' structures change between versions. They are taken from llama_*_default_params() and handed on unread,
in a buffer larger than any version's: as the last argument, by value, the surplus is never looked at.
"""

import ctypes
import importlib.util
import pathlib

import numpy


class Params(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_uint64 * 64)]


class Batch(ctypes.Structure):
    """llama_batch."""
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)),
                ("embd", ctypes.POINTER(ctypes.c_float)), ("pos", ctypes.POINTER(ctypes.c_int32)),
                ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def library():
    # Loaded, not imported: Python's side of the package is of no use here.
    folder = pathlib.Path(importlib.util.find_spec("xllamacpp").submodule_search_locations[0])
    found = ctypes.CDLL(str(next(folder.glob("*.so"))))
    pointer, i32 = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
            ("model_default_params", Params, []), ("context_default_params", Params, []),
            ("model_load_from_file", pointer, [ctypes.c_char_p, Params]), ("init_from_model", pointer, [pointer, Params]),
            ("batch_init", Batch, [i32, i32, i32]), ("decode", i32, [pointer, Batch]),
            ("get_logits", ctypes.POINTER(ctypes.c_float), [pointer]), ("get_memory", pointer, [pointer]),
            ("memory_clear", None, [pointer, ctypes.c_bool]), ("model_get_vocab", pointer, [pointer]),
            ("vocab_n_tokens", i32, [pointer]), ("batch_free", None, [Batch]), ("free", None, [pointer]),
            ("model_free", None, [pointer]), ("backend_init", None, []), ("log_set", None, [LOG, pointer]),
            ("tokenize", i32, [pointer, ctypes.c_char_p, i32, ctypes.POINTER(i32), i32, ctypes.c_bool, ctypes.c_bool])):
        function = getattr(found, f"llama_{name}")
        function.restype, function.argtypes = result, arguments
    return found


class LlamaCpp:
    """A GGUF file, ready to compute. `messages` is what llama.cpp logged while it read the file."""

    CONTEXT = 512  # llama_context_default_params' n_ctx

    def __init__(self, path):
        self.llama = library()
        self.messages = []
        self.log = LOG(lambda level, text, user: self.messages.append(text.decode(errors="replace")))
        self.llama.llama_log_set(self.log, None)
        self.llama.llama_backend_init()
        self.model = self.llama.llama_model_load_from_file(str(path).encode(), self.llama.llama_model_default_params())
        if not self.model:
            raise ValueError("llama.cpp does not load the file:\n" + "".join(self.messages[-20:]))
        self.context = self.llama.llama_init_from_model(self.model, self.llama.llama_context_default_params())
        self.vocab = self.llama.llama_model_get_vocab(self.model)
        self.n_vocab = self.llama.llama_vocab_n_tokens(self.vocab)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.llama.llama_free(self.context)
        self.llama.llama_model_free(self.model)

    def decode(self, ids, first):
        """[tokens, vocabulary]: the logits of each of `ids`, which stand at the positions from `first` on."""
        batch = self.llama.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), first + i, 1, 1
            batch.seq_id[i][0] = 0
        code = self.llama.llama_decode(self.context, batch)
        if code != 0:
            raise ValueError(f"llama_decode: {code}")
        logits = numpy.ctypeslib.as_array(self.llama.llama_get_logits(self.context), (len(ids), self.n_vocab)).copy()
        self.llama.llama_batch_free(batch)
        return logits

    def logits(self, ids):
        """[samples, tokens, vocabulary] of token ids [samples, tokens]."""
        found = []
        for row in ids:
            self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
            found.append(self.decode(row, 0))
        return numpy.stack(found)

    def greedy(self, ids, count):
        """The `count` tokens that follow `ids`."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        logits, found = self.decode(ids, 0), []
        while len(found) < count:
            found.append(int(logits[-1].argmax()))
            logits = self.decode(found[-1:], len(ids) + len(found) - 1)
        return found

    def tokenize(self, text):
        """Without tokens that stand for nothing in the text."""
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()
        count = self.llama.llama_tokenize(self.vocab, data, len(data), room, len(room), False, False)
        return list(room[:count])
