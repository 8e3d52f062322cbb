"""Messages and tools of a request as chat templates expect them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.messages import ChatMessage
from mlc_server.protocol.tools import CalledFunction

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages with arguments as objects, without keys that say nothing.

    A function_call and the function message that answers it become a tool call and its result.
    """
    plain: list[dict[str, Any]] = []
    call_id = ""
    for index, message in enumerate(messages):
        shown = _template_message(message)
        if message.function_call is not None:
            call_id = f"call{index:05}"
            shown["tool_calls"] = [_template_call(call_id, message.function_call)]
        elif message.role == "function":
            shown |= {"role": "tool", "tool_call_id": call_id}
        plain.append(shown)
    return plain


def template_tools(body: ChatCompletionRequest) -> list[Mapping[str, Any]]:
    """The tools a template shows; none if the model must not call any."""
    choice = body.choice
    if choice is not None and choice.mode == "none":
        return []
    allowed = choice.allowed if choice is not None and not choice.named else None
    return [
        {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description or "",
                "parameters": function.parameters or {"type": "object", "properties": {}},
            },
        }
        for function in body.callable
        if allowed is None or function.name in allowed
    ]


def decoded_arguments(arguments: str) -> Any:
    """Arguments as an object; as text if they are none, as when a model was cut short."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(value, dict):
        return arguments
    return arguments if _SURROGATE_ESCAPE.search(arguments) and not _encodes(value) else value


def _template_message(message: ChatMessage) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_calls:
        plain["tool_calls"] = [
            _template_call(call.id, call.function) for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _template_call(id_: str, function: CalledFunction) -> dict[str, Any]:
    arguments = function.arguments
    return {
        "id": id_,
        "type": "function",
        "function": {
            "name": function.name,
            "arguments": decoded_arguments(arguments) if isinstance(arguments, str) else arguments,
        },
    }


def _encodes(value: Any) -> bool:
    """Whether a JSON value has no lone surrogates, which no text can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
