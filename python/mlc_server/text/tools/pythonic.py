"""Calls written in Python: a list of calls, or one; keyword arguments that are literals."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any

from mlc_server.text.tools.parser import CallParser, Steps

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_DEEPEST = 32
_JSON_NAMES = {"true": True, "false": False, "null": None}


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
            calls = _parse(text)
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
        text, expected = opening, [_CLOSING[opening]]
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
            elif character in _CLOSING:
                expected.append(_CLOSING[character])
            elif character in ")]}" and character != expected.pop():
                self._refuse("")
        return text


def _parse(text: str) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of each call; raises ValueError and what ast.parse raises."""
    root = _expression(text)
    nodes = root.elts if isinstance(root, ast.List) else [root]
    return [_call(node) for node in nodes]


def _call(node: ast.expr) -> tuple[str, str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = _expression(node.value.strip())
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call with keyword arguments only")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** is no argument")
        arguments[keyword.arg] = _literal(keyword.value)
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")  # a lone surrogate cannot be sent on
    return ast.unparse(node.func), text


def _expression(text: str) -> ast.expr:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser's advice on how to write Python
        return ast.parse(text, mode="eval").body


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
