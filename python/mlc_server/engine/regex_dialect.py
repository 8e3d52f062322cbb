r"""Regular expressions as JSON Schema means them (ECMA-262), for a compiler that takes Rust's.

There \d and \w are any script's digits and letters; here, as clients expect, those of ASCII.
"""

from __future__ import annotations

import re
from typing import Any

_ESCAPE = re.compile(r"\\.", re.DOTALL)
# Rust allows a class within a class, so these stand anywhere.
_ASCII_CLASSES = {
    r"\d": "[0-9]",
    r"\D": "[^0-9]",
    r"\w": "[0-9A-Za-z_]",
    r"\W": "[^0-9A-Za-z_]",
}
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions"})
_SCHEMAS = frozenset(
    {"additionalProperties", "allOf", "anyOf", "items", "oneOf", "prefixItems", "additionalItems"}
)


def ascii_classes(pattern: str) -> str:
    r"""`pattern` with \d, \D, \w and \W replaced by what they mean in ASCII."""
    return _ESCAPE.sub(lambda match: _ASCII_CLASSES.get(match[0], match[0]), pattern)


def with_ascii_patterns(schema: Any) -> Any:
    """`schema` with its patterns so replaced; constants and names are left alone."""
    if isinstance(schema, list):
        return [with_ascii_patterns(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {keyword: _value(keyword, value) for keyword, value in schema.items()}


def _value(keyword: str, value: Any) -> Any:
    if keyword == "pattern" and isinstance(value, str):
        return ascii_classes(value)
    if keyword == "patternProperties" and isinstance(value, dict):
        return {ascii_classes(key): with_ascii_patterns(item) for key, item in value.items()}
    if keyword in _NAMED_SCHEMAS and isinstance(value, dict):
        return {name: with_ascii_patterns(item) for name, item in value.items()}
    return with_ascii_patterns(value) if keyword in _SCHEMAS else value
