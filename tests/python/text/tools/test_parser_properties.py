"""Tool-call parsers against generated texts: calls are found as they were written, and what is no
call reaches the user to the last character, however the text is cut into pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_server.text.tools.events import CallStarted, Content, Event, merged
from mlc_server.text.tools.formats import PARSERS, make_parser

NAMES = ("f", "get_weather", "g-2", "True", "x" * 64)
MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")
FORMATS = st.sampled_from(list(PARSERS))
Drawn = TypeVar("Drawn")
Draw = Callable[[st.SearchStrategy[Drawn]], Drawn]
Call = tuple[str, dict[str, Any]]

TEXT = st.text(max_size=8) | st.sampled_from(
    ["}", "]", ")", '"', "'", "\\", '\\"', "\\u0041", "{", ",", ": ", *MARKERS, "f(", "\u2028\n\t"]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KEYWORDS = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True) | st.sampled_from(
    ["from", "class", "None", "é", "ﬁ", "user-id"]
)
SPACES = st.text(" \n\t\r", max_size=3)


def parse(format_: str, pieces: Sequence[str], *, enforced: bool = False) -> list[Event]:
    parser = make_parser(format_, NAMES, enforced=enforced)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged([*events, *parser.finish()])


@st.composite
def pieces_of(draw: Draw[Any], text: str) -> list[str]:
    """A text cut anywhere; empty pieces are tokens whose bytes are half a character."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def json_text(draw: Draw[Any], value: Any) -> str:
    """JSON as any writer may write it."""
    style: dict[str, Any] = {
        "ensure_ascii": draw(st.booleans()),
        "indent": draw(st.sampled_from([None, 0, 2])),
        "separators": draw(st.sampled_from([None, (",", ":"), (" , ", " : ")])),
    }
    return json.dumps(value, **style)


def json_object(draw: Draw[Any], call: Call) -> str:
    name, arguments = call
    key = draw(st.sampled_from(["arguments", "parameters"]))
    fields: list[tuple[str, Any]] = [("name", name)]
    if arguments or draw(st.booleans()):
        fields.append((key, arguments))
    fields += draw(st.sampled_from([[], [("id", "call_1")], [("type", "function")]]))
    return json_text(draw, dict(draw(st.permutations(fields))))


def python_call(draw: Draw[Any], call: Call) -> str:
    name, arguments = call
    comma = draw(st.sampled_from([", ", ",", " ,\n"]))
    return f"{name}({comma.join(f'{key}={value!r}' for key, value in arguments.items())})"


def written(draw: Draw[Any], format_: str, calls: Sequence[Call]) -> str:
    """The calls as a model of this format writes them, one group."""
    space = draw(SPACES)
    if format_ == "hermes":
        separator = draw(st.sampled_from(["", "\n", " \n"]))
        tagged = (f"<tool_call>{space}{json_object(draw, c)}{space}</tool_call>" for c in calls)
        return separator.join(tagged)
    if format_ == "llama3_json":
        return draw(st.sampled_from(["; ", ";", "\n", " ;\n"])).join(
            json_object(draw, call) for call in calls
        )
    if format_ == "mistral":
        if draw(st.booleans()):
            marker = draw(st.sampled_from(["", "[ARGS]", "[ARGS] ", " "]))
            return "".join(
                f"[TOOL_CALLS]{name}{marker}{json_text(draw, arguments)}"
                for name, arguments in calls
            )
        listed = f",{space}".join(json_object(draw, call) for call in calls)
        return f"[TOOL_CALLS]{space}[{space}{listed}{space}]"
    texts = [python_call(draw, call) for call in calls]
    if len(texts) == 1 and draw(st.booleans()):
        return texts[0]
    if draw(st.booleans()):
        texts = [repr(text) for text in texts]
    return f"[{space}{f',{space}'.join(texts)}{space}]"


@st.composite
def conversations(draw: Draw[Any]) -> tuple[str, str, str, list[Call], str]:
    """(format, text, content before the calls, calls, content after them)."""
    format_ = draw(FORMATS)
    names = st.sampled_from(NAMES)
    keys = KEYWORDS if format_ == "pythonic" else TEXT
    arguments = st.dictionaries(keys, VALUES, max_size=3)
    calls = draw(st.lists(st.tuples(names, arguments), min_size=1, max_size=3))
    before = draw(st.sampled_from(["", "Let me see.", "Hm: <tool_, [TOOL_ and {}", "é{"]))
    gap = draw(SPACES) + "\n" if before else ""
    after = draw(st.sampled_from(["", "Done.", "<tool_call", "é }"]))
    text = before + gap + written(draw, format_, calls) + ("\n" + after if after else "")
    return format_, text, before, calls, "\n" + after if after else ""


@settings(max_examples=150)
@given(conversations(), st.data())
def test_calls_are_found_as_they_were_written(
    case: tuple[str, str, str, list[Call], str], data: st.DataObject
) -> None:
    format_, text, before, calls, after = case
    events = parse(format_, data.draw(pieces_of(text)))
    found: list[Call] = []
    content = ["", ""]
    for event in events:
        if isinstance(event, Content):
            content[bool(found)] += event.text
        elif isinstance(event, CallStarted):
            assert event.index == len(found)
            found.append((event.name, {}))
        else:
            found[event.index] = (found[event.index][0], json.loads(event.text))
    assert repr(found) == repr(calls)  # tells 1 from 1.0 and True
    assert content == [before, after]


@st.composite
def damaged(draw: Draw[Any]) -> tuple[str, str]:
    """(format, text): calls of one format with some characters lost, doubled or replaced."""
    format_, text, *_ = draw(conversations())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        width = draw(st.integers(0, 4))
        again = text[place : place + width] * draw(st.integers(0, 2))
        text = text[:place] + draw(TEXT) + again + text[place + width :]
    return draw(st.just(format_) | FORMATS), text


def groups(events: Sequence[Event]) -> list[tuple[list[Event], str]]:
    """The events as pairs of calls and the content after them."""
    pairs: list[tuple[list[Event], str]] = [([], "")]
    for event in events:
        calls, _ = pairs[-1]
        if isinstance(event, Content):
            pairs[-1] = (calls, event.text)
            pairs.append(([], ""))
        else:
            calls.append(event)
    return pairs


def renumbered(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    """Calls as tuples, counted from 0; content left out."""
    calls = [event for event in events if not isinstance(event, Content)]
    return [
        (event.index - calls[0].index, event.name if isinstance(event, CallStarted) else event.text)
        for event in calls
    ]


def is_made_of(format_: str, text: str, pairs: list[tuple[list[Event], str]]) -> bool:
    """Whether the text is these contents as they stand and, between them, calls with no more than
    white space and separators besides."""
    (calls, content), *rest = pairs
    for place in [len(text)] if not rest else occurrences(text, content):
        alone = parse(format_, [text[:place]])
        lost = "".join(event.text for event in alone if isinstance(event, Content))
        fits = not lost.strip(" \t\r\n;,") and renumbered(alone) == renumbered(calls)
        if fits and (not rest or is_made_of(format_, text[place + len(content) :], rest)):
            return True
    return False


def occurrences(text: str, part: str) -> list[int]:
    return [match.start() for match in re.finditer(f"(?={re.escape(part)})", text)]


@settings(max_examples=150)
@given(damaged(), st.data())
def test_nothing_of_a_damaged_text_is_lost(case: tuple[str, str], data: st.DataObject) -> None:
    format_, text = case
    events = parse(format_, data.draw(pieces_of(text)))
    assert events == parse(format_, [text])
    assert is_made_of(format_, text, groups(events))
