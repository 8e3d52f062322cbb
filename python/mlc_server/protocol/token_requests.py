"""Requests that only turn text into tokens and back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from mlc_server import limits
from mlc_server.protocol.conversation import ConversationFields, Messages
from mlc_server.protocol.generation_fields import TokenId
from mlc_server.protocol.strict import StrictModel, fault

ModelName = Annotated[str, Field(max_length=4096)]


class TokenizeRequest(ConversationFields):
    """Body of POST /tokenize: a text (`prompt`, or `content` as llama.cpp says) or a chat."""

    model: ModelName | None = None
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _check_one(self) -> TokenizeRequest:
        given = [value for value in (self.prompt, self.content, self.messages) if value is not None]
        if len(given) != 1:
            raise fault("prompt", "give exactly one of prompt, content and messages")
        return self

    @property
    def text(self) -> str | None:
        """The text; None for a chat."""
        return self.prompt if self.prompt is not None else self.content


class DetokenizeRequest(StrictModel):
    """Body of POST /detokenize."""

    model: ModelName | None = None
    tokens: Annotated[
        list[TokenId], Field(max_length=limits.MAX_DETOKENIZED.default, fail_fast=True)
    ]


class TemplateRequest(ConversationFields):
    """Body of POST /apply-template."""

    model: ModelName | None = None
    messages: Messages


class EmbeddingRequest(StrictModel):
    """Body of POST /v1/embeddings; only its model is looked at."""

    model: ModelName | None = None
    input: Any = None
