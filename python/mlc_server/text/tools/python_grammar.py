"""Grammars of calls written in Python: [f(a="x", b=[1, 2]), g()].

Keyword arguments come in the order of the schema's properties. Their values are JSON, which is
Python but for true, false and null: an argument that is one of these and nothing else is written
True, False or None. So a schema's properties may be anything a JSON grammar can hold, but what the
schema says of the object as a whole has to be expressed by which keywords there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlc_server.limits import MAX_TOOL_CALLS
from mlc_server.text.tools.functions import JSON_STYLE, Function, argument_schema

# What a schema may say of the arguments as a whole.
_EXPRESSED = frozenset(
    {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "x-guidance"}
)
_DEFINITIONS = ("$defs", "definitions")
_REFERENCE = re.compile(r"#/(\$defs|definitions)/")
_LITERALS = {"boolean": '("True" | "False")', "null": '"None"'}


def python_problem(function: Function) -> str | None:
    """Why calls of `function` cannot be held to its schema in Python; None if they can."""
    schema = argument_schema(function)
    properties = schema["properties"]
    unexpressed = sorted(schema.keys() - _EXPRESSED)
    if unexpressed:
        return f'keyword "{unexpressed[0]}" is not supported for calls written in Python'
    if not isinstance(properties, dict):
        return '"properties" must be an object'
    for name, value in properties.items():
        problem = _argument_problem(name, value)
        if problem is not None:
            return problem
    required = schema.get("required", [])
    listed = isinstance(required, list) and all(isinstance(name, str) for name in required)
    if not listed or any(properties.get(name, False) is False for name in required):
        return '"required" must be a list of properties'
    return None


def _argument_problem(name: str, schema: Any) -> str | None:
    if not name.isidentifier():
        return f"argument {json.dumps(name)[:80]} is no Python name"
    if not isinstance(schema, (dict, bool)):
        return f"the schema of argument {name[:80]} must be an object"
    if not all(map(_REFERENCE.match, _refs(schema))):
        return f"argument {name[:80]} refers to more than definitions"
    return None


def python_rules(functions: Sequence[Function], *, parallel: bool) -> list[str]:
    """Rules whose `calls` is a list of calls. The functions have no python_problem()."""
    more = f'(", " call){{0,{MAX_TOOL_CALLS.default - 1}}}' if parallel else ""
    names = " | ".join(f"call_{index}" for index in range(len(functions)))
    rules = [f'calls: "[" call {more} "]"', f"call: {names}"]
    for index, function in enumerate(functions):
        rules += _call_rules(index, function)
    return rules


def _call_rules(index: int, function: Function) -> Iterator[str]:
    """A call's rules: `first_I_J` are the arguments from the J-th on, `rest_I_J` the same after
    others."""
    schema = argument_schema(function)
    required = frozenset(schema.get("required", ()))
    properties = {name: value for name, value in schema["properties"].items() if value is not False}
    yield f"call_{index}: {json.dumps(function.name + '(')} first_{index}_0 {json.dumps(')')}"
    for place, (name, value) in enumerate(properties.items()):
        argument, rest = f"argument_{index}_{place}", f"rest_{index}_{place + 1}"
        yield f"{argument}: {json.dumps(name + '=')} {_value(value, schema, function)}"
        if name in required:
            yield f"first_{index}_{place}: {argument} {rest}"
            yield f'rest_{index}_{place}: ", " {argument} {rest}'
        else:
            yield f"first_{index}_{place}: {argument} {rest} | first_{index}_{place + 1}"
            yield f'rest_{index}_{place}: (", " {argument})? {rest}'
    yield f'first_{index}_{len(properties)}: ""'
    yield f'rest_{index}_{len(properties)}: ""'


def _value(value: Any, schema: Mapping[str, Any], function: Function) -> str:
    if isinstance(value, dict) and value.keys() == {"type"} and isinstance(value["type"], str):
        literal = _LITERALS.get(value["type"])
        if literal is not None:
            return literal
    whole: dict[str, Any] = {} if value is True else dict(value)
    if any(_refs(whole)):
        whole |= {key: schema[key] for key in _DEFINITIONS if key in schema}
    whole["x-guidance"] = {**JSON_STYLE, "lenient": not function.strict}
    return f"%json {json.dumps(whole)}"


def _refs(schema: Any) -> Iterator[str]:
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
