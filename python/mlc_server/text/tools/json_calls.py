"""Calls written as JSON: {"name": ..., "arguments": {...}}, read while they are being written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from mlc_server.text.tools.parser import SPACE, CallParser, Steps

_ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_OTHER_KEYS = frozenset({"id", "type"})
_LONGEST_NAME = 256
_SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
_SCALAR_CHARACTERS = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LONGEST_SCALAR = 512
_ESCAPES = frozenset('"\\/bfnrt')
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")

Sink = Callable[[str], None]


class JsonCallParser(CallParser):
    """Reads JSON values and the calls they stand for. Arguments are reported as they are written,
    except that control characters in strings are escaped, as JSON demands."""

    def _call_list(self) -> Steps[None]:
        """Calls up to "]"; the "[" has been read. Each is reported for good when it is complete."""
        while True:
            character = yield from self._read_past_space()
            if character != "{":
                self._refuse(character)
            yield from self._call_object()
            self._commit()
            character = yield from self._read_past_space()
            if character == "]":
                return
            if character != ",":
                self._refuse(character)

    def _call_object(self) -> Steps[None]:
        """One call; its "{" has been read."""
        call = _Call(self)
        while True:
            key = yield from self._key()
            if key == "name":
                name = yield from self._short_text()
                if name not in self._names or call.name is not None:
                    self._refuse("")
                call.name = name
            elif key in _ARGUMENT_KEYS and not call.has_arguments:
                yield from self._arguments(call)
            elif key in _OTHER_KEYS:
                character = yield from self._read_past_space()
                self._unread(character)
                yield from self._value(lambda text: None)
            else:
                self._refuse("")
            character = yield from self._read_past_space()
            if character == "}":
                break
            if character != ",":
                self._refuse(character)
        if call.name is None:
            self._refuse("")
        call.end()

    def _key(self) -> Steps[str]:
        key = yield from self._short_text()
        character = yield from self._read_past_space()
        if character != ":":
            self._refuse(character)
        return key

    def _arguments(self, call: _Call) -> Steps[None]:
        """An object, a string that holds one, or null for none."""
        character = yield from self._read_past_space()
        self._unread(character)
        call.has_arguments = True
        if character == "{":
            yield from self._value(call.add)
            return
        if character not in ('"', "n"):
            self._refuse("")
        parts: list[str] = []
        yield from self._value(parts.append)
        value = json.loads("".join(parts))
        if value is None:
            call.add("{}")
        elif _is_object(value):
            call.add(value.strip())
        else:
            self._refuse("")

    def _short_text(self) -> Steps[str]:
        """A string, decoded."""
        character = yield from self._read_past_space()
        if character != '"':
            self._refuse(character)
        parts = [character]
        yield from self._string(parts.append, longest=_LONGEST_NAME)
        text: str = json.loads("".join(parts))
        return text

    def _value(self, sink: Sink) -> Steps[None]:
        """One JSON value, which the next character begins."""
        open_brackets: list[str] = []
        may_close = False  # right after an opening bracket
        while True:
            character = yield from self._skip_space(sink)
            if may_close and character == _CLOSING[open_brackets[-1]]:
                sink(character)
                open_brackets.pop()
            else:
                if open_brackets and open_brackets[-1] == "{":
                    yield from self._member_key(character, sink)
                    character = yield from self._skip_space(sink)
                if character in _CLOSING:
                    sink(character)
                    open_brackets.append(character)
                    may_close = True
                    continue
                yield from self._scalar(character, sink)
            while open_brackets:
                character = yield from self._skip_space(sink)
                if character == ",":
                    sink(character)
                    break
                if character != _CLOSING[open_brackets[-1]]:
                    self._refuse(character)
                sink(character)
                open_brackets.pop()
            else:
                return
            may_close = False

    def _skip_space(self, sink: Sink) -> Steps[str]:
        while True:
            character = yield from self._read()
            if character not in SPACE:
                return character
            sink(character)

    def _member_key(self, character: str, sink: Sink) -> Steps[None]:
        if character != '"':
            self._refuse(character)
        sink(character)
        yield from self._string(sink)
        character = yield from self._skip_space(sink)
        if character != ":":
            self._refuse(character)
        sink(character)

    def _scalar(self, character: str, sink: Sink) -> Steps[None]:
        if character == '"':
            sink(character)
            yield from self._string(sink)
            return
        token = ""
        while character and character in _SCALAR_CHARACTERS and len(token) < _LONGEST_SCALAR:
            token += character
            character = yield from self._read()
        self._unread(character)
        if not _SCALAR.fullmatch(token):
            self._refuse("")
        sink(token)

    def _string(self, sink: Sink, longest: int | None = None) -> Steps[None]:
        """The rest of a string whose quote has been read, escapes as they are."""
        length = 0
        while longest is None or length <= longest:
            character = yield from self._read()
            if not character:
                self._refuse(character)
            if character == "\\":
                character = yield from self._escape()
            elif character < " ":
                character = json.dumps(character)[1:-1]
            sink(character)
            length += 1
            if character == '"':
                return
        self._refuse("")

    def _escape(self) -> Steps[str]:
        character = yield from self._read()
        if character in _ESCAPES:
            return "\\" + character
        if character != "u":
            self._refuse(character)
        digits = ""
        for _ in range(4):
            character = yield from self._read()
            if character not in _HEX_DIGITS:
                self._refuse(character)
            digits += character
        return "\\u" + digits


_CLOSING = {"{": "}", "[": "]"}


class _Call:
    """A call while it is read. Arguments that come before the name wait for it."""

    def __init__(self, parser: JsonCallParser) -> None:
        self.name: str | None = None
        self.has_arguments = False
        self._parser = parser
        self._index: int | None = None
        self._early: list[str] = []

    def add(self, text: str) -> None:
        """More text of the arguments."""
        if self.name is None:
            self._early.append(text)
            return
        self._start()
        self._report(text)

    def end(self) -> None:
        if not self.has_arguments:
            self._early.append("{}")
        self._start()
        self._parser._end_call()

    def _start(self) -> None:
        if self._index is None:
            assert self.name is not None
            self._index = self._parser._start_call(self.name)
            self._report("".join(self._early))

    def _report(self, text: str) -> None:
        assert self._index is not None
        if text:
            self._parser._add_arguments(self._index, text)


def _is_object(text: str) -> bool:
    """Whether `text` is a JSON object that can be sent on."""
    try:
        text.encode("utf-8")
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
