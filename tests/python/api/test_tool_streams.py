"""One choice's answer, whole and streamed, is the same however the engine cuts its text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_server.api.collected import _Draft
from mlc_server.api.tools import ChoiceReader, StreamReader, ToolUse
from mlc_server.engine import Delta
from mlc_server.text.tools.events import CallStarted, Content, merged
from mlc_server.text.tools.functions import Function
from mlc_server.text.tools.python_text import python_call

PARTS = st.sampled_from(
    [
        '<tool_call>\n{"name": "f", "arguments": {"a": "é\\"}"}}\n</tool_call>',
        '<tool_call>{"name": "g-2"}</tool_call>',
        '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "g-2", "arguments": {"b": [1]}}]',
        '[TOOL_CALLS]f[ARGS]{"a": {}}',
        '{"name": "f", "parameters": {"a": null}}',
        '[f(a="x", b=[True]), g-2()]',
        "\n",
        "Some text. ",
        "<tool_call>",
        "<tool_",
        "{",
        "; ",
    ]
)


@st.composite
def answers(draw: Any) -> tuple[ToolUse, list[Delta]]:
    """How tools may be used, and an engine's deltas: text in pieces, some of them empty."""
    tools = ToolUse(
        format=draw(st.sampled_from(["hermes", "mistral", "llama3_json", "pythonic"])),
        style=draw(st.sampled_from(["openai", "mlc"])),
        functions=[Function("f"), Function("g-2")],
        grammar=None,
        enforced=False,
        single=draw(st.booleans()),
        named=draw(st.booleans()),
    )
    text = "".join(draw(st.lists(PARTS, max_size=6)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    deltas = [Delta(0, piece, [1], prompt_tokens=1) for piece in pieces[:-1]]
    reason = draw(st.sampled_from(["stop", "length"]))
    last = Delta(0, pieces[-1], [1], finish_reason=reason, prompt_tokens=1)
    return tools, [*deltas, last]


@settings(deadline=None, max_examples=300)
@given(answers())
def test_whole_and_streamed_are_the_same(answer: tuple[ToolUse, list[Delta]]) -> None:
    tools, deltas = answer
    draft, reader = _Draft(tools), StreamReader(tools)
    content, calls = "", []  # type: str, list[list[str]]
    for delta in deltas:
        draft.add(delta, None)
        for event in reader.read(delta):
            if isinstance(event, Content):
                content += event.text
            elif isinstance(event, CallStarted):
                calls.append([event.name, ""])
            else:
                calls[event.index][1] += event.text
    whole = draft.finish(0)
    reason = deltas[-1].finish_reason
    assert reason is not None
    assert reader.finish_reason(reason) == whole.finish_reason
    assert (whole.finish_reason == "tool_calls") <= bool(whole.tool_calls)
    assert len(whole.tool_calls) <= 1 or not tools.single
    if tools.style == "openai":
        assert content == whole.content
        assert calls == [[call.name, call.arguments] for call in whole.tool_calls]
        return
    assert calls == []
    assert content == with_lists(tools, deltas)


def with_lists(tools: ToolUse, deltas: list[Delta]) -> str:
    """Text as it is, calls that follow one another as a list of their texts in Python."""
    events = merged(
        event for reader in [ChoiceReader(tools)] for d in deltas for event in reader.read(d)
    )
    text, listed, name = "", [], ""  # type: str, list[str | None], str
    for event in [*events, Content("")]:
        if isinstance(event, Content):
            text += (json.dumps(listed, ensure_ascii=False) if listed else "") + event.text
            listed = []
        elif isinstance(event, CallStarted):
            name = event.name
        else:
            listed.append(python_call(name, event.text))
    return text
