"""Functions that may be called, and the schemas their arguments are held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# JSON as models were trained to write it: no room for endless white space.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# With one of these a schema may admit properties that it does not list.
_OPEN_KEYWORDS = frozenset(
    {
        "$dynamicRef",
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "dependentSchemas",
        "if",
        "maxProperties",
        "minProperties",
        "not",
        "oneOf",
        "patternProperties",
        "propertyNames",
        "unevaluatedProperties",
    }
)


# Keywords that say nothing of what is valid; descriptions alone can outgrow a grammar's limit.
_ANNOTATIONS = frozenset(
    {
        "$comment",
        "$schema",
        "default",
        "deprecated",
        "description",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
_SCHEMAS_BY_NAME = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
_LITERALS = frozenset({"const", "enum"})


@dataclass(frozen=True)
class Function:
    """A function that may be called. `strict`: a schema that cannot be enforced is refused, where
    otherwise the keywords that cannot are left out."""

    name: str
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    # Where the request defines it, for errors.
    field: str = ""


def argument_schema(function: Function) -> dict[str, Any]:
    """The schema that arguments are held to: an object of the listed properties.

    As in other servers, properties a schema does not list are left out unless it speaks of them.
    """
    schema = _validation_only(function.parameters or {})
    schema["type"] = "object"
    properties = schema.setdefault("properties", {})
    required = schema.get("required", [])
    listed = isinstance(properties, dict) and isinstance(required, list)
    if listed and not _OPEN_KEYWORDS & schema.keys() and set(required) <= properties.keys():
        schema["additionalProperties"] = False
    schema["x-guidance"] = json_options(function)
    return schema


def json_options(function: Function) -> dict[str, Any]:
    """The compiler's options for schemas of a function's arguments."""
    return {**JSON_STYLE, "lenient": not function.strict}


def _validation_only(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without its annotations, properties of the same names kept."""
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _ANNOTATIONS:
            continue
        if key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            kept[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key not in _LITERALS and isinstance(value, list):
            kept[key] = [_plain(inner) for inner in value]
        else:
            kept[key] = value if key in _LITERALS else _plain(value)
    return kept


def _plain(value: Any) -> Any:
    return _validation_only(value) if isinstance(value, dict) else value
