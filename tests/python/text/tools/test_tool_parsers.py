"""Parsers of tool calls: what each finds, and that how the text is cut changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlc_server.text.tools.events import CallArguments, CallStarted, Content, Event, merged
from mlc_server.text.tools.formats import PARSERS

NAMES = ("f", "get_weather", "g-2")
FORMATS = tuple(PARSERS)


def parse(format_: str, pieces: Sequence[str], *, eager: bool = False) -> list[Event]:
    parser = PARSERS[format_](NAMES, eager=eager)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged([*events, *parser.finish()])


def call(index: int, name: str, arguments: str) -> list[Event]:
    return [CallStarted(index, name), CallArguments(index, arguments)]


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


# Format, text, what is in it.
CALLS: list[tuple[str, str, list[Event]]] = [
    ("hermes", hermes("f", '{"a": 1}'), call(0, "f", '{"a": 1}')),
    (
        "hermes",
        "Let me see.\n\n" + hermes("f", "{}") + "\n" + hermes("g-2", '{"x": [1, {"y": "}"}]}'),
        [Content("Let me see."), *call(0, "f", "{}"), *call(1, "g-2", '{"x": [1, {"y": "}"}]}')],
    ),
    ("hermes", hermes("f", "{}") + "\nDone.", [*call(0, "f", "{}"), Content("\nDone.")]),
    ("hermes", '<tool_call>{"name":"f"}</tool_call>', call(0, "f", "{}")),
    ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', call(0, "f", "{}")),
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}', call(0, "f", '{"a": 1}')),
    ("hermes", hermes("f", '{"a": 1}')[:-5], call(0, "f", '{"a": 1}')),
    ("hermes", hermes("f", r'"{\"a\": \"é\"}"'), call(0, "f", '{"a": "é"}')),
    ("hermes", hermes("f", '{"a": "two\nlines"}'), call(0, "f", r'{"a": "two\nlines"}')),
    (
        "hermes",
        hermes("f", r'{"a": "\"</tool_call>\u00e9\\"}'),
        call(0, "f", r'{"a": "\"</tool_call>\u00e9\\"}'),
    ),
    (
        "hermes",
        '<tool_call>[{"name": "f", "arguments": {}}, {"name": "f", "id": "7"}]</tool_call>',
        [*call(0, "f", "{}"), *call(1, "f", "{}")],
    ),
    ("llama3_json", '{"name": "f", "parameters": {"a": 1}}', call(0, "f", '{"a": 1}')),
    ("llama3_json", '{"type": "function", "name": "f", "parameters": {}}', call(0, "f", "{}")),
    (
        "llama3_json",
        'Sure.\n{"name": "f", "parameters": {}}; {"name": "g-2", "arguments": {"a": null}}\n',
        [Content("Sure."), *call(0, "f", "{}"), *call(1, "g-2", '{"a": null}')],
    ),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": -1.5e3}}]',
        call(0, "f", '{"a": -1.5e3}'),
    ),
    (
        "mistral",
        'Hm. [TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "f", "arguments": {"b": ""}}]',
        [Content("Hm."), *call(0, "f", "{}"), *call(1, "f", '{"b": ""}')],
    ),
    (
        "mistral",
        '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]get_weather{"b": 2}',
        [*call(0, "f", '{"a": 1}'), *call(1, "get_weather", '{"b": 2}')],
    ),
    (
        "pythonic",
        "[f(a='it\\'s', b=[1, 2.5], c={'d': None}), get_weather(e=True, g=false)]",
        [
            *call(0, "f", '{"a": "it\'s", "b": [1, 2.5], "c": {"d": null}}'),
            *call(1, "get_weather", '{"e": true, "g": false}'),
        ],
    ),
    ("pythonic", "f()", call(0, "f", "{}")),
    (
        "pythonic",
        "[g-2(from='Oslo', user-id=1, class=None,)]",
        call(0, "g-2", '{"from": "Oslo", "user-id": 1, "class": null}'),
    ),
    ("pythonic", "Here:\n  f(a=1)\n", [Content("Here:"), *call(0, "f", '{"a": 1}')]),
    (
        "pythonic",
        '["f(a=\'x\')", "get_weather(b=-1)"]',
        [*call(0, "f", '{"a": "x"}'), *call(1, "get_weather", '{"b": -1}')],
    ),
]
NO_CALLS = [
    ("hermes", "Nothing to do with <tools> or <tool_calls>."),
    ("hermes", " \n leading and trailing space \n "),
    ("hermes", "<tool_call>\nnot JSON\n</tool_call>"),
    ("hermes", hermes("unknown", "{}")),
    ("hermes", hermes("f", "[1]")),
    ("hermes", hermes("f", '"no object"')),
    ("hermes", hermes("f", r'"\ud800"')),
    ("hermes", hermes("f", "{'a': 1}")),
    ("hermes", hermes("f", '{"a": 01}')),
    ("hermes", hermes("f", '{"a": 1,}')),
    ("hermes", hermes("f", '{"a": NaN}')),
    ("hermes", hermes("f", r'{"a": "\x"}')),
    ("hermes", hermes("f", "{}").replace("</tool_call>", "!")),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "unfini'),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    ("hermes", "text <tool_"),
    ("llama3_json", '{"a": 1}'),
    ("llama3_json", 'As in {"name": "f", "parameters": {}}'),
    ("llama3_json", '{"name": "f", "age": 3}'),
    ("llama3_json", '{"name": "Ada"}\n\n'),
    ("llama3_json", "a; b, c\n"),
    ("mistral", "[TOOL_CALLS] none"),
    ("mistral", "[TOOL_CALLS]f[ARGX]{}"),
    ("mistral", "[TOOL"),
    ("pythonic", "[1, 2]"),
    ("pythonic", "[f(1)]"),
    ("pythonic", "[f(**{})]"),
    ("pythonic", "[f(a=b)]"),
    ("pythonic", "[f(a=1, a=2)]"),
    ("pythonic", "[f(a=1) f(b=2)]"),
    ("pythonic", "[f(a=)]"),
    ("pythonic", "['f() f()']"),
    ("pythonic", "f(a=1e999)"),
    ("pythonic", "f(a='\\ud800')"),
    ("pythonic", "f(a={1})"),
    ("pythonic", "f is a letter, g-2 a term (f, g)"),
    ("pythonic", "get_weather(] or [f(]"),
    ("pythonic", "[" * 300),
    ("pythonic", "f(" + "[" * 31 + "1" * 5000 + "]" * 31),
    ("pythonic", r"f(a='\d', b=x)"),
]


@pytest.mark.parametrize(("format_", "text", "found"), CALLS)
@pytest.mark.parametrize("eager", [False, True])
def test_calls_are_found(format_: str, text: str, found: list[Event], eager: bool) -> None:
    assert parse(format_, [text], eager=eager) == found
    assert parse(format_, list(text), eager=eager) == found


@pytest.mark.parametrize(("format_", "text"), NO_CALLS)
def test_what_is_no_call_is_content(format_: str, text: str) -> None:
    assert parse(format_, [text]) == [Content(text)]
    assert parse(format_, list(text)) == [Content(text)]


def test_a_call_after_a_broken_one_is_found() -> None:
    broken = "<tool_call>\n"
    events = parse("hermes", [broken + hermes("f", "{}")])
    assert events == [Content(broken), *call(0, "f", "{}")]
    events = parse("llama3_json", ['{"a": 1}\n{"name": "f", "parameters": {}}'])
    assert events == [Content('{"a": 1}'), *call(0, "f", "{}")]
    events = parse("mistral", ['[TOOL_CALLS][{"name": "f"}, {"name": "x"}]'])
    assert events == [*call(0, "f", "{}"), Content(', {"name": "x"}]')]


def test_an_eager_parser_reports_a_call_while_it_is_written() -> None:
    parser = PARSERS["hermes"](NAMES, eager=True)
    text = '<tool_call>\n{"name": "f", "arguments": {"a": "long te'
    assert parser.feed(text) == [CallStarted(0, "f"), CallArguments(0, '{"a": "long te')]
    assert parser.feed("xt") == [CallArguments(0, "xt")]
    assert parser.feed('"}') == [CallArguments(0, '"}')]
    assert parser.feed("}\n</tool_call>") == parser.finish() == []
    assert (parser.num_calls, parser.cut_short) == (1, False)


def test_a_patient_parser_reports_it_when_it_is_complete() -> None:
    parser = PARSERS["hermes"](NAMES)
    text = hermes("f", '{"a": 1}')
    assert parser.feed(text[:-1]) == []
    assert parser.feed(text[-1]) == call(0, "f", '{"a": 1}')
    assert parser.finish() == []


def test_a_call_cut_short_is_reported_as_far_as_it_goes() -> None:
    parser = PARSERS["hermes"](NAMES, eager=True)
    parser.feed('<tool_call>{"name": "f", "arguments": {"a": 12')
    assert parser.finish() == [CallArguments(0, "12")]
    assert (parser.num_calls, parser.cut_short) == (1, True)


@pytest.mark.parametrize("cut", range(1, len(hermes("f", '{"a": 1}'))))
def test_the_beginning_of_an_enforced_call_is_no_text(cut: int) -> None:
    """Up to its name it is nothing; from there on a call as far as it goes."""
    parser = PARSERS["hermes"](NAMES, eager=True)
    text = hermes("f", "{}") + hermes("f", '{"a": 1}')[:cut]
    events = merged([*parser.feed("Well." + text), *parser.finish()])
    assert events[:3] == [Content("Well."), *call(0, "f", "{}")]
    marker = "<tool_call>"[:cut] if cut < len("<tool_call>") else ""
    written = "".join(e.text for e in events[3:] if isinstance(e, CallArguments))
    assert [e.text for e in events[3:] if isinstance(e, Content)] == ([marker] if marker else [])
    assert '{"a": 1}'.startswith(written)
    patient = PARSERS["hermes"](NAMES)
    whole = hermes("f", '{"a": 1}')[:cut]
    events = merged([*patient.feed(whole), *patient.finish()])
    assert events == [Content(whole)] or isinstance(events[0], CallStarted)


def test_long_arguments_take_linear_time() -> None:
    text = hermes("f", json.dumps({"a": "x" * 200_000}))
    for eager in (False, True):
        assert len(parse("hermes", [text], eager=eager)) == 2


SNIPPETS = st.sampled_from(
    [
        *re.split(r"(?<=[ \n:{,])", "".join(text for _, text, _ in CALLS)),
        *(text for _, text, _ in CALLS),
        *(text for _, text in NO_CALLS[:20]),
    ]
)
TEXTS = st.lists(SNIPPETS | st.text(max_size=3), max_size=8).map("".join)


@settings(max_examples=300)
@given(st.sampled_from(FORMATS), TEXTS, st.booleans(), st.data())
def test_how_text_is_cut_changes_nothing(
    format_: str, text: str, eager: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(format_, pieces, eager=eager) == parse(format_, [text], eager=eager)


@settings(max_examples=300)
@given(st.sampled_from(FORMATS), TEXTS)
@example("hermes", "<tool_call><tool_call>")
def test_reported_calls_are_whole_and_known(format_: str, text: str) -> None:
    """Each starts once, in order, and has one JSON object; without calls all text is content."""
    events = parse(format_, [text])
    started = [event for event in events if isinstance(event, CallStarted)]
    assert [event.index for event in started] == list(range(len(started)))
    assert {event.name for event in started} <= set(NAMES)
    for event in started:
        parts = [e.text for e in events if isinstance(e, CallArguments) and e.index == event.index]
        assert isinstance(json.loads("".join(parts)), dict)
    if not started:
        assert events == ([Content(text)] if text else [])
