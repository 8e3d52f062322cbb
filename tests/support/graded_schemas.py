"""Two hundred JSON schemas of growing difficulty, small enough for a small model to finish.

The first levels are those of support.schemas; then come objects of objects, unions told apart by a
constant, references, recursion and mixtures of all of these, drawn from a seed. REFUSED are those
that cannot be followed, with what the refusal has to name.
"""

from __future__ import annotations

import random
from typing import Any

from support.schemas import OBJECTS, RECURSIVE, SCALARS, Schema, all_schemas

TOTAL = 200

REFUSED: list[tuple[Schema, str]] = [
    ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
    ({"type": "string", "not": {"const": "x"}}, "not"),
    ({"if": {"type": "string"}, "then": {"minLength": 2}}, "if"),
    ({"type": "array", "contains": {"type": "null"}}, "contains"),
    ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]}, "oneOf"),
    ({"$ref": "https://example.com/person.json"}, "example.com"),
    ({"$ref": "#/$defs/missing"}, "missing"),
    ({"type": "string", "pattern": "^(?=.*a)b+$"}, "look-ahead"),
    ({"type": "string", "format": "postcode"}, "postcode"),
    ({"type": "integer", "multipleOf": 1_000_003}, "multipleOf"),
]

_WORD: Schema = {"type": "string", "pattern": "^[a-z]{2,8}$"}
_LEAVES: list[Schema] = [
    _WORD,
    {"type": "integer", "minimum": 0, "maximum": 120},
    {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 10},
    {"type": "boolean"},
    {"enum": ["low", "middle", "high"]},
    {"type": "string", "format": "date"},
    {"type": "string", "minLength": 1, "maxLength": 10},
    {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"const": "fixed"},
]
_NAMES = ["name", "size", "kind", "owner", "parts", "state", "price", "note", "tags", "next"]
_DEFS: dict[str, Schema] = {
    "point": {
        "type": "object",
        "properties": {axis: {"type": "integer", "minimum": -9, "maximum": 9} for axis in "xy"},
        "required": ["x", "y"],
        "additionalProperties": False,
    },
    "tree": {
        "type": "object",
        "properties": {
            "value": {"type": "integer", "minimum": 0, "maximum": 99},
            "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
        },
        "required": ["value", "left"],
        "additionalProperties": False,
    },
}


def graded_schemas() -> list[Schema]:
    """Those that can be followed, easiest first; with REFUSED there are TOTAL."""
    base = list(all_schemas())
    simple = [*base[: len(SCALARS)], *base[len(SCALARS) + len(RECURSIVE) + len(OBJECTS) :]]
    schemas = [*simple, *OBJECTS, *RECURSIVE]
    rng = random.Random(7)
    count = TOTAL - len(REFUSED) - len(schemas)
    schemas += [_mixture(rng, 1 + 3 * index // count) for index in range(count)]
    return schemas


def _mixture(rng: random.Random, depth: int) -> Schema:
    schema = _object(rng, depth)
    if "#/$defs/" in repr(schema):
        schema["$defs"] = _DEFS
    return schema


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(_NAMES, rng.randint(2, 3))
    return {
        "type": "object",
        "properties": {name: _value(rng, depth - 1) for name in names},
        "required": names[: rng.randint(1, len(names))],
        "additionalProperties": False,
    }


def _value(rng: random.Random, depth: int) -> Schema:
    if depth <= 0 or rng.random() < 0.3:
        return dict(rng.choice(_LEAVES))
    shape = rng.randrange(5)
    if shape == 0:
        return _object(rng, depth)
    if shape == 1:
        items = _value(rng, depth - 1)
        return {"type": "array", "items": items, "minItems": rng.randint(0, 1), "maxItems": 2}
    if shape == 2:
        return {"anyOf": [_tagged(rng, depth, tag) for tag in ("a", "b")]}
    if shape == 3:
        return {"$ref": f"#/$defs/{rng.choice(sorted(_DEFS))}"}
    first = [{"type": "boolean"}, _value(rng, depth - 1)]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": 2}


def _tagged(rng: random.Random, depth: int, tag: str) -> Schema:
    properties: dict[str, Any] = {"type": {"const": tag}, "value": _value(rng, depth - 1)}
    return {
        "type": "object",
        "properties": properties,
        "required": ["type", "value"],
        "additionalProperties": False,
    }
