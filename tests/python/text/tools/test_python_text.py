"""Calls written as MLC-LLM streams them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mlc_server.text.tools.events import CallArguments, CallStarted, Content, Event, merged
from mlc_server.text.tools.formats import PythonicParser
from mlc_server.text.tools.python_text import PythonTextWriter

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["f", "get_weather"]),
        st.dictionaries(st.sampled_from(["a", "b", "city"]), JSON_VALUES, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


def written(events: list[Event], cut: int) -> list[Event]:
    writer = PythonTextWriter()
    first = writer.write(events[:cut], last=False)
    return merged([*first, *writer.write(events[cut:], last=True)])


def test_calls_are_a_list_of_strings() -> None:
    events: list[Event] = [
        Content("Hm "),
        CallStarted(0, "get_weather"),
        CallArguments(0, '{"location": "Pittsburgh,'),
        CallArguments(0, 'PA", "unit": "fahrenheit"}'),
        CallStarted(1, "g"),
        CallArguments(1, "{}"),
    ]
    text = """Hm ["get_weather(location='Pittsburgh,PA',unit='fahrenheit')", "g()"]"""
    for cut in range(len(events)):
        assert written(events, cut) == [Content(text)]


def test_text_ends_a_list() -> None:
    events: list[Event] = [
        CallStarted(0, "f"),
        CallArguments(0, "{}"),
        Content(" and "),
        CallStarted(1, "g"),
        CallArguments(1, "{}"),
    ]
    for cut in range(len(events)):
        assert written(events, cut) == [Content('["f()"] and ["g()"]')]


def test_a_call_cut_short_is_left_out() -> None:
    events: list[Event] = [CallStarted(0, "g"), CallArguments(0, '{"a": ')]
    assert written(events, 1) == []
    assert written([], 0) == []


@given(CALLS)
def test_the_text_reads_as_the_calls_it_was_made_of(
    calls: list[tuple[str, dict[str, object]]],
) -> None:
    events: list[Event] = []
    for index, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments, ensure_ascii=False)
        events += [CallStarted(index, name), CallArguments(index, text)]
    (content,) = written(events, 1)
    assert isinstance(content, Content)
    parser = PythonicParser(["f", "get_weather"])
    assert parser.feed(content.text) + parser.finish() == events
