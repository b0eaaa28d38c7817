"""The files that --text names: which of a directory are read, and their bytes and lines, unpacked piece by piece."""

import codecs
import contextlib
import gzip
import os
import zlib

from exit_codes import Failure, MachineFailure

EXTENSIONS = (".jsonl", ".json", ".txt", ".csv", ".parquet")
PACKED = (".gz", ".zst")  # not of .parquet, which packs its own columns
KINDS = ".jsonl, .json, .txt or .csv (or one of these and .gz or .zst), or in .parquet"
PIECE = 1 << 20
LONGEST_LINE = 1 << 30  # bytes; the longest line has to fit into memory


def extension_of(path):
    """The extension that says how the file is read; in lower case, without that of the packing."""
    stem, extension = os.path.splitext(path)
    packed = extension.lower() in PACKED
    extension = (os.path.splitext(stem)[1] if packed else extension).lower()
    return "" if packed and extension == ".parquet" else extension


def is_of_split(relative, split):
    *folders, name = relative.split(os.sep)
    return split in folders or name.startswith((f"{split}.", f"{split}-", f"{split}_"))


def files_of(path, split):
    """The file itself, or the files of the split in a directory."""
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise Failure(f"{path}: no such file")
        if extension_of(path) not in EXTENSIONS:
            raise Failure(f"{path}: its name must end in {KINDS}")
        return [path]
    files = sorted(os.path.relpath(os.path.join(folder, name), path)
                   for folder, _, names in os.walk(path) for name in names if extension_of(name) in EXTENSIONS)
    found = [os.path.join(path, name) for name in files if is_of_split(name, split)]
    if not found:
        raise Failure(f"{path}: no files of the split '{split}' (--dataset-split) among {len(files)}: "
                      f"{', '.join(files[:5])}")
    return found


def unpacker_of(path):
    """How the file is opened, the word for its packing, and what its damage raises."""
    packing = os.path.splitext(path)[1].lower()
    if packing == ".gz":
        return gzip.open, "gzip", (gzip.BadGzipFile, EOFError, zlib.error)
    if packing == ".zst":
        try:
            import pyarrow
        except ImportError as error:
            raise MachineFailure(f"{path}: reading .zst needs pyarrow: pip install pyarrow") from error
        return lambda name, mode: pyarrow.input_stream(name, compression="zstd"), "zstd", (OSError,)
    return open, "", ()


@contextlib.contextmanager
def unpacked(path):
    """The file's bytes, as a stream. Damage of a packed file that is found while it is read is the file's fault."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    opener, word, damage = unpacker_of(path)
    try:
        with opener(path, "rb") as stream:
            yield stream
    except damage as error:
        if isinstance(error, OSError) and error.errno:  # a disk that fails
            raise
        raise Failure(f"{path}: not a whole {word} file ({error})") from error


def not_utf8(place, data, position, whole):
    wide = ", but UTF-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
    return Failure(f"{place}: not UTF-8{wide} (byte {position} of the {whole}); convert the file, for example with iconv")


def lines_of(path):
    """Yields (number, bytes) of each line. A byte order mark is dropped."""
    with unpacked(path) as stream:
        number, rest = 1, b""
        while piece := stream.read(PIECE):
            if number == 1 and not rest:
                piece = piece.removeprefix(codecs.BOM_UTF8)
            first, *others = piece.split(b"\n")
            if not others:
                rest = longer(path, number, rest, first)
                continue
            yield number, rest + first
            for line in others[:-1]:
                number += 1
                yield number, line
            number, rest = number + 1, others[-1]
        if rest:
            yield number, rest


def longer(path, number, line, piece):
    """A line of many pieces grows in place, because copying it for each piece would take minutes."""
    line = line if isinstance(line, bytearray) else bytearray(line)
    line += piece
    if len(line) > LONGEST_LINE:
        raise Failure(f"{path}:{number}: a line of more than {LONGEST_LINE >> 20} MB; put one document on a line")
    return line


def decoded(path):
    """Yields the file's text in pieces of about a megabyte, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, size = 1, 0
    with unpacked(path) as stream:
        while True:
            piece = stream.read(PIECE)
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:  # its object starts with what the last piece left over
                line += error.object.count(b"\n", 0, error.start)
                position = size + len(piece) - len(error.object) + error.start
                raise not_utf8(f"{path}:{line}", error.object, position, "file") from error
            if not size:
                text = text.removeprefix("\ufeff")
            if text:
                yield text
            line += piece.count(b"\n")
            size += len(piece)
            if not piece:
                return
