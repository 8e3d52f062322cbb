"""The whole answer in one response."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive

from mlc_server.api.answer import Answer, check_delta, disconnect_watch
from mlc_server.api.prompt_scores import PromptScores
from mlc_server.api.tools import ChoiceReader, ToolUse
from mlc_server.engine import Delta
from mlc_server.errors import RequestError
from mlc_server.protocol.responses import CalledTool, Choice, Logprob, Usage, completion
from mlc_server.text.tools.events import CallStarted, Content

# nginx's "client closed request": nobody reads it, the log does.
_CLIENT_CLOSED_REQUEST = 499


class _Draft:
    """A choice while its parts come in."""

    def __init__(self, tools: ToolUse | None, *, shows_ids: bool = False) -> None:
        self._tools = tools
        self._token_ids: list[int] | None = [] if shows_ids else None
        self._reader = ChoiceReader(tools)
        self._content: list[str] = []
        self._calls: list[tuple[str, list[str]]] = []
        self._logprobs: list[Logprob] | None = None
        self._last: Delta | None = None

    def add(self, delta: Delta, logprobs: list[Logprob] | None) -> None:
        for event in self._reader.read(delta):
            if isinstance(event, Content):
                self._content.append(event.text)
            elif isinstance(event, CallStarted):
                self._calls.append((event.name, []))
            else:
                self._calls[event.index][1].append(event.text)
        if logprobs is not None:
            if self._logprobs is None:
                self._logprobs = []
            self._logprobs.extend(logprobs)
        if self._token_ids is not None:
            self._token_ids.extend(delta.token_ids)
        self._last = delta

    def finish(self, index: int) -> Choice:
        assert self._last is not None
        assert self._last.finish_reason is not None
        calls = [self._call(name, "".join(parts)) for name, parts in self._calls]
        legacy = self._tools is not None and self._tools.legacy
        return Choice(
            index=index,
            content="".join(self._content),
            finish_reason=self._reader.finish_reason(self._last.finish_reason),
            stop_reason=self._last.stop_reason,
            logprobs=self._logprobs,
            tool_calls=() if legacy else calls,
            function_call=calls[0] if legacy and calls else None,
            token_ids=self._token_ids,
        )

    def _call(self, name: str, arguments: str) -> CalledTool:
        assert self._tools is not None
        return CalledTool(self._tools.new_id(), name, self._tools.shown_arguments(arguments))


async def gather(
    answer: Answer,
    receive: Receive,
    add: Callable[[Delta, list[Logprob] | None], None],
) -> Response | None:
    """Hands every delta to `add` until all choices have ended; None then.

    The client's leaving cancels the request, and a response that nobody reads comes back.
    """
    generation = answer.generation
    async with disconnect_watch(generation, receive):
        try:
            while not generation.finished and not generation.disconnected:
                for delta in await generation.next():
                    check_delta(delta)
                    answer.log.progressed(delta)
                    add(delta, answer.logprobs(delta))
        except RequestError as error:
            answer.log.failed(error)
            raise
        if generation.disconnected:
            answer.log.disconnected()
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
    answer.log.finished()
    return None


async def collect(
    answer: Answer, receive: Receive, *, prompt_logprobs: int | None = None
) -> Response:
    """The chat answer of a whole request; `prompt_logprobs` as the request has it."""
    shows_ids = answer.prompt_ids is not None
    drafts = [_Draft(answer.tools, shows_ids=shows_ids) for _ in range(answer.num_choices)]
    scores = PromptScores(answer, answer.prompt_tokens, listed=prompt_logprobs)

    def add(delta: Delta, logprobs: list[Logprob] | None) -> None:
        scores.add(delta)
        drafts[delta.choice].add(delta, logprobs)

    left = await gather(answer, receive, add)
    if left is not None:
        return left
    choices = [draft.finish(index) for index, draft in enumerate(drafts)]
    usage = Usage(answer.prompt_tokens, answer.log.completion_tokens)
    body = completion(answer.head, choices, usage, answer.prompt_ids, scores.listed())
    return Response(body, media_type="application/json")
