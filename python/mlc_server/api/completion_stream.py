"""Text completions as server-sent events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlc_server.api.answer import Answer, check_delta, disconnect_watch
from mlc_server.api.completion_choices import Choice
from mlc_server.engine import Delta
from mlc_server.errors import RequestError
from mlc_server.protocol.completion_responses import completion_json
from mlc_server.protocol.completions import CompletionRequest
from mlc_server.protocol.error_body import error_json
from mlc_server.protocol.responses import Logprob, Usage

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class CompletionStream(Response):
    """Streams an answer. A failure after the first byte is an error event, then [DONE]."""

    def __init__(
        self,
        answer: Answer,
        body: CompletionRequest,
        choices: Sequence[Choice],
        ping_interval_s: int,
    ) -> None:
        # Not super().__init__(): there is no body to render. FastAPI reads these two.
        self.background = None
        self.status_code = 200
        self._answer = answer
        self._choices = choices
        self._ping_interval_s = ping_interval_s
        options = body.stream_options
        self._usage_at_end = options is not None and bool(options.include_usage)
        self._usage_always = options is not None and bool(options.continuous_usage_stats)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        async with disconnect_watch(answer.generation, receive):
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            try:
                await self._send_choices(send)
            except RequestError as error:
                answer.log.failed(error)
                await _send(send, error_json(error))
            else:
                if answer.generation.disconnected:
                    answer.log.disconnected()
                    return
                answer.log.finished()
                if self._usage_at_end:
                    await _send(send, completion_json(answer.head, [], usage_of(answer)))
            await _send(send, b"[DONE]", last=True)

    async def _send_choices(self, send: Send) -> None:
        generation = self._answer.generation
        await self._send_echoes(send, [c for c in self._choices if c.prompt.complete])
        while not generation.finished and not generation.disconnected:
            deltas = await generation.next(self._ping_interval_s)
            if not deltas and not generation.disconnected:
                ping = {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
                await send(ping)
            for delta in deltas:
                check_delta(delta)
                self._answer.log.progressed(delta)
                await self._send_delta(send, delta)

    async def _send_delta(self, send: Send, delta: Delta) -> None:
        entries = self._answer.logprobs(delta)
        prompt = self._choices[delta.choice].prompt
        if prompt.complete:
            await self._send_news(send, delta, entries)
            return
        prompt.add(delta)
        prompt.held.append((delta, entries))
        if prompt.complete:
            await self._send_echoes(send, [c for c in self._choices if c.prompt is prompt])
            for held in prompt.held:
                await self._send_news(send, *held)

    async def _send_echoes(self, send: Send, choices: Sequence[Choice]) -> None:
        for choice in choices:
            if choice.prompt.echo or choice.prompt.echo_logprobs() is not None:
                await self._send_choice(send, choice.echo_json())

    async def _send_news(self, send: Send, delta: Delta, entries: list[Logprob] | None) -> None:
        choice = self._choices[delta.choice]
        shows = delta.text or entries or choice.prompt.shows_ids
        if shows or delta.finish_reason is not None:
            await self._send_choice(send, choice.news_json(delta, entries))

    async def _send_choice(self, send: Send, choice: dict[str, Any]) -> None:
        usage = usage_of(self._answer) if self._usage_always else None
        await _send(send, completion_json(self._answer.head, [choice], usage))


def usage_of(answer: Answer) -> Usage:
    return Usage(answer.prompt_tokens, answer.log.completion_tokens)


async def _send(send: Send, data: bytes, *, last: bool = False) -> None:
    event = b"data: " + data + b"\n\n"
    await send({"type": "http.response.body", "body": event, "more_body": not last})
