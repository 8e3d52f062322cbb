"""Values of `structured_outputs` that are made to take a compiler's time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def another(constraint: dict[str, Any], number: int) -> dict[str, Any]:
    """The same work for the compiler under another text, which no server has seen."""
    [(kind, source)] = constraint.items()
    if kind == "json":
        return {kind: {**source, "title": f"number {number}"}}
    if kind == "regex":
        return {kind: f"{source}|number {number}"}
    return {kind: f"{source}\n// number {number}"}


def hostile_constraints() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, value)."""
    patterns = {
        "a pattern of powers": "((a{1,100}){1,100}){1,100}b",
        "a pattern of many words": "|".join(f".*{letter}.*" for letter in "abcdefghijklmnop") * 8,
        "a pattern that counts back": "[ab]*a[ab]{500}",
        "a pattern of large classes": r"(\p{L}|\p{N}|\p{Han}){1,200}" * 20,
        "a pattern a hundred thousand long": "a{1,100000}",
        "a pattern that is none": "(((",
    }
    for name, pattern in patterns.items():
        yield name, {"regex": pattern}
    pair = {"properties": {key: {"$ref": "#/$defs/NEXT"} for key in "ab"}}
    links = {str(i): json.loads(json.dumps(pair).replace("NEXT", str(i + 1))) for i in range(600)}
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"items": deep}
    schemas: dict[str, Any] = {
        "5,000 constants": {"enum": [f"value {index}" for index in range(5000)]},
        "4 times 512 properties": {
            "prefixItems": [{"properties": {f"{k}_{i}": {} for i in range(512)}} for k in range(4)]
        },
        "a product of unions": {
            "allOf": [
                {"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(5)]}
                for i in range(12)
            ]
        },
        "600 references in a row": {"$ref": "#/$defs/0", "$defs": {**links, "600": {}}},
        "200 levels": deep,
        "strings of a million": {"type": "string", "minLength": 10**6},
        "a reference abroad": {"$ref": "https://example.com/schema.json"},
        "an unknown keyword": {"type": "array", "uniqueItems": True},
    }
    for name, schema in schemas.items():
        yield name, {"json": schema}
    yield "20,000 brackets in Lark", {"grammar": "start: " + "(" * 20000}
