"""Grammars of calls written in Python: [f(a="x", b=[1, 2]), g()].

Keyword arguments come in the order of the schema's properties. Their values are JSON, which is
Python but for true, false and null: an argument that is one of these and nothing else is written
True, False or None. So a schema's properties may be anything a JSON grammar can hold, but what the
schema says of the object as a whole has to be expressed by which keywords there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlc_server.limits import MAX_TOOL_CALLS
from mlc_server.text.tools.argument_rules import (
    DEFINITIONS,
    Argument,
    ArgumentRules,
    list_problem,
    literal,
    may_refer,
    reference_problem,
)
from mlc_server.text.tools.functions import Function, argument_schema

_LITERALS = {"boolean": '("True" | "False")', "null": '"None"'}


def python_problem(function: Function) -> str | None:
    """Why calls of `function` cannot be held to its schema in Python; None if they can."""
    schema = argument_schema(function)
    problem = list_problem(schema) or reference_problem(schema)
    if problem is not None:
        return f"{problem} for calls written in Python"
    name = next((name for name in schema["properties"] if not name.isidentifier()), None)
    return None if name is None else f"argument {literal(name[:80])} is no Python name"


def python_rules(functions: Sequence[Function], *, parallel: bool) -> list[str]:
    """Rules whose `calls` is a list of calls. The functions have no python_problem()."""
    more = f'(", " call){{0,{MAX_TOOL_CALLS.default - 1}}}' if parallel else ""
    calls = " | ".join(f"call_{index}" for index in range(len(functions)))
    shared = ArgumentRules()
    rules = [f'calls: "[" call {more} "]"', f"call: {calls}"]
    for index, function in enumerate(functions):
        arguments = shared.arguments(f"rest_{index}", _arguments(function, shared))
        rules.append(f'call_{index}: {literal(function.name + "(")} {arguments} ")"')
    return [*rules, *shared.rules()]


def _arguments(function: Function, shared: ArgumentRules) -> list[Argument]:
    schema = argument_schema(function)
    required = frozenset(schema.get("required", ()))
    return [
        Argument(f"{name}=", _value(value, schema, function, shared), name in required)
        for name, value in schema["properties"].items()
        if value is not False
    ]


def _value(value: Any, schema: Mapping[str, Any], function: Function, shared: ArgumentRules) -> str:
    if isinstance(value, dict) and value.keys() == {"type"} and isinstance(value["type"], str):
        as_python = _LITERALS.get(value["type"])
        if as_python is not None:
            return as_python
    whole: dict[str, Any] = {} if value is True else dict(value)
    if may_refer(whole):
        whole |= {key: schema[key] for key in DEFINITIONS if key in schema}
    return shared.value(whole, function)
