"""JSON schemas that a server should follow, of every keyword that the grammar compiler knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

SCALARS: list[Schema] = [
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer"},
    {"type": "integer", "minimum": -5, "maximum": 17},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 1000},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 10000},
    {"type": "number", "minimum": -1.5, "maximum": 2.25},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 9},
    {"type": "string", "maxLength": 12},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "pattern": "^[a-f]{2,6}$"},
    {"type": "string", "pattern": "^(foo|ba[rz])[0-9]+$", "maxLength": 12},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {
        "type": "string",
        "enum": ["red", "green", "blue \u2603", 'quo"te', "back\\slash", "new\nline"],
    },
    {"enum": [1, "two", None, True, 2.5, ["a", 1], {"k": "v"}]},
    {"const": {"a": [1, 2.5, None, True, "x"]}},
    {"type": ["integer", "null"]},
    {"type": ["boolean", "string"], "maxLength": 6},
    {"anyOf": [{"type": "integer", "maximum": 9, "minimum": 0}, {"const": "none"}]},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
]
RECURSIVE: list[Schema] = [
    {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "minimum": 0, "maximum": 99},
                    "children": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/tree"}},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
        "additionalProperties": False,
    },
]
OBJECTS: list[Schema] = [
    {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
        "additionalProperties": False,
    },
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Order",
        "description": "An order",
        "type": "object",
        "properties": {
            "id": {"type": "string", "format": "uuid", "description": "its id"},
            "lines": {
                "type": "array",
                "minItems": 1,
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {
                        "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
                        "count": {"type": "integer", "minimum": 1, "maximum": 99},
                    },
                    "required": ["sku", "count"],
                    "additionalProperties": False,
                },
            },
            "paid": {"type": "boolean", "default": False},
        },
        "required": ["id", "lines", "paid"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"kind": {"const": "x"}},
        "required": ["kind"],
        "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
        "maxProperties": 3,
    },
    {
        "type": "object",
        "patternProperties": {"^n[0-9]{1,2}$": {"type": "integer", "minimum": 0, "maximum": 5}},
        "additionalProperties": False,
        "maxProperties": 4,
    },
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "minProperties": 1,
        "additionalProperties": False,
    },
    {
        "type": "object",
        "allOf": [
            {"properties": {"a": {"type": "boolean"}}, "required": ["a"]},
            {"properties": {"b": {"type": "null"}}, "required": ["b"]},
        ],
        "maxProperties": 2,
    },
]


def all_schemas() -> Iterator[Schema]:
    """More than a hundred, each a variation of its own on the ones above."""
    yield from SCALARS
    yield from RECURSIVE
    yield from OBJECTS
    for index, scalar in enumerate(SCALARS):
        yield {"type": "array", "items": scalar, "minItems": index % 3, "maxItems": 3}
        yield {
            "type": "object",
            "properties": {
                "first": scalar,
                "sécond": SCALARS[index - 1],
                "third": {"type": "null"},
            },
            "required": ["first"] if index % 2 else ["first", "sécond"],
            "additionalProperties": False,
        }
        yield {
            "type": "array",
            "prefixItems": [scalar, {"type": "boolean"}],
            "items": False,
            "minItems": 1,
        }
