"""A conversation and how the model's template is to show it: what chats have in common with
requests that only look at their prompt."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import WithJsonSchema
from typing_extensions import Self

from mlc_server import limits
from mlc_server.protocol.generation_fields import VALIDATED_DEFAULT
from mlc_server.protocol.messages import ChatMessage, check_call_ids
from mlc_server.protocol.strict import StrictModel, fault
from mlc_server.protocol.tools import (
    CHOICE_SCHEMA,
    FUNCTION_CALL_SCHEMA,
    FunctionDefinition,
    Tool,
    ToolChoice,
    check_functions,
    check_tools,
    parse_choice,
    parse_function_call,
)

VariableName = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Messages = Annotated[
    list[ChatMessage], Field(min_length=1, max_length=limits.MAX_MESSAGES.default, fail_fast=True)
]


class ConversationFields(StrictModel):
    """Messages, tools and options of the template. null means the default, as if absent."""

    messages: Messages | None = None
    tools: (
        Annotated[list[Tool], Field(max_length=limits.MAX_TOOLS.default, fail_fast=True)] | None
    ) = None
    tool_choice: Annotated[Any, WithJsonSchema(CHOICE_SCHEMA), VALIDATED_DEFAULT] = None
    parallel_tool_calls: bool | None = None
    # The older names of tools and tool_choice. What is called is told in the older way too.
    functions: (
        Annotated[
            list[FunctionDefinition], Field(max_length=limits.MAX_TOOLS.default, fail_fast=True)
        ]
        | None
    ) = None
    function_call: Annotated[Any, WithJsonSchema(FUNCTION_CALL_SCHEMA), VALIDATED_DEFAULT] = None

    # Variables for the chat template to read.
    chat_template_kwargs: (
        Annotated[dict[VariableName, Any], Field(max_length=limits.MAX_TEMPLATE_VARIABLES.default)]
        | None
    ) = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @field_validator("tool_choice")
    @classmethod
    def _check_tool_choice(cls, choice: Any) -> ToolChoice | None:
        return parse_choice(choice)

    @field_validator("function_call")
    @classmethod
    def _check_function_call(cls, choice: Any) -> ToolChoice | None:
        return parse_function_call(choice)

    @model_validator(mode="after")
    def _check_conversation(self) -> Self:
        if self.continue_final_message:
            self._check_final_message()
        check_call_ids(self.messages or ())
        check_tools(self.tools or (), self.tool_choice)
        check_functions(self.functions or (), self.function_call)
        if self.functions and (self.tools or self.tool_choice is not None):
            raise fault("functions", "not allowed together with tools or tool_choice")
        return self

    def _check_final_message(self) -> None:
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "assistant" or not last.content or last.tool_calls:
            raise fault("continue_final_message", "needs a final assistant message with text")
        if self.add_generation_prompt:
            raise fault("continue_final_message", "not allowed with add_generation_prompt")

    @property
    def callable(self) -> list[FunctionDefinition]:
        """The functions of `tools`, or of `functions`."""
        return self.functions or [tool.function for tool in self.tools or ()]

    @property
    def choice(self) -> ToolChoice | None:
        """Which of them may be called; None is the default."""
        chosen = self.function_call if self.functions else self.tool_choice
        assert chosen is None or isinstance(chosen, ToolChoice)
        return chosen
