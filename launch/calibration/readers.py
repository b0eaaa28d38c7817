"""Readers of the kinds of files. Each yields the file's items as (place, raw), in the same order each time, and turns
the raw form of an item into the item: parsing is the slow part, and a second pass needs only the items that it takes.

An item is a string, or an object with named fields. It becomes a document in documents.py.
"""

import csv
import json
import re

from calibration.files import LONGEST_LINE, decoded, extension_of, lines_of, not_utf8
from exit_codes import Failure, MachineFailure

WHOLE_TEXT = 16 << 20  # characters of a .txt file that is one document
PART_OF_TEXT = 1 << 20  # characters of a document of a longer one
NOT_READ = (ValueError, RecursionError)  # a number of thousands of digits, thousands of brackets
DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")


def reason_of(error):
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


class Lines:
    """.jsonl: an item per line."""

    def items(self, path):
        for number, line in lines_of(path):
            if line.strip():
                yield f"{path}:{number}", line

    def item(self, place, line):
        try:
            return json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise not_utf8(place, line, error.start, "line") from error
        except json.JSONDecodeError as error:
            raise Failure(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
        except NOT_READ as error:
            raise Failure(f"{place}: not JSON: {reason_of(error)}") from error


class ParsedAlready:
    def item(self, place, item):
        return item


class JsonList(ParsedAlready):
    """.json: a list of items, of which one at a time is in memory."""

    def items(self, path):
        text = Window(path)
        if text.next_character() != "[":
            raise Failure(f'{path}: must hold a list of strings or of objects; if it has one document per line, name it .jsonl')
        text.start += 1
        if text.next_character() == "]":
            text.start += 1
        else:
            number = 0
            while True:
                text.next_character()
                yield f"{path}: item {number}", text.next_item()
                number += 1
                character = text.next_character()
                if character not in (",", "]"):
                    raise text.failure("Expecting ',' delimiter", text.start)
                text.start += 1
                if character == "]":
                    break
        if text.next_character():
            raise text.failure("Extra data", text.start)


class Window:
    """The part of a JSON text that is being read, and where in the file it is."""

    def __init__(self, path):
        self.path = path
        self.pieces = decoded(path)
        self.text, self.start, self.line, self.column = "", 0, 1, 1

    def grow(self):
        """Reads as much again as it holds, so that a long item is parsed a few times only. False at the end."""
        pieces, size = [], 0
        for piece in self.pieces:
            pieces.append(piece)
            size += len(piece)
            if size > len(self.text) - self.start:
                break
        if pieces:
            self.line, self.column = self.place_of(self.start)
            self.text, self.start = self.text[self.start:] + "".join(pieces), 0
        return bool(pieces)

    def place_of(self, position):
        """The line and column of the file."""
        newline = self.text.rfind("\n", 0, position)
        if newline < 0:
            return self.line, self.column + position
        return self.line + self.text.count("\n", 0, position), position - newline

    def next_character(self):
        """The next one that is not space; empty at the end."""
        while True:
            self.start = SPACE.match(self.text, self.start).end()
            if self.start < len(self.text):
                return self.text[self.start]
            if not self.grow():
                return ""

    def next_item(self):
        while True:
            try:
                item, end = DECODER.raw_decode(self.text, self.start)
            except (json.JSONDecodeError, *NOT_READ) as error:
                if not isinstance(error, json.JSONDecodeError):
                    raise self.failure(reason_of(error), self.start) from error
                # A string that has not ended yet, or a fault at the very end, may only lack the rest of its text.
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - 16
                if not cut or len(self.text) > LONGEST_LINE or not self.grow():
                    raise self.failure(error.msg, error.pos) from error
                continue
            self.start = end
            return item

    def failure(self, message, position):
        line, column = self.place_of(position)
        return Failure(f"{self.path}:{line}: not JSON: {message} at column {column}")


class Text(ParsedAlready):
    """.txt: one document. A long file would not fit into memory: it is cut at ends of lines into many."""

    def items(self, path):
        text, parts = "", 0
        for piece in decoded(path):
            text += piece
            while len(text) > (2 * PART_OF_TEXT if parts else WHOLE_TEXT):
                end = text.rfind("\n", 0, PART_OF_TEXT) + 1 or PART_OF_TEXT
                yield f"{path}: part {parts}", text[:end].replace("\r\n", "\n")
                text, parts = text[end:], parts + 1
        yield f"{path}: part {parts}" if parts else path, text.replace("\r\n", "\n")


class Csv(ParsedAlready):
    """.csv: an item per row; the first row names the fields."""

    def items(self, path):
        csv.field_size_limit(LONGEST_LINE)
        rows = csv.reader(text_lines(path))
        try:
            names = next(rows, [])
            for row in rows:
                if row:
                    yield f"{path}:{rows.line_num}", dict(zip(names, row))
        except csv.Error as error:
            raise Failure(f"{path}:{rows.line_num}: not CSV: {error}") from error


def text_lines(path):
    rest = ""
    for piece in decoded(path):
        first, *others = piece.split("\n")
        if not others:
            rest += first
            continue
        yield rest + first + "\n"
        for line in others[:-1]:
            yield line + "\n"
        rest = others[-1]
    if rest:
        yield rest


class Parquet(ParsedAlready):
    """.parquet: an item per row, with those of the columns that a document can be made of."""

    def __init__(self, fields):
        self.fields = fields

    def items(self, path):
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise MachineFailure(f"{path}: reading .parquet needs pyarrow: pip install pyarrow") from error
        try:
            with parquet.ParquetFile(path, pre_buffer=False) as file:
                names = file.schema_arrow.names
                columns = [name for name in self.fields if name in names]
                if not columns:
                    raise Failure(f'{path}: no column {quoted(self.fields)}, only {", ".join(names)}; --text-key names one')
                number = 0
                for batch in file.iter_batches(columns=columns, batch_size=256, use_threads=False):
                    for row in batch.to_pylist():
                        yield f"{path}: row {number}", row
                        number += 1
        except pyarrow.ArrowInvalid as error:
            raise Failure(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from error


def quoted(names):
    return " or ".join(f'"{name}"' for name in names)


def reader_of(path, fields):
    extension = extension_of(path)
    if extension == ".parquet":
        return Parquet(fields)
    return {".jsonl": Lines, ".json": JsonList, ".txt": Text, ".csv": Csv}[extension]()
