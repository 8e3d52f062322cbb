"""Grammars of calls in Python: what they allow validates, and the parser reads it as it stands."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest

from mlc_server.text.tools.events import CallArguments, CallStarted, Content, Event, merged
from mlc_server.text.tools.formats import make_parser
from mlc_server.text.tools.functions import Function
from mlc_server.text.tools.grammar import auto_grammar, required_grammar
from mlc_server.text.tools.python_grammar import python_problem

llguidance = pytest.importorskip("llguidance")

TRIP: dict[str, Any] = {
    "type": "object",
    "description": "A journey",
    "$defs": {"place": {"type": "object", "properties": {"name": {"type": "string"}}}},
    "properties": {
        "fast": {"type": "boolean", "description": "by aeroplane"},
        "from": {"$ref": "#/$defs/place"},
        "days": {"type": "integer", "minimum": 1, "maximum": 20},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        "nothing": {"type": "null"},
        "any": True,
        "never": False,
    },
    "required": ["from", "note"],
}
PLAN = Function("plan-trip", TRIP)
CLOCK = Function("clock")
FUNCTIONS = (PLAN, CLOCK)
NAMES = [function.name for function in FUNCTIONS]
ALLOWED = [
    ("[clock()]", [("clock", "{}")]),
    (
        '[plan-trip(from={}, note="a\\"]")]',
        [("plan-trip", '{"from": {}, "note": "a\\"]"}')],
    ),
    (
        '[plan-trip(fast=True, from={"name": "\\n\\u0007"}, days=3, note=null, '
        'nothing=None, any=[1, {"a": false}]), clock()]',
        [
            (
                "plan-trip",
                '{"fast": true, "from": {"name": "\\n\\u0007"}, "days": 3, "note": null, '
                '"nothing": null, "any": [1, {"a": false}]}',
            ),
            ("clock", "{}"),
        ],
    ),
]
REFUSED = [
    "",
    "[]",
    "Hello",
    "clock()",
    "[clock(a=1)]",
    "[other()]",
    "[plan-trip()]",
    "[plan-trip(from={})]",
    '[plan-trip(note="a", from={})]',
    '[plan-trip(from={},note="a")]',
    '[plan-trip(from={}, note="too long")]',
    '[plan-trip(from={}, days=21, note="a")]',
    '[plan-trip(fast=true, from={}, note="a")]',
    '[plan-trip(from=1, note="a")]',
    '[plan-trip(from={}, note="a", never=1)]',
    '[plan-trip(from={}, note="a", more=1)]',
    "[clock()] and so on",
]


def matcher_of(grammar: str | None) -> Any:
    assert grammar is not None
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def allows(grammar: str | None, text: str) -> bool:
    matcher, tokens = matcher_of(grammar), list(text.encode())
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    matcher.consume_tokens(tokens)
    return bool(matcher.is_accepting())


def read(pieces: Sequence[str]) -> list[Event]:
    parser = make_parser("pythonic", NAMES, enforced=True)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged([*events, *parser.finish()])


def events_of(calls: list[tuple[str, str]]) -> list[Event]:
    return [
        event
        for index, (name, arguments) in enumerate(calls)
        for event in (CallStarted(index, name), CallArguments(index, arguments))
    ]


@pytest.mark.parametrize(("text", "calls"), ALLOWED)
def test_what_fits_can_be_written_and_is_read(text: str, calls: list[tuple[str, str]]) -> None:
    assert allows(required_grammar("pythonic", FUNCTIONS, parallel=True), text)
    assert read([text]) == read(list(text)) == events_of(calls)
    for name, arguments in calls:
        schema = TRIP if name == "plan-trip" else {"maxProperties": 0}
        jsonschema.validate(json.loads(arguments), schema)


@pytest.mark.parametrize("text", REFUSED)
def test_what_does_not_fit_cannot(text: str) -> None:
    assert not allows(required_grammar("pythonic", FUNCTIONS, parallel=True), text)


def test_calls_can_be_limited_to_one() -> None:
    grammar = required_grammar("pythonic", FUNCTIONS, parallel=False)
    assert allows(grammar, "[clock()]")
    assert not allows(grammar, "[clock(), clock()]")


def test_arguments_are_reported_while_they_are_written() -> None:
    parser = make_parser("pythonic", NAMES, enforced=True)
    assert parser.feed('[plan-trip(from={"name": "Os') == [
        CallStarted(0, "plan-trip"),
        CallArguments(0, '{"from": {"name": "Os'),
    ]
    assert parser.feed('lo"}, note="a') == [CallArguments(0, 'lo"}, "note": "a')]
    assert parser.finish() == []
    assert parser.cut_short


def test_strict_functions_are_enforced_where_a_call_may_be_left_out() -> None:
    strict = Function("plan-trip", TRIP, strict=True)
    grammar = auto_grammar("pythonic", [strict, CLOCK], parallel=True)
    for text in ("", "It is late.", "See [1].", "a\n[clock(1)]", ALLOWED[1][0]):
        assert allows(grammar, text), text
    for text in ("[1, 2]", " \n[clock(1)]", "[plan-trip()]"):
        assert not allows(grammar, text), text
    # What only looks like a call, in the middle of a text, was not held to anything.
    assert read(["a\n[clock()]"]) == [Content("a\n[clock()]")]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"anyOf": [{"required": ["a"]}]}, "anyOf"),
        ({"minProperties": 1}, "minProperties"),
        ({"properties": {"a-b": {}}}, "a-b"),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {}}}, "argument a"),
        ({"properties": {"a": 5}}, "argument a"),
        ({"properties": []}, "properties"),
        ({"required": ["a"]}, "required"),
        ({"properties": {"a": False}, "required": ["a"]}, "required"),
        ({"required": "a"}, "required"),
        (None, None),
        (TRIP, None),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, None),
        ({"properties": {"ä": {}, "class": {}}}, None),
    ],
)
def test_what_python_cannot_express_is_said(parameters: Any, problem: str | None) -> None:
    said = python_problem(Function("f", parameters))
    assert said is None if problem is None else problem in str(said)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_written_validates(seed: int) -> None:
    """Random bytes among those the grammar allows, as from a model that knows nothing."""
    draw = random.Random(seed)
    schema = {**TRIP, "properties": {k: v for k, v in TRIP["properties"].items() if k != "any"}}
    matcher = matcher_of(required_grammar("pythonic", [Function("f", schema)], parallel=True))
    text = bytearray()
    while not matcher.is_stopped() and len(text) < 4000:
        mask = matcher.compute_bitmask()
        choices = [byte for byte in range(256) if mask[byte // 8] >> byte % 8 & 1]
        if not choices:
            break
        ends = [byte for byte in choices if byte in b'")]}']
        byte = draw.choice(ends if ends and draw.random() < 0.4 else choices)
        assert matcher.consume_token(byte)
        text.append(byte)
    assert matcher.is_accepting(), text
    parser = make_parser("pythonic", ["f"], enforced=True)
    events = merged([*parser.feed(text.decode()), *parser.finish()])
    arguments = [event for event in events if isinstance(event, CallArguments)]
    assert len(events) == 2 * len(arguments) == 2 * parser.num_calls > 0
    for event in arguments:
        jsonschema.validate(json.loads(event.text), schema)
