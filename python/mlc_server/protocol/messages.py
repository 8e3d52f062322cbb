"""The messages of a chat request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema, WithJsonSchema
from pydantic_core import PydanticCustomError

from mlc_server import limits
from mlc_server.protocol.excerpt import show
from mlc_server.protocol.strict import StrictModel, fault
from mlc_server.protocol.tools import CalledFunction, CallId, ToolCall

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
Name = Annotated[str, Field(max_length=limits.MAX_NAME_LENGTH.default)]

CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "maxItems": limits.MAX_CONTENT_PARTS.default,
            "items": {
                "type": "object",
                "anyOf": [
                    {
                        "required": ["type", kind],
                        "properties": {"type": {"const": kind}, kind: {"type": "string"}},
                    }
                    for kind in ("text", "refusal")
                ],
            },
        },
        {"type": "null"},
    ]
}


class ContentPart(StrictModel):
    """The keys of a part of content."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class ChatMessage(StrictModel):
    """One message. `content` is text once validated: parts are joined with line breaks."""

    parts: ClassVar[dict[str, type[StrictModel]]] = {"content": ContentPart}

    role: Role
    content: Annotated[Any, WithJsonSchema(CONTENT_SCHEMA)] = None
    name: Name | None = None
    tool_calls: (
        Annotated[list[ToolCall], Field(max_length=limits.MAX_TOOLS.default, fail_fast=True)] | None
    ) = None
    tool_call_id: CallId | None = None
    # tool_calls and role tool as they were once: one call, answered by role function.
    function_call: CalledFunction | None = None
    refusal: SkipJsonSchema[str | None] = None

    @field_validator("content")
    @classmethod
    def _flatten(cls, content: Any) -> str | None:
        if content is None or isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise fault("", f"must be a string or a list of text parts; got {show(content)}")
        if len(content) > limits.MAX_CONTENT_PARTS.default:
            raise PydanticCustomError(
                "too_many",
                "must have at most {limit} parts; got {count}",
                {"limit": limits.MAX_CONTENT_PARTS.default, "count": len(content)},
            )
        return "\n".join(_text_of_part(part, index) for index, part in enumerate(content))

    @model_validator(mode="after")
    def _check_role(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise fault("tool_calls", f"only allowed for role assistant; this is {self.role}")
        if self.role == "tool" and self.tool_call_id is None:
            raise fault("tool_call_id", "is required for role tool")
        if self.role != "tool" and self.tool_call_id is not None:
            raise fault("tool_call_id", f"only allowed for role tool; this is {self.role}")
        if self.content is None and self.role not in ("assistant", "tool", "function"):
            raise fault("content", f"is required for role {self.role}")
        self._check_function()
        return self

    def _check_function(self) -> None:
        if self.function_call is not None:
            if self.role != "assistant":
                raise fault(
                    "function_call", f"only allowed for role assistant; this is {self.role}"
                )
            if self.tool_calls:
                raise fault("function_call", "not allowed together with tool_calls")
        if self.role == "function" and self.name is None:
            raise fault("name", "is required for role function")


def check_call_ids(messages: Sequence[ChatMessage]) -> None:
    """Every result answers a call made before it; raises PydanticCustomError."""
    known: set[str] = set()
    called = False
    for index, message in enumerate(messages):
        called |= message.function_call is not None
        if message.role == "function" and not called:
            raise fault(f"messages[{index}].role", "answers no earlier function_call")
        known.update(call.id for call in message.tool_calls or ())
        if message.tool_call_id is not None and message.tool_call_id not in known:
            raise fault(
                f"messages[{index}].tool_call_id",
                f"answers no earlier tool call; got {show(message.tool_call_id)}",
            )


def _text_of_part(part: Any, index: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    # An assistant's refusal is its answer.
    text = part.get(kind) if kind in ("text", "refusal") else None
    if not isinstance(text, str):
        seen = show(part.get("type")) if isinstance(part, dict) else show(part)
        raise PydanticCustomError(
            "content_part",
            'part {index} must have type "text" and a text; got {seen}',
            {"index": index, "seen": seen},
        )
    return text
