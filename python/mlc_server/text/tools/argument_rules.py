"""Rules for the arguments of calls, in llguidance's dialect of Lark.

Where a schema is no more than a list of properties, its object is written out as rules, which the
compiler takes in a third of the time that the same object takes it as a JSON schema; and values of
equal schemas, in whatever function, share one rule. So 128 functions fit into a grammar's limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any

from mlc_server.text.tools.functions import Function, json_options

DEFINITIONS = ("$defs", "definitions")
_SEPARATOR = ", "
# What a schema may say of the arguments as a whole.
_EXPRESSED = frozenset(
    {"type", "properties", "required", "additionalProperties", *DEFINITIONS, "x-guidance"}
)
_REFERENCE = re.compile(r"#/(\$defs|definitions)/")


@dataclass(frozen=True)
class Argument:
    """`key` is the text up to the value, `value` an expression that matches it."""

    key: str
    value: str
    required: bool


class ArgumentRules:
    """Collects the rules of one grammar's arguments."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, bool], tuple[str, str]] = {}  # rule and what it matches
        self._rules: list[str] = []

    def value(self, schema: Mapping[str, Any], function: Function) -> str:
        """The rule of values of a function's argument that fit `schema`."""
        key = repr(schema), function.strict  # a tenth of the time that JSON text takes
        known = self._values.get(key)
        if known is None:
            whole = {**schema, "x-guidance": json_options(function)}
            known = f"value_{len(self._values)}", f"%json {json.dumps(whole)}"
            self._values[key] = known
        return known[0]

    def arguments(self, name: str, arguments: Sequence[Argument]) -> str:
        """An expression of the arguments in their order, those not required or left out. Rules of
        its own begin with `name`.

        The first one there is may be any up to the first that is required; `NAME_J` are those that
        may follow it, from the J-th on.
        """
        if not arguments:
            return '""'
        required = (at for at, argument in enumerate(arguments) if argument.required)
        last_first = next(required, len(arguments) - 1)

        def rest(begin: int) -> str:
            if begin <= last_first:
                return f"{name}_{begin}"
            return " ".join(map(_following, arguments[begin:]))

        firsts = [
            f"{literal(argument.key)} {argument.value} {rest(at + 1)}"
            for at, argument in enumerate(arguments[: last_first + 1])
        ]
        for at in range(1, last_first + 1):
            self._rules.append(f"{rest(at)}: {_following(arguments[at])} {rest(at + 1)}")
        if not arguments[last_first].required:
            firsts.append('""')
        return f"({' | '.join(firsts)})"

    def rules(self) -> Iterator[str]:
        """Those that the expressions given out need."""
        yield from self._rules
        for rule, expression in self._values.values():
            yield f"{rule}: {expression}"


def _following(argument: Argument) -> str:
    text = f"{literal(_SEPARATOR + argument.key)} {argument.value}"
    return text if argument.required else f"({text})?"


def literal(text: str) -> str:
    """A string literal; nothing for the empty one."""
    return encode_basestring_ascii(text) if text else ""


def list_problem(schema: Mapping[str, Any]) -> str | None:
    """Why the object that a schema describes is more than a list of properties; None if it is not.

    Of a schema as argument_schema() makes it. Its properties may be anything; what they refer to
    is reference_problem()'s.
    """
    properties, required = schema["properties"], schema.get("required", [])
    unexpressed = sorted(schema.keys() - _EXPRESSED)
    if unexpressed:
        return f'keyword "{unexpressed[0]}" is not supported'
    if not isinstance(properties, dict):
        return '"properties" must be an object'
    for name, value in properties.items():
        if not isinstance(value, (dict, bool)):
            return f"the schema of argument {name[:80]} must be an object"
    listed = isinstance(required, list) and all(isinstance(name, str) for name in required)
    if not listed or any(properties.get(name, False) is False for name in required):
        return '"required" must be a list of properties'
    return None


def reference_problem(schema: Mapping[str, Any]) -> str | None:
    """Why a property of a list_problem()-less schema cannot be cut out together with the
    definitions; None if it can."""
    if not may_refer(schema):
        return None
    for name, value in schema["properties"].items():
        if not _refers_to_definitions(value):
            return f"argument {name[:80]} refers to more than definitions"
    if not all(_refers_to_definitions(schema.get(key)) for key in DEFINITIONS):
        return "definitions refer to more than definitions"
    return None


def may_refer(schema: Any) -> bool:
    """Whether there can be a $ref in a schema; fast."""
    return "'$ref'" in repr(schema)


def _refers_to_definitions(schema: Any) -> bool:
    return all(map(_REFERENCE.match, _references(schema)))


def _references(schema: Any) -> Iterator[str]:
    """Every $ref in a schema."""
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            reference = item.get("$ref")
            if isinstance(reference, str):
                yield reference
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
