"""Grammars that hold a model to its tools, in llguidance's dialect of Lark.

An answer that must call tools is calls and nothing else. In one that may, text is free up to the
marker of a call; from there on the call has to be one, with arguments that fit the function's
schema. So arguments always validate. Calls written in Python are python_grammar's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from mlc_server.limits import MAX_TOOL_CALLS
from mlc_server.text.tools.argument_rules import (
    Argument,
    ArgumentRules,
    list_problem,
    literal,
    may_refer,
)
from mlc_server.text.tools.functions import JSON_STYLE, Function, argument_schema
from mlc_server.text.tools.python_grammar import python_problem, python_rules

PYTHONIC = "pythonic"


@dataclass(frozen=True)
class _Layout:
    """How a format surrounds the calls' objects."""

    arguments_key: str
    opening: str  # of each call, or of the list
    closing: str
    separator: str  # between calls
    is_list: bool
    # The text that begins a call wherever it stands; None if any text may.
    marker: str | None


_LAYOUTS = {
    "hermes": _Layout(
        "arguments", "<tool_call>\n", "\n</tool_call>", "\n", is_list=False, marker="<tool_call>"
    ),
    "mistral": _Layout(
        "arguments", "[TOOL_CALLS] [", "]", ", ", is_list=True, marker="[TOOL_CALLS]"
    ),
    "llama3_json": _Layout("parameters", "", "", "; ", is_list=False, marker=None),
}


def enforced_format(format_: str, functions: Sequence[Function]) -> str:
    """The format in which calls can be enforced: JSON between tags where Python's cannot."""
    if format_ == PYTHONIC and any(map(python_problem, functions)):
        return "hermes"
    return format_


def marked_format(format_: str) -> str:
    """The same where calls must be told from JSON that is an answer, by what they begin with."""
    layout = _LAYOUTS.get(format_)
    return "hermes" if layout is None or layout.marker is None else format_


def required_grammar(format_: str, functions: Sequence[Function], *, parallel: bool) -> str:
    """One call, or with `parallel` up to MAX_TOOL_CALLS. `format_`: see enforced_format()."""
    if format_ == PYTHONIC:
        return "\n".join(["start: calls", *python_rules(functions, parallel=parallel)])
    layout = _LAYOUTS[format_]
    return "\n".join(
        ["start: calls", *_calls(layout, parallel=parallel), *_objects(layout, functions)]
    )


def auto_grammar(format_: str, functions: Sequence[Function], *, parallel: bool) -> str | None:
    """Text with calls in it; None where nothing tells a call from text that looks like one.

    Without `parallel` the answer ends after the first call. Where there is no marker, calls are
    enforced only for strict functions, and then an answer that begins with "{", in Python with "[",
    has to be a call. `format_`: see enforced_format(), unless no function is strict.
    """
    layout = _LAYOUTS.get(format_)
    if layout is None or layout.marker is None:
        if not any(function.strict for function in functions):
            return None
        if layout is None:
            rules = python_rules(functions, parallel=parallel)
            return "\n".join(["start: TEXT | calls", _text_without("\\["), *rules])
        head = ["start: TEXT | calls", _text_without("{"), *_calls(layout, parallel=parallel)]
    else:
        rest = layout.opening[len(layout.marker) :]
        more = _more(layout, "object", parallel=parallel) if layout.is_list else ""
        head = [
            "start: marked* TEXT" if parallel else "start: TEXT | marked",
            r"TEXT: /(.|\n)*/",
            f"marker[lazy]: TEXT {literal(layout.marker)}",
            f"marked: marker {literal(rest)} object {more} {literal(layout.closing)}",
        ]
    return "\n".join([*head, *_objects(layout, functions)])


def formatted_grammar(
    format_: str, functions: Sequence[Function], schema: Mapping[str, Any], *, parallel: bool
) -> str:
    """Calls, or an answer that fits a JSON schema. `format_`: see marked_format()."""
    layout = _LAYOUTS[format_]
    answer = json.dumps({**schema, "x-guidance": JSON_STYLE})
    rules = ["start: calls | answer", f"answer: %json {answer}"]
    return "\n".join([*rules, *_calls(layout, parallel=parallel), *_objects(layout, functions)])


def _text_without(opening: str) -> str:
    """A terminal of text that does not begin with `opening`, white space aside."""
    return rf"TEXT: /[ \t\r\n]*([^ \t\r\n{opening}](.|\n)*)?/"


def _calls(layout: _Layout, *, parallel: bool) -> list[str]:
    opening, closing = literal(layout.opening), literal(layout.closing)
    if layout.is_list:
        more = _more(layout, "object", parallel=parallel)
        return [f"calls: {opening} object {more} {closing}"]
    more = _more(layout, "call", parallel=parallel)
    return [f"calls: call {more}", f"call: {opening} object {closing}"]


def _more(layout: _Layout, item: str, *, parallel: bool) -> str:
    """What may follow the first of the calls."""
    if not parallel:
        return ""
    return f"({literal(layout.separator)} {item}){{0,{MAX_TOOL_CALLS.default - 1}}}"


def _objects(layout: _Layout, functions: Sequence[Function]) -> list[str]:
    names = " | ".join(f"object_{index}" for index in range(len(functions)))
    shared = ArgumentRules()
    rules = [f"object: {names}"]
    for index, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function.name)}, "{layout.arguments_key}": '
        schema = argument_schema(function)
        arguments = _arguments(function, schema, shared)
        if arguments is None:
            rules.append(f'object_{index}: {literal(head)} %json {json.dumps(schema)} "}}"')
        else:
            listed = shared.arguments(f"rest_{index}", arguments)
            rules.append(f'object_{index}: {literal(head + "{")} {listed} "}}}}"')
    return [*rules, *shared.rules()]


def _arguments(
    function: Function, schema: Mapping[str, Any], shared: ArgumentRules
) -> list[Argument] | None:
    """The properties of an object that is a list of them; None of one that is more."""
    if list_problem(schema) is not None or schema.get("additionalProperties") is not False:
        return None
    properties, required = schema["properties"], frozenset(schema.get("required", ()))
    if may_refer(properties) or not all(map(str.isprintable, properties)):
        return None
    return [
        Argument(
            f"{encode_basestring(name)}: ",
            shared.value({} if value is True else value, function),
            name in required,
        )
        for name, value in properties.items()
        if value is not False
    ]
