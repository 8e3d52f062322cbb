"""Messages and tools of a request as chat templates expect them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request

from mlc_server.api.service import ServedModel
from mlc_server.protocol.conversation import ConversationFields
from mlc_server.protocol.fields import nearest
from mlc_server.protocol.messages import ChatMessage
from mlc_server.protocol.tools import CalledFunction
from mlc_server.text.template_options import TemplateOptions

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


def template_tools(body: ConversationFields) -> list[Mapping[str, Any]]:
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


def template_options(body: ConversationFields) -> TemplateOptions:
    """What a request asks of the template besides."""
    continues = bool(body.continue_final_message)
    return TemplateOptions(
        variables=body.chat_template_kwargs or {},
        add_generation_prompt=not continues and body.add_generation_prompt is not False,
        continue_final=continues,
    )


def tell_unread(request: Request, model: ServedModel, body: ConversationFields) -> None:
    """Template variables that the model's template does not read are ignored fields."""
    known = model.prompts.template.variables
    unread = [name for name in body.chat_template_kwargs or {} if name not in known]
    ignored = {f"chat_template_kwargs.{name}": nearest(name, known) for name in unread}
    request.app.state.ignored_fields.tell(request, ignored)


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
