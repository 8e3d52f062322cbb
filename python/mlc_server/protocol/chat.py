"""The chat completion request: every field it may carry, typed and bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from mlc_server import limits
from mlc_server.protocol.conversation import ConversationFields, Messages
from mlc_server.protocol.generation_fields import GenerationFields, TokenCount
from mlc_server.protocol.strict import fault


class ChatCompletionRequest(ConversationFields, GenerationFields):
    """Body of POST /v1/chat/completions. null means the default, as if the key were absent."""

    messages: Messages
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=limits.MAX_TOP_LOGPROBS.default)] | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise fault("top_logprobs", "only allowed together with logprobs: true")
        return self

    @property
    def token_budget(self) -> int | None:
        """Most tokens to generate; the newer name wins when both are given."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def budget_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def num_logprobs(self) -> int:
        return (self.top_logprobs or 0) if self.logprobs else -1
