"""The token set: where it may be written, and its bytes."""

import json
import os
import tempfile

from exit_codes import Failure, MachineFailure
from output_file import check_replaceable

FORMAT = "roundtable.tokens"
LONGEST_HEADER = 1 << 20


def is_token_set(path):
    try:
        with open(path, "rb") as f:
            size = int.from_bytes(f.read(8), "little")
            return size < LONGEST_HEADER and json.loads(f.read(size))["__metadata__"]["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def check_place(path, model):
    """Refuses what would overwrite something else, and finds out early whether a file can be written there."""
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    if folder == os.path.realpath(model):
        raise Failure(f"--out {path}: it is in the model's directory {model}, where readers take every .safetensors file "
                      "for weights; choose another place")
    check_replaceable(path, "--out", is_token_set, "a token set")
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise Failure(f"--out {path}: {error.filename} is not a directory") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MachineFailure(f"--out {path}: the directory {folder} cannot be written")


def write_token_set(path, rows, metadata):
    """Written by hand, because the order of the metadata in the safetensors library is random: the bytes would differ."""
    import numpy

    data = numpy.asarray(rows, dtype="<i4")
    header = {"__metadata__": metadata,
              "input_ids": {"dtype": "I32", "shape": list(data.shape), "data_offsets": [0, data.nbytes]}}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)

    path = os.path.abspath(path)
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
