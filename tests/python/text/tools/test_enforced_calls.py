"""Whatever a grammar of calls lets through, its parser reads: texts are written byte by byte at
random among what is allowed, as by a model that knows nothing."""

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
from mlc_server.text.tools.grammar import auto_grammar, formatted_grammar, required_grammar

llguidance = pytest.importorskip("llguidance")

TRIP: dict[str, Any] = {
    "type": "object",
    "$defs": {"place": {"type": "object", "properties": {"name": {"type": "string"}}}},
    "properties": {
        "from": {"$ref": "#/$defs/place"},
        "days": {"type": "integer", "minimum": 1, "maximum": 20},
        "é-note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"enum": ["a\n", '"', "</tool_call>", "]"]}},
    },
    "required": ["from"],
}
PYTHON_TRIP = {**TRIP, "properties": {k: v for k, v in TRIP["properties"].items() if k != "é-note"}}
# Without references, so that its arguments are rules of their own.
BOOKING: dict[str, Any] = {
    "type": "object",
    "properties": {
        'é note"': {"type": ["string", "null"], "maxLength": 5},
        "nights": {"type": "integer", "minimum": 1, "maximum": 20},
        "room": {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]},
        "tags": TRIP["properties"]["tags"],
        "late": {"type": "boolean"},
    },
    "required": ["room", "late"],
    "additionalProperties": False,
}
PYTHON_BOOKING = {
    **BOOKING,
    "properties": {k: v for k, v in BOOKING["properties"].items() if k.isidentifier()},
}
SCHEMAS = {"plan-trip": TRIP, "book": BOOKING, "clock": {"maxProperties": 0}}
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "n": {"enum": [1, None]}},
    "required": ["text"],
    "additionalProperties": False,
}
MARKERS = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]"}
SPACE = " \t\r\n"


def functions_of(format_: str, *, strict: bool) -> list[Function]:
    trip, booking = (PYTHON_TRIP, PYTHON_BOOKING) if format_ == "pythonic" else (TRIP, BOOKING)
    return [
        Function("plan-trip", trip, strict=strict),
        Function("book", booking, strict=strict),
        Function("clock"),
    ]


