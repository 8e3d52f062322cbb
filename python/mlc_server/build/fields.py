"""Reading JSON files that strangers wrote: every fault is a FormatError naming file and field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlc_server.errors import FormatError

MAX_JSON_BYTES = 256 << 20
_SHOWN_CHARS = 120


def shown(value: object) -> str:
    """`value` as printed in an error: one line, bounded length."""
    try:
        text = repr(value)
    except ValueError:  # an int with more digits than Python prints
        text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else "?"
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def _reject_constant(literal: str) -> float:
    msg = f"{literal} is not JSON"
    raise ValueError(msg)


def read_json(path: Path) -> Any:
    """Any JSON value of a file of at most MAX_JSON_BYTES; raises FormatError."""
    hint = "convert or download the model again"
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise FormatError(f"{path.name} is too large", seen=f"{size} bytes", hint=hint)
        return json.loads(path.read_bytes(), parse_constant=_reject_constant)
    except OSError as error:
        raise FormatError(f"{path.name} cannot be read", seen=str(error), hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path.name} is not valid JSON", seen=shown(error), hint=hint) from error


def read_json_object(path: Path) -> Mapping[str, Any]:
    """A JSON object; raises FormatError."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise FormatError(
            f"{path.name} must hold a JSON object",
            seen=type(data).__name__,
            hint="convert or download the model again",
        )
    return data


class Fields:
    """Typed access to one JSON object. `where` is the path shown, e.g. `config.json: model`."""

    def __init__(self, data: Mapping[str, Any], file: str, prefix: str = "") -> None:
        self.data = data
        self.file = file
        self.prefix = prefix

    def error(self, name: str, problem: str, value: object) -> FormatError:
        return FormatError(
            f"{self.file}: field {self.prefix}{name} {problem}",
            seen=shown(value),
            hint="convert or download the model again",
        )

    def missing(self, name: str) -> FormatError:
        return self.error(name, "is missing", sorted(self.data)[:12])

    def has(self, name: str) -> bool:
        """Present and not null."""
        return self.data.get(name) is not None

    def integer(self, name: str, minimum: int, maximum: int, default: int | None = None) -> int:
        value = self.data.get(name)
        if value is None:
            if default is None:
                raise self.missing(name)
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, "must be an integer", value)
        if not minimum <= value <= maximum:
            raise self.error(name, f"must be in [{minimum}, {maximum}]", value)
        return value

    def real(
        self, name: str, minimum: float, maximum: float, default: float | None = None
    ) -> float:
        value = self.data.get(name)
        if value is None:
            if default is None:
                raise self.missing(name)
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "must be a number", value)
        if not (minimum <= value <= maximum) or not math.isfinite(value):
            raise self.error(name, f"must be in [{minimum}, {maximum}]", value)
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        value = self.data.get(name, default)
        if value is None:
            raise self.missing(name)
        if not isinstance(value, str):
            raise self.error(name, "must be a string", value)
        return value

    def boolean(self, name: str, default: bool) -> bool:
        value = self.data.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false", value)
        return value

    def mapping(self, name: str) -> Fields:
        """A nested object; an absent or null one is empty."""
        value = self.data.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.error(name, "must be an object", value)
        return Fields(value, self.file, f"{self.prefix}{name}.")

    def sequence(self, name: str) -> list[Any]:
        """An array; an absent one is an error."""
        value = self.data.get(name)
        if value is None:
            raise self.missing(name)
        if not isinstance(value, list):
            raise self.error(name, "must be an array", value)
        return value

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One id or an array of ids, as `eos_token_id` has; absent is ()."""
        value = self.data.get(name)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        for token_id in ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int):
                raise self.error(name, "must be a token id or an array of them", value)
            if not 0 <= token_id < vocab_size:
                raise self.error(name, f"must be in [0, {vocab_size - 1}]", value)
        return tuple(ids)
