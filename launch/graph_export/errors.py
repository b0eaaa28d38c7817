"""What ends an export."""


class BadInput(Exception):
    """What the user can fix, or a model that cannot be exported: shown as one line, exit code 2."""


def reason(error):
    """The first line of what an exception says, with the place in the model's code if there is one."""
    import traceback
    text = str(error).strip().splitlines()
    places = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
              if "modeling_" in frame.filename]
    line = f"{type(error).__name__}: {text[0][:300] if text else ''}"
    return f"{line} (at {places[-1]})" if places else line
