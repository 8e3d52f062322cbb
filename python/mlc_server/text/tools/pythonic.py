"""Calls written in Python: a list of calls, or one; keyword arguments that are literals."""

from __future__ import annotations

import json

from mlc_server.text.tools.json_calls import JsonCallParser
from mlc_server.text.tools.parser import SPACE, CallParser, Steps
from mlc_server.text.tools.python_calls import CLOSING, parse_calls

_DEEPEST = 32
_PYTHON_NAMES = {"True": "true", "False": "false", "None": "null"}
_INITIALS = frozenset(name[0] for name in _PYTHON_NAMES)
_LONGEST_NAME = 256


class PythonicCalls(CallParser):
    """Reads Python text up to its last bracket, then takes it apart as a whole."""

    def _python_calls(self) -> Steps[None]:
        character = yield from self._read()
        text = ""
        while character.isalnum() or (character and character in "_-"):
            text += character
            character = yield from self._read()
        expected = "(" if text else "["
        if character != expected or (text and text not in self._names):
            self._refuse(character)
        text += yield from self._bracketed(character)
        try:
            calls = parse_calls(text)
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            calls = []
        if not calls or any(name not in self._names for name, _ in calls):
            self._refuse("")
        for name, arguments in calls:
            index = self._start_call(name)
            self._add_arguments(index, arguments)
            self._end_call()

    def _bracketed(self, opening: str) -> Steps[str]:
        """Text from an opening bracket to the one that closes it."""
        text, expected = opening, [CLOSING[opening]]
        quote = ""
        while expected:
            character = yield from self._read()
            if not character or len(expected) > _DEEPEST:
                self._refuse(character)
            text += character
            if quote:
                if character == "\\":
                    text += yield from self._read()
                elif character == quote:
                    quote = ""
            elif character in "\"'":
                quote = character
            elif character in CLOSING:
                expected.append(CLOSING[character])
            elif character in ")]}" and character != expected.pop():
                self._refuse("")
        return text


class EnforcedPythonicCalls(JsonCallParser):
    """Reads a list of calls as python_grammar writes it: values are JSON, or True, False or None.
    Arguments are reported as they are written."""

    def _enforced_calls(self) -> Steps[None]:
        character = yield from self._read()  # the "["
        while True:
            name = yield from self._name("(")
            if name not in self._names:
                self._refuse("")
            index = self._start_call(name)
            yield from self._keywords(index)
            self._end_call()
            self._commit()
            character = yield from self._read()
            if character == "]":
                return
            if character != ",":
                self._refuse(character)

    def _keywords(self, index: int) -> Steps[None]:
        """Arguments up to ")", whose "(" has been read, as a JSON object."""
        separator = "{"
        character = yield from self._read()
        while character != ")":
            self._unread(character)
            name = yield from self._name("=")
            self._add_arguments(index, f"{separator}{json.dumps(name, ensure_ascii=False)}: ")
            yield from self._python_value(index)
            separator = ", "
            character = yield from self._read()
            if character not in (",", ")"):
                self._refuse(character)
            if character == ",":
                character = yield from self._read_past_space()
        self._add_arguments(index, "{}" if separator == "{" else "}")

    def _python_value(self, index: int) -> Steps[None]:
        character = yield from self._read()
        if character not in _INITIALS:
            self._unread(character)
            yield from self._value(lambda text: self._add_arguments(index, text))
            return
        word = ""
        while character.isalpha() and len(word) < _LONGEST_NAME:
            word += character
            character = yield from self._read()
        self._unread(character)
        if word not in _PYTHON_NAMES:
            self._refuse("")
        self._add_arguments(index, _PYTHON_NAMES[word])

    def _name(self, end: str) -> Steps[str]:
        """A name up to the character that ends it, space before it left out."""
        name = ""
        while len(name) <= _LONGEST_NAME:
            character = yield from self._read()
            if character == end and name:
                return name
            if character in SPACE and not name:
                continue
            if not (character.isalnum() or (character and character in "_-")):
                self._refuse(character)
            name += character
        self._refuse("")
