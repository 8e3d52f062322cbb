"""Text completions as server-sent events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mlc_server.api.answer import Answer
from mlc_server.api.completion_choices import Choice
from mlc_server.api.event_stream import EventStream
from mlc_server.engine import Delta
from mlc_server.protocol.completion_responses import completion_event
from mlc_server.protocol.completions import CompletionRequest
from mlc_server.protocol.responses import Logprob


def streams_plain_text(body: CompletionRequest) -> bool:
    """Whether the events of a stream are text and nothing else, so that the core can write them."""
    if not body.stream or body.return_token_ids or _usage_always(body):
        return False
    # Text waits for the echo, which waits for the prompt's log-probabilities.
    return body.num_prompt_logprobs < 0


def _usage_always(body: CompletionRequest) -> bool:
    options = body.stream_options
    return options is not None and bool(options.continuous_usage_stats)


class CompletionStream(EventStream):
    """The chunks of an answer: what is echoed of each prompt, then news of its choices."""

    def __init__(
        self,
        answer: Answer,
        body: CompletionRequest,
        choices: Sequence[Choice],
        ping_interval_s: int,
    ) -> None:
        super().__init__(answer, ping_interval_s=ping_interval_s)
        self._choices = choices
        options = body.stream_options
        self._usage_at_end = options is not None and bool(options.include_usage)
        self._usage_always = _usage_always(body)

    def opening(self) -> Iterable[bytes]:
        return self._echoes([choice for choice in self._choices if choice.prompt.complete])

    def events(self, delta: Delta) -> Iterator[bytes]:
        """Nothing until the echo can be told, then that and what came meanwhile."""
        entries = self._answer.logprobs(delta)
        prompt = self._choices[delta.choice].prompt
        if prompt.complete:
            yield from self._news(delta, entries)
            return
        prompt.add(delta)
        prompt.held.append((delta, entries))
        if prompt.complete:
            yield from self._echoes([c for c in self._choices if c.prompt is prompt])
            for held in prompt.held:
                yield from self._news(*held)

    def closing(self) -> Iterable[bytes]:
        if self._usage_at_end:
            yield completion_event(self._answer.head, [], self._answer.usage())

    def _echoes(self, choices: Sequence[Choice]) -> Iterator[bytes]:
        for choice in choices:
            if choice.prompt.echo or choice.prompt.echo_logprobs() is not None:
                yield self._event(choice.echo_json())

    def _news(self, delta: Delta, entries: list[Logprob] | None) -> Iterator[bytes]:
        """One event, or none where the text is held back and nothing else is told."""
        choice = self._choices[delta.choice]
        shows = delta.text or entries or choice.prompt.shows_ids
        if shows or delta.finish_reason is not None:
            yield self._event(choice.news_json(delta, entries))

    def _event(self, choice: dict[str, Any]) -> bytes:
        usage = self._answer.usage() if self._usage_always else None
        return completion_event(self._answer.head, [choice], usage)
