"""How an item of a file becomes a document: the string in one of its fields, or a conversation in the model's template.

Conversations come in three shapes:
  {"messages": [{"role": "user", "content": "..."}, ...]}            transformers' own
  {"conversations": [{"from": "human", "value": "..."}, ...]}        ShareGPT's
  {"instruction": "...", "input": "...", "output": "..."}            alpaca's
"""

from exit_codes import Failure

LISTS = ("messages", "conversations")
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
         "model": "assistant", "observation": "tool", "function_response": "tool"}


class NoText(Exception):
    """The model's template refuses a conversation."""


class Texts:
    """The string in the field `key`, or an item that is a string itself."""

    def __init__(self, key):
        self.fields = [key]

    def parse(self, item, place):
        """Checks an item. Returns the document, or None where the field is null."""
        key = self.fields[0]
        text = item
        if isinstance(item, dict):
            if key not in item:
                raise Failure(f'{place}: no "{key}", only {names_of(item)}; {self.advice(item)}')
            text = item[key]
            if text is None:
                return None
        if not isinstance(text, str):
            raise Failure(f'{place}: a document must be a string, or an object with a string "{key}"{hint(text)}')
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Failure(f"{place}: half of a surrogate pair (\\u{ord(text[error.start]):x}) at character {error.start}, "
                          "which is no text") from error
        return text

    def advice(self, item):
        chat = any(name in item for name in (*LISTS, "instruction"))
        return "give --chat-template for conversations" if chat else "--text-key names the field with the text"

    def render(self, text):
        return text


class Chats:
    """Conversations, each written out by the tokenizer's own chat template."""

    def __init__(self, key, tokenizer):
        self.tokenizer = tokenizer
        self.lists = [key] if key else list(LISTS)
        self.fields = [*self.lists, "instruction", "input", "output", "system"]

    def parse(self, item, place):
        """Checks an item. Returns its messages, or None where they are null."""
        if isinstance(item, list):
            return messages_of(item, place)
        if not isinstance(item, dict):
            raise Failure(f"{place}: not a conversation, but text; leave --chat-template out")
        for key in self.lists:
            if key in item:
                if item[key] is None:
                    return None
                if not isinstance(item[key], list):
                    raise Failure(f'{place}: "{key}" must be a list of messages')
                return messages_of(item[key], place)
        if "instruction" in item:
            return alpaca(item, place)
        raise Failure(f'{place}: no {" or ".join(self.lists)} or "instruction", only {names_of(item)}; '
                      "--text-key names the field with the messages")

    def render(self, messages):
        try:
            text = self.tokenizer.chat_text(messages)
            text.encode()  # fails for half of a surrogate pair
            return text
        except Exception as error:  # a template raises what it likes
            raise NoText(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def names_of(item):
    return ", ".join(f'"{name}"' for name in list(item)[:8]) or "no field"


def hint(value):
    chat = isinstance(value, list) and value and isinstance(value[0], dict)
    return "; give --chat-template for conversations" if chat else ""


def messages_of(items, place):
    messages = []
    for item in items:
        role, content = None, None
        if isinstance(item, dict):
            role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
        if not isinstance(role, str):
            raise Failure(f'{place}: a message must have "role" and "content", or "from" and "value"')
        if content is None and not item.get("tool_calls"):
            return None
        fields = {k: v for k, v in item.items() if k not in ("from", "value") and v is not None}
        messages.append(fields | {"role": ROLES.get(role, role), "content": content})
    return messages


def alpaca(item, place):
    """The prompt as alpaca's: the input follows the instruction after an empty line."""
    instruction, more, output, system = (item.get(name) for name in ("instruction", "input", "output", "system"))
    if instruction is None:
        return None
    if not all(isinstance(text, str) for text in (instruction, more or "", output or "", system or "")):
        raise Failure(f'{place}: "instruction", "input", "output" and "system" must be strings')
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": f"{instruction}\n\n{more}" if more else instruction})
    return messages + ([{"role": "assistant", "content": output}] if output else [])
