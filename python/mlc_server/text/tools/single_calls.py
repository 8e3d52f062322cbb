"""Several calls of one message, for chat templates that can show only one, as Llama 3.1's can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlc_server.errors import InvalidRequest
from mlc_server.text.chat_template import ChatTemplate, Message

# Mistral's templates take ids of nine letters and digits only.
_PROBE_IDS = ("firstcall", "othercall")
_PROBE_MARKS = ("first_function", "other_function", "first result", "other result")


def one_call_at_a_time(messages: Sequence[Message]) -> list[Message]:
    """Each message with several calls as messages with one, each followed by its result."""
    plain: list[Message] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            plain.append(message)
            continue
        results: list[Message] = []
        while position < len(messages) and messages[position]["role"] == "tool":
            results.append(messages[position])
            position += 1
        plain += _divided(message, calls, results)
    return plain


def _divided(
    message: Message, calls: Sequence[Mapping[str, Any]], results: list[Message]
) -> list[Message]:
    """The text goes with the first call; results that answer none of these calls, or one that is
    answered already, come last."""
    parts: list[Message] = []
    rest = list(results)
    for index, call in enumerate(calls):
        content = message["content"] if index == 0 else ""
        parts.append({**message, "content": content, "tool_calls": [call]})
        own = next((result for result in rest if result["tool_call_id"] == call["id"]), None)
        if own is not None:
            rest.remove(own)
            parts.append(own)
    return parts + rest


def shows_parallel_calls(template: ChatTemplate) -> bool:
    """Whether a template that knows tools shows all calls of a message and their results.

    True also for one that does so neither together nor one at a time.
    """
    return _shows(template, _PROBE) or not _shows(template, one_call_at_a_time(_PROBE))


def _shows(template: ChatTemplate, messages: Sequence[Message]) -> bool:
    try:
        text = template.render(messages, _PROBE_TOOLS)
    except InvalidRequest:
        return False
    return all(mark in text for mark in _PROBE_MARKS)


def _probe_call(id_: str, mark: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": mark, "arguments": {"a": 1}}}


_PROBE: list[Message] = [
    {"role": "user", "content": "?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [_probe_call(*pair) for pair in zip(_PROBE_IDS, _PROBE_MARKS, strict=False)],
    },
    {"role": "tool", "tool_call_id": _PROBE_IDS[0], "content": _PROBE_MARKS[2]},
    {"role": "tool", "tool_call_id": _PROBE_IDS[1], "content": _PROBE_MARKS[3]},
]
_PROBE_TOOLS: list[Message] = [
    {
        "type": "function",
        "function": {"name": "listed", "description": "", "parameters": {"type": "object"}},
    }
]
