"""Conversations with tools for chat templates that know of none: everything is said in text.

The system message is told which tools there are and how to call them, in the words of Hermes; calls
become the text a model writes to make them, and results become a user's turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlc_server.errors import InvalidRequest

Message = Mapping[str, Any]

INSTRUCTIONS = """# Tools

You can call functions to help with the user's request. These are the functions, as JSON between \
<tools> and </tools>:
<tools>
{tools}
</tools>

To call a function, answer with its name and arguments as JSON between <tool_call> and </tool_call>:
<tool_call>
{{"name": "function-name", "arguments": {{"argument-name": "value"}}}}
</tool_call>
Its result comes back between <tool_response> and </tool_response>."""


def in_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation in roles system, user and assistant with text content only.

    Results that follow one another become one user turn, in the order of their calls.
    """
    plain: list[Message] = []
    results: list[Message] = []
    order: dict[str, int] = {}
    for message in messages:
        if message["role"] == "tool":
            results.append(message)
            continue
        _add_results(plain, results, order)
        calls = message.get("tool_calls") or ()
        order.update({call["id"]: position for position, call in enumerate(calls)})
        plain.append(_without_calls(message, calls) if calls else message)
    _add_results(plain, results, order)
    return _with_instructions(plain, tools) if tools else plain


def _without_calls(message: Message, calls: Sequence[Mapping[str, Any]]) -> Message:
    parts = [message["content"]] if message["content"] else []
    for call in calls:
        function = {key: call["function"][key] for key in ("name", "arguments")}
        parts.append(f"<tool_call>\n{_json(function)}\n</tool_call>")
    return {"role": message["role"], "content": "\n".join(parts)}


def _add_results(plain: list[Message], results: list[Message], order: Mapping[str, int]) -> None:
    """Moves `results` into `plain` as one turn."""
    if not results:
        return
    results.sort(key=lambda message: order.get(message["tool_call_id"], 0))
    parts = [f"<tool_response>\n{message['content']}\n</tool_response>" for message in results]
    plain.append({"role": "user", "content": "\n".join(parts)})
    results.clear()


def _with_instructions(plain: list[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    instructions = INSTRUCTIONS.format(tools="\n".join(_json(tool) for tool in tools))
    if not plain or plain[0]["role"] not in ("system", "developer"):
        return [{"role": "system", "content": instructions}, *plain]
    parts = [plain[0]["content"] or "", instructions]
    return [{**plain[0], "content": "\n\n".join(filter(None, parts))}, *plain[1:]]


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise InvalidRequest(
            "messages: a call's arguments are nested too deeply", param="messages"
        ) from None
