"""What the model thought of a prompt's tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlc_server.api.answer import Answer
from mlc_server.engine import Delta, TokenLogprob
from mlc_server.protocol.completion_responses import EchoLogprobs
from mlc_server.protocol.responses import PromptLogprobs


class PromptScores:
    """Log-probabilities of one prompt, made into JSON as they come, so that a long prompt's never
    hold up the event loop at once."""

    def __init__(
        self,
        answer: Answer,
        num_tokens: int,
        *,
        listed: int | None = None,
        echo: EchoLogprobs | None = None,
        echoed: int = 0,
    ) -> None:
        """`listed`: alternatives of each token in vLLM's form, None if that is not wanted. `echo`:
        OpenAI's form, with `echoed` alternatives."""
        self._answer = answer
        self._missing = num_tokens - 1
        self._listed = listed
        self._list: PromptLogprobs = [None]
        self._echo = echo
        self._echoed = echoed

    @property
    def complete(self) -> bool:
        """Every token has come."""
        return self._missing == 0

    def add(self, delta: Delta) -> None:
        """Takes what a delta of the prompt's choices says of it."""
        entries = delta.prompt.logprobs if delta.prompt is not None else None
        if entries is None:
            return
        self._missing -= len(entries)
        if self._echo is not None:
            converted = self._answer.in_bytes(entries)
            self._echo.add(
                [replace(e, alternatives=e.alternatives[: self._echoed]) for e in converted]
            )
        if self._listed is not None:
            self._list += [self._by_id(entry, self._listed) for entry in entries]

    def echo_json(self) -> dict[str, Any] | None:
        """OpenAI's lists of the prompt given back; None if they are not wanted."""
        return None if self._echo is None else self._echo.to_json()

    def listed(self) -> PromptLogprobs | None:
        """vLLM's prompt_logprobs; None if they are not wanted."""
        return None if self._listed is None else self._list

    def _by_id(self, entry: TokenLogprob, count: int) -> dict[str, Any]:
        found = {str(entry.token_id): self._entry(entry.token_id, entry.logprob, entry.rank)}
        for rank, (token_id, logprob) in enumerate(entry.alternatives[:count], start=1):
            found.setdefault(str(token_id), self._entry(token_id, logprob, rank))
        return found

    def _entry(self, token_id: int, logprob: float, rank: int) -> dict[str, Any]:
        text = self._answer.bytes_of(token_id).decode("utf-8", "replace")
        return {"logprob": max(logprob, -9999.0), "rank": rank, "decoded_token": text}
