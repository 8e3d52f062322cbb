"""The whole answer in one response."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive

from mlc_server.api.answer import Answer, check_delta, disconnect_watch
from mlc_server.engine import Delta
from mlc_server.errors import RequestError
from mlc_server.protocol.responses import Choice, Logprob, Usage, completion

# nginx's "client closed request": nobody reads it, the log does.
CLIENT_CLOSED_REQUEST = 499


@dataclass
class _Draft:
    """A choice while its parts come in."""

    parts: list[str] = field(default_factory=list)
    logprobs: list[Logprob] | None = None
    last: Delta | None = None

    def add(self, delta: Delta, logprobs: list[Logprob] | None) -> None:
        self.parts.append(delta.text)
        if logprobs is not None:
            if self.logprobs is None:
                self.logprobs = []
            self.logprobs.extend(logprobs)
        self.last = delta

    def finish(self, index: int) -> Choice:
        assert self.last is not None
        assert self.last.finish_reason is not None
        return Choice(
            index=index,
            content="".join(self.parts),
            finish_reason=self.last.finish_reason,
            stop_reason=self.last.stop_reason,
            logprobs=self.logprobs,
        )


async def collect(answer: Answer, receive: Receive) -> Response:
    """Waits for every choice to end. The client's leaving cancels the request."""
    drafts = [_Draft() for _ in range(answer.num_choices)]
    generation = answer.generation
    async with disconnect_watch(generation, receive):
        try:
            while not generation.finished and not generation.disconnected:
                for delta in await generation.next():
                    check_delta(delta)
                    answer.log.progressed(delta)
                    drafts[delta.choice].add(delta, answer.logprobs(delta))
        except RequestError as error:
            answer.log.failed(error)
            raise
        if generation.disconnected:
            answer.log.disconnected()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
    answer.log.finished()
    choices = [draft.finish(index) for index, draft in enumerate(drafts)]
    usage = Usage(answer.prompt_tokens, answer.log.completion_tokens)
    return Response(completion(answer.head, choices, usage), media_type="application/json")
