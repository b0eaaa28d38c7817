"""Files that the Python tools write: none replaces a file that such a tool has not made."""

import os

from exit_codes import Failure


def check_replaceable(path, option, is_ours, what):
    """Raises a Failure where something is at `path` for which is_ours(path) is false."""
    if os.path.lexists(path) and not (os.path.isfile(path) and is_ours(path)):
        raise Failure(f"{option} {path}: exists and is not {what}; choose another name")


def start_of(path, size):
    try:
        with open(path, "rb") as f:
            return f.read(size)
    except OSError:
        return b""
