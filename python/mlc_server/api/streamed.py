"""The answer as server-sent events, written straight to ASGI.

Each event is one `send`, and the server frames one `send` as one HTTP chunk, also when several
leave in the same write: clients that take a chunk for an event are right. The engine merges news of
steps that nobody has read yet, so a slow reader gets fewer and longer events.
"""

from __future__ import annotations

from collections.abc import Iterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlc_server.api.answer import Answer, check_delta, disconnect_watch
from mlc_server.api.tools import StreamReader
from mlc_server.engine import Delta
from mlc_server.errors import RequestError
from mlc_server.protocol.error_body import error_event
from mlc_server.protocol.responses import DONE_EVENT, CalledTool, ChunkWriter, Logprob, Usage
from mlc_server.text.tools.events import CallStarted, Content, Event

# A comment, which SSE readers skip; it keeps proxies from cutting a silent connection.
_PING = b": ping\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStreamResponse(Response):
    """Streams an answer. A failure after the first byte is an error event, then [DONE]."""

    def __init__(
        self,
        answer: Answer,
        *,
        include_usage: bool,
        usage_always: bool = False,
        ping_interval_s: int = 0,
    ) -> None:
        """`usage_always` puts usage into every chunk. `ping_interval_s`: seconds of silence before
        a comment is sent; 0 is never."""
        # Not super().__init__(): there is no body to render. FastAPI reads these two.
        self.background = None
        self.status_code = 200
        self._answer = answer
        self._include_usage = include_usage
        self._usage_always = usage_always
        self._ping_interval_s = ping_interval_s
        self._writer = ChunkWriter(answer.head, include_usage=include_usage)
        self._readers = [StreamReader(answer.tools) for _ in range(answer.num_choices)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        async with disconnect_watch(answer.generation, receive):
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            try:
                for index in range(answer.num_choices):
                    await _send_event(send, self._role(index))
                await self._send_deltas(send)
            except RequestError as error:
                answer.log.failed(error)
                await _send_event(send, error_event(error))
                await _send_event(send, DONE_EVENT, last=True)
                return
            if answer.generation.disconnected:
                answer.log.disconnected()
                return
            answer.log.finished()
            if self._include_usage:
                await _send_event(send, self._writer.usage(self._usage()))
            await _send_event(send, DONE_EVENT, last=True)

    def _usage(self) -> Usage:
        return Usage(self._answer.prompt_tokens, self._answer.log.completion_tokens)

    async def _send_deltas(self, send: Send) -> None:
        generation = self._answer.generation
        events = self._events if self._answer.prompt_ids is None else self._events_with_ids
        while not generation.finished and not generation.disconnected:
            deltas = await generation.next(self._ping_interval_s)
            if not deltas and not generation.disconnected:
                await _send_event(send, _PING)
            for delta in deltas:
                check_delta(delta)
                self._answer.log.progressed(delta)
                if self._usage_always:
                    self._writer.set_usage(self._usage())
                for event in events(delta):
                    await _send_event(send, event)

    def _role(self, index: int) -> bytes:
        """The first chunk of a choice; the first of all has the prompt's ids if they are wanted."""
        chunk, prompt_ids = self._writer.role(index), self._answer.prompt_ids
        if prompt_ids is None or index > 0:
            return chunk
        return self._writer.with_prompt_ids(chunk, prompt_ids)

    def _events_with_ids(self, delta: Delta) -> Iterator[bytes]:
        """The same with token ids, which go with the delta's first event."""
        token_ids = delta.token_ids
        for event in self._events(delta):
            yield self._writer.with_token_ids(event, token_ids)
            token_ids = []
        if token_ids:  # their text is held back
            yield self._writer.with_token_ids(self._writer.text(delta.choice, ""), token_ids)

    def _events(self, delta: Delta) -> Iterator[bytes]:
        """At most one event per piece of content or of a call, and one with the finish reason.

        A delta whose text is held back and which has no log-probabilities makes none.
        """
        choice, logprobs = delta.choice, self._answer.logprobs(delta)
        reader = self._readers[choice]
        found = reader.read(delta)
        if logprobs and not (found and isinstance(found[0], Content)):
            found.insert(0, Content(""))
        for event in found:
            yield self._event(choice, event, logprobs)
            logprobs = None if logprobs is None else []
        if delta.finish_reason is not None:
            reason = reader.finish_reason(delta.finish_reason)
            yield self._writer.finish(choice, reason, delta.stop_reason)

    def _event(self, choice: int, event: Event, logprobs: list[Logprob] | None) -> bytes:
        """`logprobs` of the delta's tokens go with its first piece, which is content then."""
        if isinstance(event, Content):
            return self._writer.text(choice, event.text, logprobs)
        tools = self._answer.tools
        assert tools is not None
        if isinstance(event, CallStarted):
            call = CalledTool(tools.new_id(), event.name, "")
            if tools.legacy:
                return self._writer.function_call(choice, call.function)
            return self._writer.tool_call(choice, event.index, call)
        if tools.legacy:
            return self._writer.function_call(choice, {"arguments": event.text})
        return self._writer.tool_arguments(choice, event.index, event.text)


async def _send_event(send: Send, event: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": event, "more_body": not last})
