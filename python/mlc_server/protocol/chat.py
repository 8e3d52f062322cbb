"""The chat completion request: every field it may carry, typed and bounded."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import WithJsonSchema

from mlc_server import limits
from mlc_server.protocol.generation_fields import VALIDATED_DEFAULT, GenerationFields, TokenCount
from mlc_server.protocol.messages import ChatMessage, check_call_ids
from mlc_server.protocol.strict import fault
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


class ChatCompletionRequest(GenerationFields):
    """Body of POST /v1/chat/completions. null means the default, as if the key were absent."""

    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=limits.MAX_MESSAGES.default, fail_fast=True),
    ]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=limits.MAX_TOP_LOGPROBS.default)] | None = None

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
    def _check_together(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise fault("top_logprobs", "only allowed together with logprobs: true")
        if self.continue_final_message:
            self._check_final_message()
        check_call_ids(self.messages)
        check_tools(self.tools or (), self.tool_choice)
        check_functions(self.functions or (), self.function_call)
        if self.functions and (self.tools or self.tool_choice is not None):
            raise fault("functions", "not allowed together with tools or tool_choice")
        return self

    def _check_final_message(self) -> None:
        last = self.messages[-1]
        if last.role != "assistant" or not last.content or last.tool_calls:
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

    @property
    def token_budget(self) -> int | None:
        """Most tokens to generate; the newer name wins when both are given."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def num_logprobs(self) -> int:
        return (self.top_logprobs or 0) if self.logprobs else -1
