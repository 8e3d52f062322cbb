"""`response_format` and `structured_outputs`: what the whole answer has to match."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from mlc_server import limits
from mlc_server.protocol.excerpt import show
from mlc_server.protocol.strict import StrictModel, fault

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SCHEMA = {"anyOf": [{"type": "object"}, {"type": "boolean"}]}
_TEXT = {"type": "string", "minLength": 1}

RESPONSE_FORMAT_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {"enum": ["text", "json_object"]},
                "schema": {"anyOf": [*_SCHEMA["anyOf"], {"type": "string"}, {"type": "null"}]},
            },
        },
        {
            "type": "object",
            "required": ["type", "json_schema"],
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "required": ["name", "schema"],
                    "properties": {
                        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                        "description": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "schema": _SCHEMA,
                        "strict": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                    },
                },
            },
        },
        {"type": "null"},
    ]
}
STRUCTURED_OUTPUTS_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "description": "Exactly one of these",
            "minProperties": 1,
            "properties": {
                "json": {"anyOf": [*_SCHEMA["anyOf"], {"type": "string"}, {"type": "null"}]},
                "regex": {"anyOf": [_TEXT, {"type": "null"}]},
                "choice": {
                    "anyOf": [
                        {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": limits.MAX_CHOICE_TEXTS.default,
                            "items": _TEXT,
                        },
                        {"type": "null"},
                    ]
                },
                "grammar": {
                    "description": "Lark, in llguidance's dialect",
                    "anyOf": [_TEXT, {"type": "null"}],
                },
            },
        },
        {"type": "null"},
    ]
}


class NamedSchemaKeys(StrictModel):
    """The keys of `response_format.json_schema`; parse_response_format() reads their values."""

    name: Any = None
    description: Any = None
    schema_: Any = Field(None, alias="schema")
    strict: Any = None


class ResponseFormatKeys(StrictModel):
    """The keys of `response_format`."""

    type: Any = None
    schema_: Any = Field(None, alias="schema")
    json_schema: NamedSchemaKeys | None = None


@dataclass(frozen=True)
class OutputFormat:
    """What the output must match. `source`: see mlc_server.engine.GrammarSpec."""

    kind: Literal["json_object", "json_schema", "regex", "choice", "lark"]
    source: str
    param: str  # the field that errors of the grammar name


def parse_response_format(value: Any) -> OutputFormat | None:
    """None for free text. `schema` with json_object is MLC-LLM's way, JSON text or the schema."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fault("", f"must be an object; got {show(value)}")
    kind = value.get("type")
    param = "response_format"
    if kind == "json_schema":
        if value.get("schema") is not None:
            raise fault("schema", 'with type "json_schema", belongs into "json_schema"')
        return OutputFormat("json_schema", _named_schema(value.get("json_schema")), param)
    if kind not in ("text", "json_object"):
        expected = '"text", "json_object" or "json_schema"'
        raise fault("type", f"must be {expected}; got {show(kind)}")
    if value.get("json_schema") is not None:
        raise fault("json_schema", 'only allowed together with type "json_schema"')
    schema = value.get("schema")
    if kind == "text":
        if schema is not None:
            raise fault("schema", 'only allowed together with type "json_object"')
        return None
    if schema is None:
        return OutputFormat("json_object", "", param)
    return OutputFormat("json_schema", _schema_text(schema, "schema"), param)


def parse_structured_outputs(value: Any) -> OutputFormat | None:
    """vLLM's field: exactly one of json, regex, choice and grammar."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fault("", f"must be an object; got {show(value)}")
    given = [key for key, item in value.items() if item is not None]
    if len(given) != 1 or given[0] not in _PARSERS:
        raise fault("", f"must have exactly one of {', '.join(_PARSERS)}; got {_names(given)}")
    key = given[0]
    return _PARSERS[key](value[key], key, f"structured_outputs.{key}")


def _names(given: list[str]) -> str:
    return " and ".join(show(name) for name in given[:3]) or "none of them"


def _named_schema(value: Any) -> str:
    if not isinstance(value, dict):
        raise fault("json_schema", f"must be an object; got {show(value)}")
    name = value.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise fault(
            "json_schema.name", f"must be 1 to 64 letters, digits, _ and -; got {show(name)}"
        )
    if not isinstance(value.get("description"), (str, type(None))):
        seen = show(value.get("description"))
        raise fault("json_schema.description", f"must be a string; got {seen}")
    if not isinstance(value.get("strict"), (bool, type(None))):
        seen = show(value.get("strict"))
        raise fault("json_schema.strict", f"must be true or false; got {seen}")
    schema = value.get("schema")
    if not isinstance(schema, (dict, bool)):
        raise fault("json_schema.schema", f"must be a JSON schema object; got {show(schema)}")
    return json.dumps(schema)


def _schema_text(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, (dict, bool)):
        raise fault(field, f"must be a JSON schema or one as JSON text; got {show(value)}")
    return json.dumps(value)


def _json(value: Any, field: str, param: str) -> OutputFormat:
    return OutputFormat("json_schema", _schema_text(value, field), param)


def _regex(value: Any, field: str, param: str) -> OutputFormat:
    return OutputFormat("regex", _text(value, field), param)


def _lark(value: Any, field: str, param: str) -> OutputFormat:
    return OutputFormat("lark", _text(value, field), param)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise fault(field, f"must be a string, not empty; got {show(value)}")
    return value


def _choice(value: Any, field: str, param: str) -> OutputFormat:
    limit = limits.MAX_CHOICE_TEXTS.default
    if not isinstance(value, list) or not 0 < len(value) <= limit:
        raise fault(field, f"must be a list of 1 to {limit} strings; got {show(value)}")
    for index, item in enumerate(value):
        _text(item, f"{field}[{index}]")
    return OutputFormat("choice", json.dumps(value), param)


_PARSERS: dict[str, Callable[[Any, str, str], OutputFormat]] = {
    "json": _json,
    "regex": _regex,
    "choice": _choice,
    "grammar": _lark,
}
