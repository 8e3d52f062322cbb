"""A chat answer as server-sent events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mlc_server.api.answer import Answer
from mlc_server.api.event_stream import EventStream
from mlc_server.api.tools import StreamReader
from mlc_server.engine import Delta, EventFormat
from mlc_server.protocol.responses import CalledTool, ChunkWriter, Logprob, ResponseHead
from mlc_server.text.tools.events import CallStarted, Content, Event


def chat_events(head: ResponseHead, num_choices: int, *, include_usage: bool) -> EventFormat:
    """For the core to write the chunks of plain text, as ChatStream would."""
    return EventFormat(*ChunkWriter(head, include_usage=include_usage).around_text(num_choices))


class ChatStream(EventStream):
    """The chunks of a chat answer: per choice its role, its text or calls, its finish reason."""

    def __init__(
        self,
        answer: Answer,
        *,
        include_usage: bool,
        usage_always: bool = False,
        ping_interval_s: int = 0,
    ) -> None:
        """`usage_always` puts usage into every chunk."""
        super().__init__(answer, ping_interval_s=ping_interval_s)
        self._include_usage = include_usage
        self._usage_always = usage_always
        self._writer = ChunkWriter(answer.head, include_usage=include_usage)
        if usage_always:
            self._writer.set_usage(answer.usage())
        self._readers = [StreamReader(answer.tools) for _ in range(answer.num_choices)]

    def opening(self) -> Iterable[bytes]:
        """The first chunk of each choice; the first of all has the prompt's ids if wanted."""
        prompt_ids = self._answer.prompt_ids
        for index in range(self._answer.num_choices):
            chunk = self._writer.role(index)
            if prompt_ids is not None and index == 0:
                chunk = self._writer.with_prompt_ids(chunk, prompt_ids)
            yield chunk

    def events(self, delta: Delta) -> Iterable[bytes]:
        if self._usage_always:
            self._writer.set_usage(self._answer.usage())
        if self._answer.prompt_ids is not None:
            return self._events_with_ids(delta)
        return self._events(delta)

    def closing(self) -> Iterable[bytes]:
        if self._include_usage:
            yield self._writer.usage(self._answer.usage())

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