def write(grammar: str | None, seed: int, snippets: Sequence[str] = (), first: str = "") -> str:
    """A text of the grammar that begins with `first`; `snippets` are tried now and then, as far as
    they are allowed."""
    assert grammar is not None
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    assert not matcher.is_error(), matcher.get_error()
    draw, text, planned = random.Random(seed), bytearray(), bytearray(first.encode())
    ends_s = draw.choice([20, 60, 200])
    while not matcher.is_stopped() and len(text) < 4000:
        if matcher.is_accepting() and len(text) > ends_s and draw.random() < 0.2:
            break
        mask = matcher.compute_bitmask()
        choices = [byte for byte in range(256) if mask[byte // 8] >> byte % 8 & 1]
        if not choices:
            break
        if not planned and snippets and draw.random() < 0.2:
            planned += draw.choice(snippets).encode()
        if planned and planned[0] in choices:
            byte = planned.pop(0)
        else:
            planned.clear()
            ends = [byte for byte in choices if byte in b'")]}']
            plain = [byte for byte in choices if byte < 128] or choices
            byte = draw.choice(ends if ends and draw.random() < 0.4 else plain)
        assert matcher.consume_token(byte)
        text.append(byte)
    while not matcher.is_accepting():  # finish a character or a call
        mask = matcher.compute_bitmask()
        choices = [byte for byte in range(256) if mask[byte // 8] >> byte % 8 & 1]
        ends = [byte for byte in choices if byte in b'")]}'] or choices
        byte = draw.choice(ends)
        assert matcher.consume_token(byte)
        text.append(byte)
    return text.decode()


def read(format_: str, text: str, seed: int) -> tuple[list[str], list[tuple[str, Any]]]:
    """(contents, calls with arguments that validate); the text comes in pieces."""
    parser = make_parser(format_, list(SCHEMAS), enforced=True)
    draw = random.Random(seed)
    cuts = sorted(draw.choices(range(len(text) + 1), k=8))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    events: list[Event] = merged([*(e for p in pieces for e in parser.feed(p)), *parser.finish()])
    assert not parser.cut_short
    calls: list[tuple[str, Any]] = []
    for event in events:
        if isinstance(event, CallStarted):
            assert event.index == len(calls)
            calls.append((event.name, None))
        elif isinstance(event, CallArguments):
            assert event.index == len(calls) - 1
            name = calls[-1][0]
            calls[-1] = (name, json.loads(event.text))
            jsonschema.validate(calls[-1][1], SCHEMAS[name])
    assert parser.num_calls == len(calls)
    return [event.text for event in events if isinstance(event, Content)], calls


def expected(format_: str, text: str) -> tuple[str, list[tuple[str, Any]]]:
    """The same found by looking for the marker, after which a grammar lets calls come only."""
    marker, content, calls = MARKERS[format_], "", []  # type: str, str, list[tuple[str, Any]]
    decoder = json.JSONDecoder()
    while marker in text:
        before, _, text = text.partition(marker)
        content += before.rstrip(SPACE)
        text = text.lstrip(SPACE)
        found, end = decoder.raw_decode(text)
        text = text[end:]
        if format_ == "hermes":
            assert text.startswith("\n</tool_call>")
            text = text.removeprefix("\n</tool_call>")
        listed = found if isinstance(found, list) else [found]
        calls += [(call["name"], call["arguments"]) for call in listed]
    return content + (text.rstrip(SPACE) if calls else text), calls


@pytest.mark.parametrize("format_", ["hermes", "mistral", "llama3_json", "pythonic"])
@pytest.mark.parametrize("seed", range(8))
def test_required_calls_are_all_there_is(format_: str, seed: int) -> None:
    parallel = seed % 2 == 0
    functions = functions_of(format_, strict=seed % 4 < 2)
    text = write(required_grammar(format_, functions, parallel=parallel), seed)
    contents, calls = read(format_, text, seed)
    assert contents == []
    assert len(calls) >= 1 if parallel else len(calls) == 1


@pytest.mark.parametrize("format_", MARKERS)
@pytest.mark.parametrize("seed", range(20))
def test_calls_in_free_text_are_found_and_the_text_is_kept(format_: str, seed: int) -> None:
    parallel = seed % 3 > 0
    grammar = auto_grammar(format_, functions_of(format_, strict=False), parallel=parallel)
    marker = MARKERS[format_]
    snippets = [
        marker,
        marker,
        marker[:-1],
        marker[:5],
        "\n",
        " é\N{GRINNING FACE}",
        '{"',
        "</tool_",
    ]
    text = write(grammar, seed, snippets)
    contents, calls = read(format_, text, seed)
    assert ("".join(contents), calls) == expected(format_, text)
    assert parallel or len(calls) <= 1


@pytest.mark.parametrize("format_", ["llama3_json", "pythonic"])
@pytest.mark.parametrize("seed", range(12))
def test_without_a_marker_an_answer_is_all_text_or_all_calls(format_: str, seed: int) -> None:
    grammar = auto_grammar(format_, functions_of(format_, strict=True), parallel=True)
    begin = "{" if format_ == "llama3_json" else "["
    snippets = ["\n", '{"name": "clock", "parameters": {}}', "[clock()]"]
    text = write(grammar, seed, snippets, first=begin * (seed % 2))
    contents, calls = read(format_, text, seed)
    assert seed % 2 == 0 or text.startswith(begin)
    if text.startswith(begin):
        assert contents == []
        assert calls
    else:
        assert "".join(contents) == text
        assert calls == []


@pytest.mark.parametrize("format_", MARKERS)
@pytest.mark.parametrize("seed", range(10))
def test_an_answer_beside_calls_is_one_or_the_other(format_: str, seed: int) -> None:
    functions = functions_of(format_, strict=False)
    grammar = formatted_grammar(format_, functions, ANSWER, parallel=True)
    first = '{"text": "<tool_call>[TOOL_CALLS] [' if seed % 2 else MARKERS[format_]
    text = write(grammar, seed, list(MARKERS.values()), first)
    contents, calls = read(format_, text, seed)
    assert text.startswith(first)
    if seed % 2:
        assert contents == [text]
        jsonschema.validate(json.loads(text), ANSWER)
    else:
        assert contents == []
        assert calls
