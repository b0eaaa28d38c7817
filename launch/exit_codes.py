"""How the Python tools end: one line about an error, and the exit code that `roundtable` gives for such an error."""

import sys

# src/base/error.h: ExitCode. A fault of the tool itself leaves a traceback, and Python's exit code 1.
BAD_INPUT, MACHINE = 2, 3


class Failure(Exception):
    """What is wrong with the input, and how to fix it; shown as one line."""


class MachineFailure(Exception):
    """What is wrong with the machine: its disk, its memory, a missing package."""


def message_of(error):
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return str(error)


def run(tool, *arguments):
    """Calls tool(*arguments) and returns the exit code."""
    try:
        tool(*arguments)
    except (Failure, MachineFailure, OSError, ImportError, MemoryError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, Failure) else MACHINE
    return 0


def warn(text):
    print(f"warning: {text}", file=sys.stderr)
