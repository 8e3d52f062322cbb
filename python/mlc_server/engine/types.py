"""What goes into the engine and what comes out: plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from mlc_server import _core

GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark", "calls"]


class TokenBytes(Protocol):
    """What each token of a vocabulary stands for: the core's Vocabulary, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, token_id: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are chosen and when generation ends.

    Fields, ranges and "off" values are those of cpp/core/sampling_params.h, which checks them.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Sequence[tuple[int, float]] = ()
    seed: int = 0  # uint64; the same seed and input give the same tokens
    max_tokens: int = -1  # -1 is "until the context window is full"; 0 only runs the prompt
    min_tokens: int = 0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    top_logprobs: int = -1  # -1 is no logprobs at all
    prompt_logprobs: int = -1  # of the prompt's tokens


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """What the whole output must match; the same spec is compiled once.

    `source`, by kind: "json_object": empty; "json_schema": the schema as JSON text; "regex": a
    regular expression without look-around, anchored at both ends, whose \\d and \\w mean ASCII;
    "choice": a JSON list of strings; "lark": a grammar in llguidance's dialect of Lark, which has a
    rule `start`; "calls": such a grammar of this server's around the schemas of a client's tools,
    which may be larger. `param` is the request field that errors name.
    """

    kind: GrammarKind
    source: str = ""
    param: str = field(default="response_format", compare=False)


@dataclass(frozen=True)
class CompiledGrammar:
    """A grammar that the core can follow; it takes so many bytes until nobody holds this."""

    spec: GrammarSpec
    core: _core.Grammar
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EventFormat:
    """How text that comes alone is told as a server-sent event: as a JSON string between constant
    parts. `prefixes` has one for each choice."""

    prefixes: Sequence[bytes]
    suffix: bytes


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt to continue `num_choices` times. Lower `priority` runs first.

    With a `grammar`, tokens are drawn among those that keep the output a prefix of a match, and it
    decides where the output may end: `ignore_eos` has no effect. AsyncEngine.prepare() compiles it.
    With `events`, news of text and tokens alone has the text as an `event_chunk`.
    """

    prompt_ids: Sequence[int]
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    num_choices: int = 1
    priority: int = 0
    grammar: GrammarSpec | CompiledGrammar | None = None
    # False if the output goes on with the prompt's text, whose words a space may come before.
    begins_text: bool = True
    events: EventFormat | None = None


class TokenLogprob(NamedTuple):
    """Log-probability of a token and of the most likely ones, most likely first."""

    token_id: int
    logprob: float
    alternatives: list[tuple[int, float]]
    # Of the token, 1 being the most likely; 0 where it is not known.
    rank: int = 0


class PromptNews(NamedTuple):
    """What happened to a request's prompt, reported with one of its choices."""

    # How long the request waited until some of it ran; reported once, as soon as it did.
    queue_s: float | None = None
    # The next prompt tokens' log-probabilities. The first token has none, so all together are one
    # fewer than the prompt's tokens; choice 0 reports them, before or with its first token.
    logprobs: list[TokenLogprob] | None = None


class Delta(NamedTuple):
    """News of one choice since its sink was last called.

    `text` may lag behind `token_ids`, because bytes that may yet become part of a character or of
    a stop string are held back. `logprobs`, where asked for, has one entry per token id. The last
    delta of a choice has a `finish_reason`: "stop", "length", "cancelled" or "error".
    """

    choice: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: str | None = None
    # The stop id or stop string that ended the choice; None for EOS.
    stop_reason: int | str | None = None
    prompt_tokens: int = 0
    # Drawn so far, the token that ended the choice included.
    completion_tokens: int = 0
    # What went wrong, for the client, when finish_reason is "error".
    error: str | None = None
    prompt: PromptNews | None = None
    # The text as a server-sent event in an HTTP chunk; `text` is empty then.
    event_chunk: bytes | None = None


@dataclass(frozen=True, slots=True)
class Handle:
    """Names a submitted request to the engine it was submitted to."""

    request_id: int


@dataclass(frozen=True, slots=True)
class CompletedChoice:
    """The whole output of one choice."""

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: str
    stop_reason: int | str | None
    prompt_tokens: int
    completion_tokens: int
