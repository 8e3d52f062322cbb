"""The choices of a text completion while they come in, and the prompts that are given back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlc_server.api.answer import Answer
from mlc_server.api.prompt_scores import PromptScores
from mlc_server.api.service import ServedModel
from mlc_server.engine import Delta
from mlc_server.protocol.completion_responses import (
    EchoLogprobs,
    LogprobsWriter,
    choice_json,
    joined,
    with_token_ids,
)
from mlc_server.protocol.completions import CompletionRequest, Prompt
from mlc_server.protocol.responses import Logprob


@dataclass
class AnsweredPrompt:
    """What the choices of one prompt share."""

    ids: Sequence[int]
    shows_ids: bool
    # The prompt given back before each choice; empty without echo.
    echo: str
    # None if nobody asked for its log-probabilities.
    scores: PromptScores | None
    # News of its choices that a stream keeps back until the echo before it can be sent.
    held: list[tuple[Delta, list[Logprob] | None]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """All that is to be said of the prompt is known."""
        return self.scores is None or self.scores.complete

    def add(self, delta: Delta) -> None:
        if self.scores is not None:
            self.scores.add(delta)

    def echo_logprobs(self) -> dict[str, Any] | None:
        return None if self.scores is None else self.scores.echo_json()

    def with_logprobs(self, choice: dict[str, Any]) -> dict[str, Any]:
        """A whole choice with vLLM's prompt_logprobs, if they are asked for."""
        listed = None if self.scores is None else self.scores.listed()
        return choice if listed is None else choice | {"prompt_logprobs": listed}


@dataclass
class Choice:
    """A choice under way: its prompt, and what has come."""

    index: int
    prompt: AnsweredPrompt
    logprobs: LogprobsWriter = field(init=False)
    text: str = ""
    entries: list[Logprob] | None = None
    last: Delta | None = None
    token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.logprobs = LogprobsWriter(len(self.prompt.echo))

    def add(self, delta: Delta, entries: list[Logprob] | None) -> None:
        self.prompt.add(delta)
        self.text += delta.text
        if entries is not None:
            self.entries = (self.entries or []) + entries
        self.token_ids += delta.token_ids
        self.last = delta

    def to_json(self) -> dict[str, Any]:
        assert self.last is not None
        logprobs = None if self.entries is None else self.logprobs.to_json(self.entries)
        before = self.prompt.echo_logprobs()
        if before is not None:
            logprobs = joined(before, logprobs)
        text = self.prompt.echo + self.text
        choice = choice_json(
            self.index, text, logprobs, self.last.finish_reason, self.last.stop_reason
        )
        choice = self.prompt.with_logprobs(choice)
        if not self.prompt.shows_ids:
            return choice
        return with_token_ids(choice, self.token_ids, self.prompt.ids)

    def echo_json(self) -> dict[str, Any]:
        """What a stream begins the choice with, if there is an echo."""
        return choice_json(self.index, self.prompt.echo, self.prompt.echo_logprobs())

    def news_json(self, delta: Delta, entries: list[Logprob] | None) -> dict[str, Any]:
        """What a stream says of a delta."""
        logprobs = self.logprobs.to_json(entries) if entries else None
        choice = choice_json(
            self.index, delta.text, logprobs, delta.finish_reason, delta.stop_reason
        )
        if not self.prompt.shows_ids:
            return choice
        first = self.last is None
        self.last = delta
        return with_token_ids(choice, delta.token_ids, self.prompt.ids if first else None)


def answered_prompts(
    model: ServedModel,
    body: CompletionRequest,
    prompt_ids: Sequence[Sequence[int]],
    answer: Answer,
) -> list[AnsweredPrompt]:
    """What each prompt's choices share; `prompt_ids` are the ids of `body.prompt`."""
    prompts = []
    for prompt, ids in zip(body.prompt, prompt_ids, strict=True):
        text, starts = _echo(model, body, prompt, ids) if body.echo else ("", [])
        scores = None
        if body.num_prompt_logprobs >= 0:
            scored_echo = EchoLogprobs(answer.bytes_of(ids[0]), starts)
            scores = PromptScores(
                answer,
                len(ids),
                listed=body.prompt_logprobs,
                echo=scored_echo if body.scores_echo else None,
                echoed=body.num_logprobs,
            )
        prompts.append(AnsweredPrompt(ids, bool(body.return_token_ids), text, scores))
    return prompts


def _echo(
    model: ServedModel, body: CompletionRequest, prompt: Prompt, ids: Sequence[int]
) -> tuple[str, list[int]]:
    """A prompt as text, and where in it each token begins; text is given back as it came."""
    if not isinstance(prompt, str):
        return text_of_ids(model, ids)
    if not body.scores_echo:
        return prompt, []
    special = body.add_special_tokens is not False
    _, starts = model.prompts.tokenizer.encode_with_starts(prompt, add_special_tokens=special)
    return prompt, starts


def text_of_ids(model: ServedModel, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of token ids, special ones as they are written, and where in it each begins."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    drops_space = model.prompts.tokenizer.strips_leading_space
    text, starts = "", []
    for token_id in ids:
        starts.append(len(text))
        raw = model.token_bytes[token_id]
        if drops_space and raw:
            raw, drops_space = raw.removeprefix(b" "), False
        text += decoder.decode(raw)
    return text + decoder.decode(b"", final=True), starts
