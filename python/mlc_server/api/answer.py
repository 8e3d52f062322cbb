"""A request under way, as both kinds of response see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.types import Receive

from mlc_server.api.generation import Generation
from mlc_server.api.request_log import RequestLog
from mlc_server.api.tools import ToolUse
from mlc_server.engine import Delta, TokenBytes, TokenLogprob
from mlc_server.errors import GenerationFailed
from mlc_server.protocol.responses import Logprob, ResponseHead, Usage

# How the core's finish reasons read over HTTP. "error" and "cancelled" never become a choice.
_FAILED = ("error", "cancelled")


@dataclass(frozen=True)
class Answer:
    """What the response writers need. `token_bytes[id]` is what a token stands for."""

    head: ResponseHead
    generation: Generation
    num_choices: int
    prompt_tokens: int
    token_bytes: TokenBytes
    log: RequestLog
    # How the request may call tools; None if it may not.
    tools: ToolUse | None = None
    # The prompt's ids if return_token_ids asks for ids, of the output's tokens too.
    prompt_ids: Sequence[int] | None = None
    # Tokens that no text shows.
    hidden_ids: frozenset[int] = frozenset()

    def usage(self) -> Usage:
        """What has been used so far."""
        return Usage(self.prompt_tokens, self.log.completion_tokens)

    def logprobs(self, delta: Delta) -> list[Logprob] | None:
        """The delta's log-probabilities with tokens as bytes; None if none were asked for."""
        return None if delta.logprobs is None else self.in_bytes(delta.logprobs)

    def in_bytes(self, entries: Sequence[TokenLogprob]) -> list[Logprob]:
        """The engine's log-probabilities with tokens as bytes."""
        return [
            Logprob(
                raw=self.bytes_of(entry.token_id),
                logprob=entry.logprob,
                alternatives=[(self.bytes_of(i), value) for i, value in entry.alternatives],
                hidden=entry.token_id in self.hidden_ids,
            )
            for entry in entries
        ]

    def bytes_of(self, token_id: int) -> bytes:
        """What a token stands for."""
        # Logits may be padded beyond the vocabulary.
        return self.token_bytes[token_id] if token_id < len(self.token_bytes) else b""


def check_delta(delta: Delta) -> None:
    """Raises GenerationFailed if the engine gave the request up."""
    if delta.finish_reason in _FAILED:
        raise GenerationFailed(delta.error or "the engine ended this request")


@contextlib.asynccontextmanager
async def disconnect_watch(generation: Generation, receive: Receive) -> AsyncIterator[None]:
    """While inside, the client's leaving wakes the generation's consumer. Closes the generation."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        generation.disconnect()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watcher.cancel()
        generation.close()
