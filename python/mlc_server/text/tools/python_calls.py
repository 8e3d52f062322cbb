"""Calls written in Python, taken apart: f(a=1), or a list of such calls or of their texts.

Names need not be Python's: functions may have hyphens, arguments may be keywords (`from="Oslo"`),
as those of JSON schemas often are. So only the values are left to Python's parser.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

CLOSING = {"(": ")", "[": "]", "{": "}"}
_JSON_NAMES = {"true": True, "false": False, "null": None}
_NAME = re.compile(r"[\w-]+")
_SPACE = re.compile(r"\s*")
# A string literal, with Python's prefixes, whose quotes are closed.
_STRING = re.compile(r"""(?s)\w{0,2}("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")


def parse_calls(text: str) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of each call.

    Raises what ast.parse raises, ValueError and TypeError for anything else.
    """
    return _Reader(text).whole()


class _Reader:
    """Reads one text from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def whole(self) -> list[tuple[str, str]]:
        calls = list(self._calls())
        self._expect_end()
        return calls

    def _calls(self) -> Iterator[tuple[str, str]]:
        self._skip_space()
        if not self._takes("["):
            yield self._call()
            return
        while not self._takes("]"):
            yield self._element()
            if not self._takes(","):
                self._expect("]")
                return

    def _element(self) -> tuple[str, str]:
        """A call, or a string that holds one."""
        match = _STRING.match(self._text, self._place)
        if match is None:
            return self._call()
        self._place = match.end()
        self._skip_space()
        inner = _Reader(_evaluated(match[0]).strip())
        call = inner._call()
        inner._expect_end()
        return call

    def _call(self) -> tuple[str, str]:
        name = self._name()
        self._expect("(")
        arguments: dict[str, Any] = {}
        while not self._takes(")"):
            key = self._name()
            if key in arguments:
                raise ValueError("an argument is given twice")
            self._expect("=")
            arguments[key] = _evaluated(self._value())
            if not self._takes(","):
                self._expect(")")
                break
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")  # a lone surrogate cannot be sent on
        return name, text

    def _name(self) -> str:
        match = _NAME.match(self._text, self._place)
        if match is None:
            raise ValueError("a name is missing")
        self._place = match.end()
        self._skip_space()
        return match[0]

    def _value(self) -> str:
        """Text up to the comma or bracket that ends an argument."""
        begin, open_brackets = self._place, 0
        while self._place < len(self._text):
            character = self._text[self._place]
            if character in "\"'":
                match = _STRING.match(self._text, self._place)
                if match is None:
                    break
                self._place = match.end()
                continue
            if not open_brackets and character in ",)":
                break
            open_brackets += (character in CLOSING) - (character in CLOSING.values())
            self._place += 1
        return self._text[begin : self._place].strip()

    def _takes(self, character: str) -> bool:
        """Whether `character` is next; moves past it and the space after it if so."""
        if not self._text.startswith(character, self._place):
            return False
        self._place += 1
        self._skip_space()
        return True

    def _expect(self, character: str) -> None:
        if not self._takes(character):
            raise ValueError(f"{character} is missing")

    def _expect_end(self) -> None:
        if self._place < len(self._text):
            raise ValueError("text after the end")

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._place)
        assert match is not None
        self._place = match.end()


def _evaluated(text: str) -> Any:
    """The value of a literal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser's advice on how to write Python
        return _literal(ast.parse(text, mode="eval").body)


def _literal(node: ast.expr) -> Any:
    """The value of a literal, with the names JSON has for some."""
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.List):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _literal(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("keys must be strings")
        return dict(zip(keys, map(_literal, node.values), strict=True))
    return ast.literal_eval(node)
