"""Grammars of tool calls: llguidance takes them, and what they allow is what the parsers read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_server.text.tools.events import CallArguments, CallStarted
from mlc_server.text.tools.formats import PARSERS, make_parser
from mlc_server.text.tools.functions import Function, argument_schema
from mlc_server.text.tools.grammar import (
    auto_grammar,
    enforced_format,
    formatted_grammar,
    marked_format,
    required_grammar,
)
from support.grammar_texts import allows

llguidance = pytest.importorskip("llguidance")

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
    "required": ["city"],
}
WEATHER = Function("get_weather", CITY)
STRICT_WEATHER = Function("get_weather", CITY, strict=True)
CLOCK = Function("clock")
OSLO = '{"city": "Oslo", "unit": "c"}'
MAKE = {
    "hermes": '<tool_call>\n{{"name": "{0}", "arguments": {1}}}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{{"name": "{0}", "arguments": {1}}}]',
    "llama3_json": '{{"name": "{0}", "parameters": {1}}}',
}
TWO = {
    "hermes": '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "clock", "arguments": {}}, '
    '{"name": "clock", "arguments": {}}]',
    "llama3_json": '{"name": "clock", "parameters": {}}; {"name": "clock", "parameters": {}}',
}
FORMATS = tuple(MAKE)


def test_calls_beside_json_answers_begin_with_a_marker() -> None:
    assert [marked_format(name) for name in PARSERS] == ["hermes", "hermes", "mistral", "hermes"]


def test_formats_that_cannot_be_enforced_fall_back_to_tags() -> None:
    dashed = Function("f", {"properties": {"a-b": {}}})
    for function, python in ((WEATHER, "pythonic"), (dashed, "hermes")):
        formats = [enforced_format(name, [CLOCK, function]) for name in PARSERS]
        assert formats == ["hermes", "llama3_json", "mistral", python]


@pytest.mark.parametrize("format_", FORMATS)
def test_required_answers_are_calls_that_fit(format_: str) -> None:
    make = MAKE[format_].format
    grammar = required_grammar(format_, [WEATHER, CLOCK], parallel=True)
    assert allows(grammar, make("get_weather", OSLO))
    assert allows(grammar, make("clock", "{}"))
    assert allows(grammar, TWO[format_])
    for refused in (
        "",
        "Hello",
        make("get_weather", "{}"),
        make("get_weather", '{"city": "Oslo", "unit": "k"}'),
        make("get_weather", '{"city": 5}'),
        make("get_weather", '{"city": "Oslo", "more": 1}'),
        make("get_weather", '{"city":   "Oslo"}'),
        make("clock", '{"a": 1}'),
        make("other", "{}"),
        make("clock", "{}") + " and so on",
    ):
        assert not allows(grammar, refused), refused


@pytest.mark.parametrize("format_", FORMATS)
def test_calls_can_be_limited_to_one(format_: str) -> None:
    one = MAKE[format_].format("clock", "{}")
    for grammar in (
        required_grammar(format_, [CLOCK], parallel=False),
        auto_grammar(format_, [Function("clock", strict=True)], parallel=False),
    ):
        assert allows(grammar, one)
        assert not allows(grammar, TWO[format_])


@pytest.mark.parametrize("format_", ["hermes", "mistral"])
def test_free_text_may_hold_calls_and_these_have_to_fit(format_: str) -> None:
    make = MAKE[format_].format
    grammar = auto_grammar(format_, [WEATHER, CLOCK], parallel=True)
    text = "Let me see: <tool_, [TOOL_ and {}. "
    for allowed in ("", text, text + make("clock", "{}"), make("get_weather", OSLO) + "\nDone."):
        assert allows(grammar, allowed), allowed
    assert allows(grammar, make("clock", "{}") + "\n" + make("get_weather", OSLO))
    assert not allows(grammar, text + make("get_weather", "{}"))
    assert not allows(grammar, make("other", "{}"))


def test_without_a_marker_only_strict_functions_are_enforced() -> None:
    assert auto_grammar("llama3_json", [WEATHER], parallel=True) is None
    assert auto_grammar("pythonic", [WEATHER], parallel=True) is None
    grammar = auto_grammar("llama3_json", [STRICT_WEATHER], parallel=True)
    assert allows(grammar, MAKE["llama3_json"].format("get_weather", OSLO))
    assert allows(grammar, "It rains {today}.")
    assert allows(grammar, "")
    for refused in ('{"rain": true}', '\n {"rain": true}'):
        assert not allows(grammar, refused)


@pytest.mark.parametrize("format_", ["hermes", "mistral"])
def test_an_answer_can_have_a_format_of_its_own(format_: str) -> None:
    schema = {"type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"]}
    grammar = formatted_grammar(format_, [CLOCK], schema, parallel=True)
    assert allows(grammar, '{"rain": true}')
    assert allows(grammar, TWO[format_])
    for refused in ("", "It rains.", '{"rain": 1}', '{"rain": true}' + TWO[format_]):
        assert not allows(grammar, refused), refused


@pytest.mark.parametrize("format_", FORMATS)
def test_parsers_read_what_grammars_write(format_: str) -> None:
    parser = make_parser(format_, ["get_weather", "clock"], enforced=True)
    events = parser.feed(TWO[format_]) + parser.finish()
    assert events == [
        CallStarted(0, "clock"),
        CallArguments(0, "{}"),
        CallStarted(1, "clock"),
        CallArguments(1, "{}"),
    ]
    assert not parser.cut_short


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        (None, True),
        ({}, True),
        ({"type": "object", "properties": {"a": {}}}, True),
        ({"additionalProperties": {"type": "integer"}}, False),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object"}}}, False),
        ({"required": ["a"]}, False),
    ],
)
def test_schemas_are_closed_unless_they_speak_of_other_properties(
    parameters: dict[str, Any] | None, closed: bool
) -> None:
    schema = argument_schema(Function("f", parameters))
    assert schema["type"] == "object"
    assert (schema.get("additionalProperties") is False) == closed
    required_grammar("hermes", [Function("f", parameters)], parallel=True)


def test_keywords_that_cannot_be_enforced_are_refused_only_when_strict() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    grammar = required_grammar("hermes", [Function("f", schema)], parallel=True)
    assert allows(grammar, MAKE["hermes"].format("f", '{"a": [1, 1]}'))
    strict = required_grammar("hermes", [Function("f", schema, strict=True)], parallel=True)
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), strict)
    assert "uniqueItems" in matcher.get_error()


def test_names_and_values_that_look_like_grammar_are_text() -> None:
    schema = {"type": "object", "properties": {'a"\n%json': {"const": 'x" | /y/ #'}}}
    arguments = json.dumps({'a"\n%json': 'x" | /y/ #'})
    grammar = required_grammar("hermes", [Function("f-1", schema)], parallel=True)
    assert allows(grammar, MAKE["hermes"].format("f-1", arguments))


def test_schemas_lose_what_validates_nothing() -> None:
    inner = {"type": "string", "description": "d", "title": "t", "enum": [{"title": "kept"}]}
    schema = {
        "$schema": "s",
        "properties": {"title": inner, "list": {"items": inner, "anyOf": [inner]}},
        "$defs": {"description": inner},
    }
    plain = {"type": "string", "enum": [{"title": "kept"}]}
    kept = argument_schema(Function("f", schema))
    assert kept["properties"] == {"title": plain, "list": {"items": plain, "anyOf": [plain]}}
    assert kept["$defs"] == {"description": plain}
    assert "$schema" not in kept
