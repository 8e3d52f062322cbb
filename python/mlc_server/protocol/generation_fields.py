"""What every request that generates may carry: sampling, limits, streaming, and their checks."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from mlc_server import limits
from mlc_server.protocol.excerpt import show
from mlc_server.protocol.strict import StrictModel, fault
from mlc_server.protocol.structured_output import (
    RESPONSE_FORMAT_SCHEMA,
    STRUCTURED_OUTPUTS_SCHEMA,
    OutputFormat,
    ResponseFormatKeys,
    parse_response_format,
    parse_structured_outputs,
)

TokenCount = Annotated[int, Field(ge=limits.MAX_TOKENS.low, le=limits.INT32_MAX)]
TokenId = Annotated[int, Field(ge=0, le=limits.INT32_MAX)]

STOP_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "array",
            "maxItems": limits.MAX_STOP_STRINGS.default,
            "items": {"type": "string", "minLength": 1},
        },
        {"type": "null"},
    ]
}
LOGIT_BIAS_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "maxProperties": limits.MAX_LOGIT_BIAS.default,
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {
                "type": "number",
                "minimum": limits.LOGIT_BIAS.low,
                "maximum": limits.LOGIT_BIAS.high,
            },
        },
        {"type": "null"},
    ]
}
# Absent and null both become the empty tuple.
VALIDATED_DEFAULT = Field(validate_default=True)


class StreamOptions(StrictModel):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationFields(StrictModel):
    """Fields that chat and text completions share. null means the default, as if absent."""

    parts: ClassVar[dict[str, type[StrictModel]]] = {"response_format": ResponseFormatKeys}

    model: Annotated[str, Field(max_length=4096)] | None = None

    temperature: (
        Annotated[float, Field(ge=limits.TEMPERATURE.low, le=limits.TEMPERATURE.high)] | None
    ) = None
    top_p: Annotated[float, Field(ge=limits.TOP_P.low, le=limits.TOP_P.high)] | None = None
    top_k: Annotated[int, Field(ge=limits.TOP_K.low, le=limits.INT32_MAX)] | None = None
    min_p: Annotated[float, Field(ge=limits.MIN_P.low, le=limits.MIN_P.high)] | None = None
    repetition_penalty: (
        Annotated[
            float,
            Field(gt=limits.REPETITION_PENALTY.above, le=limits.REPETITION_PENALTY.high),
        ]
        | None
    ) = None
    frequency_penalty: (
        Annotated[float, Field(ge=limits.FREQUENCY_PENALTY.low, le=limits.FREQUENCY_PENALTY.high)]
        | None
    ) = None
    presence_penalty: (
        Annotated[float, Field(ge=limits.PRESENCE_PENALTY.low, le=limits.PRESENCE_PENALTY.high)]
        | None
    ) = None
    logit_bias: Annotated[Any, WithJsonSchema(LOGIT_BIAS_SCHEMA), VALIDATED_DEFAULT] = None
    seed: Annotated[int, Field(ge=limits.INT64_MIN, le=limits.INT64_MAX)] | None = None

    max_tokens: TokenCount | None = None
    min_tokens: Annotated[int, Field(ge=limits.MIN_TOKENS.low, le=limits.INT32_MAX)] | None = None
    stop: Annotated[Any, WithJsonSchema(STOP_SCHEMA), VALIDATED_DEFAULT] = None
    stop_token_ids: (
        Annotated[
            list[TokenId], Field(max_length=limits.MAX_STOP_TOKEN_IDS.default, fail_fast=True)
        ]
        | None
    ) = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None

    # Once validated: what the output must match, or None.
    response_format: Annotated[Any, WithJsonSchema(RESPONSE_FORMAT_SCHEMA)] = None
    structured_outputs: Annotated[Any, WithJsonSchema(STRUCTURED_OUTPUTS_SCHEMA)] = None

    n: Annotated[int, Field(ge=1, le=limits.MAX_CHOICES.default)] | None = None
    # Log-probabilities of the prompt's tokens, with so many alternatives, as in vLLM.
    prompt_logprobs: Annotated[int, Field(ge=0, le=limits.MAX_PROMPT_LOGPROBS.default)] | None = (
        None
    )
    # Token ids of prompt and output beside their text, as in vLLM.
    return_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=4096)] | None = None
    # Lower runs first, as in vLLM.
    priority: Annotated[int, Field(ge=limits.INT32_MIN, le=limits.INT32_MAX)] | None = None
    # Caches shared between requests are split by it.
    cache_salt: Annotated[str, Field(min_length=1, max_length=4096)] | None = None

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: Any) -> tuple[str, ...]:
        strings = [] if stop is None else [stop] if isinstance(stop, str) else stop
        if not isinstance(strings, list):
            raise fault("", f"must be a string or a list of strings; got {show(stop)}")
        if len(strings) > limits.MAX_STOP_STRINGS.default:
            raise PydanticCustomError(
                "too_many",
                "must have at most {limit} strings; got {count}",
                {"limit": limits.MAX_STOP_STRINGS.default, "count": len(strings)},
            )
        for string in strings:
            if not isinstance(string, str):
                raise fault("", f"must be a string or a list of strings; got {show(string)} in it")
            size = len(string.encode("utf-8", "surrogatepass"))
            if not 0 < size <= limits.MAX_STOP_BYTES.default:
                raise PydanticCustomError(
                    "stop_length",
                    "each string must have 1 to {limit} bytes of UTF-8; got {size}",
                    {"limit": limits.MAX_STOP_BYTES.default, "size": size},
                )
        return tuple(strings)

    @field_validator("logit_bias")
    @classmethod
    def _check_logit_bias(cls, bias: Any) -> tuple[tuple[int, float], ...]:
        if bias is None:
            return ()
        if not isinstance(bias, dict):
            raise fault("", f"must be an object of token id to bias; got {show(bias)}")
        if len(bias) > limits.MAX_LOGIT_BIAS.default:
            raise PydanticCustomError(
                "too_many",
                "must have at most {limit} entries; got {count}",
                {"limit": limits.MAX_LOGIT_BIAS.default, "count": len(bias)},
            )
        return tuple(_bias_entry(key, value) for key, value in bias.items())

    @field_validator("response_format")
    @classmethod
    def _check_response_format(cls, value: Any) -> OutputFormat | None:
        return parse_response_format(value)

    @field_validator("structured_outputs")
    @classmethod
    def _check_structured_outputs(cls, value: Any) -> OutputFormat | None:
        return parse_structured_outputs(value)

    @model_validator(mode="after")
    def _check_generation(self) -> Self:
        if self.response_format is not None and self.structured_outputs is not None:
            raise fault("structured_outputs", "not allowed together with response_format")
        if self.stream_options is not None and not self.stream:
            raise fault("stream_options", "only allowed together with stream: true")
        if self.prompt_logprobs is not None and self.stream:
            raise fault("prompt_logprobs", "not available together with stream: true")
        budget, least = self.token_budget, self.min_tokens or 0
        if budget is not None and least > budget:
            raise fault(
                "min_tokens", f"must be at most {self.budget_field}, which is {budget}; got {least}"
            )
        return self

    @property
    def output_format(self) -> OutputFormat | None:
        """What the output must match; None for free text."""
        chosen = self.response_format or self.structured_outputs
        assert chosen is None or isinstance(chosen, OutputFormat)
        return chosen

    @property
    def token_budget(self) -> int | None:
        """Most tokens to generate; None is until the context window is full."""
        return self.max_tokens

    @property
    def budget_field(self) -> str:
        """The field that says so."""
        return "max_tokens"

    @property
    def num_logprobs(self) -> int:
        """Alternatives to report per token; -1 is no log-probabilities at all."""
        return -1

    @property
    def num_prompt_logprobs(self) -> int:
        """The same of the prompt's tokens."""
        return -1 if self.prompt_logprobs is None else self.prompt_logprobs


def _bias_entry(key: str, value: Any) -> tuple[int, float]:
    if not (key.isascii() and key.isdigit() and len(key) <= 9):
        raise PydanticCustomError(
            "bias_key", "keys must be token ids; got {key}", {"key": show(key)}
        )
    allowed = limits.LOGIT_BIAS
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN fails both comparisons.
    if not number or not allowed.low <= value <= allowed.high:
        raise PydanticCustomError(
            "bias_value",
            "bias of token {key} must be a number {range}; got {seen}",
            {"key": key, "range": allowed.describe(), "seen": show(value)},
        )
    return int(key), float(value)
