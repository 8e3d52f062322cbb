"""From the bytes of a request body to a validated model, or to one InvalidRequest that names the
field, the limit and the value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mlc_server import limits
from mlc_server.errors import InvalidRequest
from mlc_server.protocol.excerpt import kind, printable, show
from mlc_server.protocol.fields import OnIgnored, drop_other_fields

Model = TypeVar("Model", bound=BaseModel)

# An integer of more digits than this fits no field; its leading digits are enough to refuse it, and
# Python refuses to convert thousands of them.
_MAX_INTEGER_DIGITS = 32
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_request(
    body: bytes, model: type[Model], on_ignored: OnIgnored = lambda path, near: None
) -> Model:
    """Validates a JSON object against `model`; null counts as absent for keys with a default.

    `on_ignored(path, nearest known name)` is told of each unknown key.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest(f"body: must be a JSON object; got {kind(value)}")
    kept = drop_other_fields(value, model, on_ignored)
    try:
        return model.model_validate(kept)
    except ValidationError as error:
        raise explain(error) from None


def parse_json(body: bytes) -> Any:
    """The JSON value in `body`. NaN and Infinity pass so that validation can name their field."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"body: not valid UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(text, parse_int=_bounded_int)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"body: not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise InvalidRequest("body: JSON is nested too deeply") from None
    if _SURROGATE_ESCAPE.search(text):
        path = _find_surrogate(value)
        if path is not None:
            name = _path_name(path)
            raise InvalidRequest(
                f"{name}: contains a lone surrogate, which is no Unicode character", param=name
            )
    return value


def explain(error: ValidationError) -> InvalidRequest:
    """The first failure as an error that names field, limit and value, in bounded text."""
    first = error.errors(include_url=False)[0]
    fault, message = first["type"], first["msg"]
    context = first.get("ctx", {})
    location = first["loc"]
    if fault == "together":
        location = (*location, *filter(None, [context["field"]]))
    if location and location[-1] == "[key]":  # a key that does not fit: name its object
        location = location[:-2]
    path = _path_name(location)
    if fault == "finite_number" and path in limits.RANGES:
        message = f"must be a number {limits.RANGES[path].describe()}"
    elif fault in _MESSAGES:
        message = _MESSAGES[fault].format_map(_Context(context))
    if fault in _SHOWS_VALUE:
        message += f"; got {show(first['input'])}"
    text = f"{path}: {message}" if path else message
    text = text[: limits.MAX_ERROR_TEXT.default]
    return InvalidRequest(text, param=path or None, code=_CODES.get(fault))


_CODES = {"missing": "missing_required_parameter"}
_MESSAGES = {
    "missing": "is required",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} items; got {actual_length}",
    "too_short": "must have at least {min_length} item; got {actual_length}",
}
_SHOWS_VALUE = frozenset(_MESSAGES) - {
    "missing",
    "string_too_long",
    "string_too_short",
    "too_long",
    "too_short",
}


class _Context(dict[str, Any]):
    """Bounds for a message; whole numbers without a decimal point, a missing key as "its limit"."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(
            {
                key: int(value) if isinstance(value, float) and value.is_integer() else value
                for key, value in values.items()
            }
        )

    def __missing__(self, key: str) -> str:
        return "its limit"


def _bounded_int(digits: str) -> int:
    return int(digits[:_MAX_INTEGER_DIGITS])


def _path_name(path: Sequence[int | str]) -> str:
    """("messages", 0, "content") -> "messages[0].content", printable and bounded."""
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return printable(name)


def _find_surrogate(value: Any) -> tuple[int | str, ...] | None:
    """Path of the first string that holds a lone surrogate, None if there is none."""
    stack: list[tuple[tuple[int | str, ...], Any]] = [((), value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, str):
            if _SURROGATE.search(item):
                return path
        elif isinstance(item, list):
            stack.extend(((*path, index), child) for index, child in enumerate(item))
        elif isinstance(item, dict):
            for key, child in item.items():
                if _SURROGATE.search(key):
                    return (*path, key)
                stack.append(((*path, key), child))
    return None
