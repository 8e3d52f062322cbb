"""The text completion request: prompts as text or token ids, continued as they are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

from mlc_server import limits
from mlc_server.protocol.excerpt import show
from mlc_server.protocol.generation_fields import GenerationFields
from mlc_server.protocol.strict import fault

# A prompt once validated: text to encode, or ids as they are.
Prompt = str | tuple[int, ...]

DEFAULT_MAX_TOKENS = 16
_IDS_SCHEMA = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        _IDS_SCHEMA,
        {
            "type": "array",
            "minItems": 1,
            "maxItems": limits.MAX_PROMPTS.default,
            "items": {"type": "string"},
        },
        {
            "type": "array",
            "minItems": 1,
            "maxItems": limits.MAX_PROMPTS.default,
            "items": _IDS_SCHEMA,
        },
    ]
}


class CompletionRequest(GenerationFields):
    """Body of POST /v1/completions. null means the default, as if the key were absent."""

    prompt: Annotated[Any, WithJsonSchema(PROMPT_SCHEMA)]
    # 0 runs the prompt and generates nothing: with echo and logprobs, it scores the prompt.
    max_tokens: Annotated[int, Field(ge=0, le=limits.INT32_MAX)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=limits.MAX_COMPLETION_LOGPROBS.default)] | None = None
    best_of: Annotated[int, Field(ge=1, le=limits.MAX_CHOICES.default)] | None = None
    # What follows the text to be written, for models that can fill in.
    suffix: str | None = None
    # Whether the tokenizer puts its own special tokens (such as BOS) around a text.
    add_special_tokens: bool | None = None

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: Any) -> tuple[Prompt, ...]:
        return parse_prompts(prompt)

    @model_validator(mode="after")
    def _check_completion(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise fault("best_of", f"must be n, which is {self.n or 1}; got {self.best_of}")
        if self.suffix and self.echo:
            raise fault("echo", "not supported together with suffix")
        return self

    @property
    def token_budget(self) -> int:
        """Most tokens to generate; OpenAI's default here is 16."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def num_logprobs(self) -> int:
        return -1 if self.logprobs is None else self.logprobs

    @property
    def scores_echo(self) -> bool:
        """The prompt is given back with log-probabilities."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def num_prompt_logprobs(self) -> int:
        echoed = self.num_logprobs if self.echo else -1
        return max(super().num_prompt_logprobs, echoed)


def parse_prompts(value: Any) -> tuple[Prompt, ...]:
    """One prompt or a list of them, as text or ids; raises PydanticCustomError."""
    if not isinstance(value, list) or (value and isinstance(value[0], int)):
        return (_prompt(value, None),)
    if not 1 <= len(value) <= limits.MAX_PROMPTS.default:
        raise PydanticCustomError(
            "prompt_count",
            "must have 1 to {limit} prompts; got {count}",
            {"limit": limits.MAX_PROMPTS.default, "count": len(value)},
        )
    return tuple(_prompt(item, index) for index, item in enumerate(value))


def _prompt(value: Any, index: int | None) -> Prompt:
    where = "" if index is None else f" as prompt {index}"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        for item in value:
            is_id = isinstance(item, int) and not isinstance(item, bool)
            if not is_id or not 0 <= item <= limits.INT32_MAX:
                raise PydanticCustomError(
                    "prompt_ids",
                    "token ids must be whole numbers from 0; got {seen}",
                    {"seen": show(item)},
                )
        return tuple(value)
    raise PydanticCustomError(
        "prompt_type",
        "must be text, or at least one token id, or a list of one of them; got {seen}{where}",
        {"where": where, "seen": show(value)},
    )
