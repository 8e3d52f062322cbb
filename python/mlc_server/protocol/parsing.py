"""From the bytes of a request body to a validated model, or to one InvalidRequest that names the
field, the limit and the value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
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
    numbers = _Numbers()
    value = _parse_json(body, numbers)
    if not isinstance(value, dict):
        raise InvalidRequest(f"body: must be a JSON object; got {kind(value)}")
    kept = drop_other_fields(value, model, on_ignored)
    try:
        parsed = model.model_validate(kept)
    except ValidationError as error:
        raise explain(error) from None
    if not numbers.all_finite:  # one where any value goes
        _refuse_non_finite(value)
    return parsed


class _Numbers:
    """Reads numbers. NaN, Infinity and 1e400 pass, so that validation can name field and limit."""

    def __init__(self) -> None:
        self.all_finite = True

    def constant(self, text: str) -> float:
        self.all_finite = False
        return float(text)

    def number(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            self.all_finite = False
        return value


def _parse_json(body: bytes, numbers: _Numbers) -> Any:
    """The JSON value in `body`."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"body: not valid UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(
            text,
            parse_int=_bounded_int,
            parse_float=numbers.number,
            parse_constant=numbers.constant,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"body: not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise InvalidRequest("body: JSON is nested too deeply") from None
    if _SURROGATE_ESCAPE.search(text):
        path = _find(value, _has_surrogate)
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
    elif fault == "string_too_long":
        message += f"; got {len(first['input'])}"
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
    "string_too_short": "must not be empty",
    "too_long": "must have at most {max_length} items; got {actual_length}",
    "too_short": "must have at least {min_length} item; got {actual_length}",
}
_SHOWS_VALUE = frozenset(_MESSAGES) - {
    "missing",
    "string_too_long",
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


def _refuse_non_finite(value: Any) -> None:
    """Raises InvalidRequest that names the first number that is none."""
    path = _find(value, lambda item: isinstance(item, float) and not math.isfinite(item))
    if path is not None:  # it may have been replaced by a later value of the same key
        name = _path_name(path)
        raise InvalidRequest(f"{name}: must be a finite number", param=name)


def _has_surrogate(value: Any) -> bool:
    return isinstance(value, str) and _SURROGATE.search(value) is not None


def _find(value: Any, fits: Callable[[Any], bool]) -> tuple[int | str, ...] | None:
    """Path of a key or a value inside `value` that `fits`, None if there is none."""
    stack: list[tuple[tuple[int | str, ...], Any]] = [((), value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, list):
            stack.extend(((*path, index), child) for index, child in enumerate(item))
        elif isinstance(item, dict):
            for key, child in item.items():
                if fits(key):
                    return (*path, key)
                stack.append(((*path, key), child))
        elif fits(item):
            return path
    return None
