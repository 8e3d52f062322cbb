"""Renderings of refused input that are short and printable, whatever the client sent."""

from __future__ import annotations

import json
from typing import Any

from mlc_server.limits import MAX_ERROR_VALUE

_MAX_NUMBER_CHARACTERS = 32


def show(value: Any) -> str:
    """A value as JSON, strings and numbers cut short, containers by kind and size only."""
    if isinstance(value, (dict, list)):
        return f"{kind(value)} of {len(value)}"
    if isinstance(value, str):
        limit = MAX_ERROR_VALUE.default
        return json.dumps(value[:limit]) + ("..." if len(value) > limit else "")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = repr(value)
    cut = _MAX_NUMBER_CHARACTERS
    return text if len(text) <= cut else text[:cut] + "..."


def kind(value: Any) -> str:
    """What JSON calls a value of this type, with its article."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def printable(text: str, characters: int = 128) -> str:
    """The first characters of `text` with control characters and lone surrogates replaced."""
    return "".join(c if c.isprintable() else "?" for c in text[:characters])
