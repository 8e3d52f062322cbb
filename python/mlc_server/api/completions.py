"""POST /v1/completions: prompts continued as they are, without a chat template."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlc_server.api.answer import Answer, check_delta, disconnect_watch
from mlc_server.api.body import read_request
from mlc_server.api.collected import gather
from mlc_server.api.examples import COMPLETION_REQUEST_BODY
from mlc_server.api.request_log import RequestLog
from mlc_server.api.sampling import generation_request
from mlc_server.api.service import ServedModel, Service
from mlc_server.engine import Delta, GenerationRequest
from mlc_server.errors import InvalidRequest, RequestError
from mlc_server.limits import ENCODE_INLINE_CHARACTERS, MAX_STOP_TOKEN_IDS
from mlc_server.protocol.completion_responses import (
    LogprobsWriter,
    choice_json,
    completion_head,
    completion_json,
    with_token_ids,
)
from mlc_server.protocol.completions import CompletionRequest, Prompt
from mlc_server.protocol.error_body import error_json
from mlc_server.protocol.responses import Logprob, Usage
from mlc_server.text.fill_in_middle import FillInMiddle
from mlc_server.text.prompt import StopRules

router = APIRouter()

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass
class _Choice:
    """A choice under way: what is echoed before it, and what has come."""

    index: int
    echo: str
    # The prompt's ids, if return_token_ids asks for ids.
    prompt_ids: Sequence[int] | None = None
    logprobs: LogprobsWriter = field(init=False)
    text: str = ""
    entries: list[Logprob] | None = None
    last: Delta | None = None
    token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.logprobs = LogprobsWriter(len(self.echo))

    def add(self, delta: Delta, entries: list[Logprob] | None) -> None:
        self.text += delta.text
        if entries is not None:
            self.entries = (self.entries or []) + entries
        self.token_ids += delta.token_ids
        self.last = delta

    def to_json(self) -> dict[str, Any]:
        assert self.last is not None
        logprobs = None if self.entries is None else self.logprobs.to_json(self.entries)
        text = self.echo + self.text
        choice = choice_json(
            self.index, text, logprobs, self.last.finish_reason, self.last.stop_reason
        )
        if self.prompt_ids is None:
            return choice
        return with_token_ids(choice, self.token_ids, self.prompt_ids)

    def news_json(self, delta: Delta, entries: list[Logprob] | None) -> dict[str, Any]:
        """What a stream says of a delta."""
        logprobs = self.logprobs.to_json(entries) if entries else None
        choice = choice_json(
            self.index, delta.text, logprobs, delta.finish_reason, delta.stop_reason
        )
        if self.prompt_ids is None:
            return choice
        first = self.last is None
        self.last = delta
        return with_token_ids(choice, delta.token_ids, self.prompt_ids if first else None)


@router.post(
    "/v1/completions",
    response_model=None,
    summary="Continue prompts, streamed or whole",
    openapi_extra=COMPLETION_REQUEST_BODY,
)
async def completions(request: Request) -> Response:
    """Continues each prompt `n` times; choices are numbered prompt by prompt.

    With `stream: true` the answers come as server-sent events.
    """
    service: Service = request.app.state.service
    log = RequestLog.begin(request)
    try:
        service.served()
        body = await read_request(request, CompletionRequest)
        model = service.model_for(body.model)
        fill = _fill_in_middle(model, body)
        special = body.add_special_tokens is not False
        prompt_ids = await encode_prompts(model, body.prompt, special, fill, body.suffix or "")
        answer = await _begin(service, model, body, prompt_ids, log)
    except RequestError as error:
        log.refused(error)
        raise
    echoes = [""] * len(prompt_ids)
    if body.echo:
        texts = zip(body.prompt, prompt_ids, strict=True)
        echoes = [p if isinstance(p, str) else model.prompts.tokenizer.decode(i) for p, i in texts]
    n = body.n or 1
    shown_ids = prompt_ids if body.return_token_ids else [None] * len(prompt_ids)
    choices = [
        _Choice(index, echoes[index // n], shown_ids[index // n])
        for index in range(answer.num_choices)
    ]
    if body.stream:
        ping_s = request.app.state.settings.stream_ping_interval_s
        return _CompletionStream(answer, body, choices, ping_s)
    return await _collect(answer, choices, request.receive)


def _fill_in_middle(model: ServedModel, body: CompletionRequest) -> FillInMiddle | None:
    """How to ask for what stands before the request's suffix, None without one; raises
    InvalidRequest if the model cannot fill in."""
    if not body.suffix:
        return None
    if model.prompts.fill is None:
        raise InvalidRequest(
            "suffix: this model has no tokens to mark a prefix and a suffix, so it cannot fill in "
            "what is between them",
            param="suffix",
            code="unsupported_parameter",
        )
    return model.prompts.fill


async def encode_prompts(
    model: ServedModel,
    prompts: Sequence[Prompt],
    add_special_tokens: bool,
    fill: FillInMiddle | None = None,
    suffix: str = "",
) -> list[list[int]]:
    """Token ids of each prompt; raises InvalidRequest for an id outside the vocabulary.

    With `fill`, they ask for what stands between the prompt and `suffix`.
    """
    tokenizer = model.prompts.tokenizer
    size = len(model.token_bytes)
    for prompt in prompts:
        if not isinstance(prompt, str) and max(prompt) >= size:
            raise InvalidRequest(
                f"prompt: token ids must be below {size}; got {max(prompt)}", param="prompt"
            )

    def encode() -> list[list[int]]:
        special = add_special_tokens and fill is None
        encoded = [
            tokenizer.encode(prompt, add_special_tokens=special)
            if isinstance(prompt, str)
            else list(prompt)
            for prompt in prompts
        ]
        if fill is None:
            return encoded
        first_ids = tokenizer.first_ids if add_special_tokens else []
        suffix_ids = tokenizer.encode_inside(suffix)
        return [fill.prompt(first_ids, ids, suffix_ids) for ids in encoded]

    characters = sum(len(text) for text in (*prompts, suffix) if isinstance(text, str))
    if characters <= ENCODE_INLINE_CHARACTERS.default:
        return encode()
    return await asyncio.get_running_loop().run_in_executor(None, encode)


def _ending_with_the_middle(model: ServedModel, request: GenerationRequest) -> GenerationRequest:
    """The request with the tokens that end a middle among its stop ids."""
    sampling, fill = request.sampling, model.prompts.fill
    if fill is None or sampling.ignore_eos:
        return request
    known = {*sampling.stop_token_ids, *model.prompts.stop.token_ids}
    ends = [id_ for id_ in fill.end_ids if id_ not in known and id_ < len(model.token_bytes)]
    ids = (*sampling.stop_token_ids, *ends)[: MAX_STOP_TOKEN_IDS.default]
    return replace(request, sampling=replace(sampling, stop_token_ids=ids))


async def _begin(
    service: Service,
    model: ServedModel,
    body: CompletionRequest,
    prompt_ids: Sequence[list[int]],
    log: RequestLog,
) -> Answer:
    """Submits the prompts to the engine. The template's stop strings are not theirs."""
    stop = StopRules(token_ids=model.prompts.stop.token_ids, strings=())
    window = model.context_window_size
    requests = []
    for ids in prompt_ids:
        if not ids:
            raise InvalidRequest("prompt: makes no token", param="prompt")
        request = generation_request(body, ids, stop, window, prompt_field="prompt")
        if body.suffix:
            request = _ending_with_the_middle(model, request)
        requests.append(await service.prepare(request))
    generation = service.open(*requests)
    num_tokens = sum(map(len, prompt_ids))
    num_choices = len(requests) * (body.n or 1)
    log.submitted(num_tokens, num_choices)
    return Answer(
        head=completion_head(model.shown_as(body.model), model.system_fingerprint),
        generation=generation,
        num_choices=num_choices,
        prompt_tokens=num_tokens,
        token_bytes=model.token_bytes,
        log=log,
    )


async def _collect(answer: Answer, choices: Sequence[_Choice], receive: Receive) -> Response:
    """The whole answer to all prompts."""
    left = await gather(answer, receive, lambda delta, lp: choices[delta.choice].add(delta, lp))
    if left is not None:
        return left
    body = completion_json(answer.head, [choice.to_json() for choice in choices], _usage(answer))
    return Response(body, media_type="application/json")


class _CompletionStream(Response):
    """Streams an answer. A failure after the first byte is an error event, then [DONE]."""

    def __init__(
        self,
        answer: Answer,
        body: CompletionRequest,
        choices: Sequence[_Choice],
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
                    await _send(send, completion_json(answer.head, [], _usage(answer)))
            await _send(send, b"[DONE]", last=True)

    async def _send_choices(self, send: Send) -> None:
        generation = self._answer.generation
        for choice in self._choices:
            if choice.echo:
                await self._send_choice(send, choice_json(choice.index, choice.echo))
        while not generation.finished and not generation.disconnected:
            deltas = await generation.next(self._ping_interval_s)
            if not deltas and not generation.disconnected:
                ping = {"type": "http.response.body", "body": b": ping\n\n", "more_body": True}
                await send(ping)
            for delta in deltas:
                check_delta(delta)
                self._answer.log.progressed(delta)
                entries = self._answer.logprobs(delta)
                choice = self._choices[delta.choice]
                shows = delta.text or entries or choice.prompt_ids is not None
                if shows or delta.finish_reason is not None:
                    await self._send_choice(send, choice.news_json(delta, entries))

    async def _send_choice(self, send: Send, choice: dict[str, Any]) -> None:
        usage = _usage(self._answer) if self._usage_always else None
        await _send(send, completion_json(self._answer.head, [choice], usage))


def _usage(answer: Answer) -> Usage:
    return Usage(answer.prompt_tokens, answer.log.completion_tokens)


async def _send(send: Send, data: bytes, *, last: bool = False) -> None:
    event = b"data: " + data + b"\n\n"
    await send({"type": "http.response.body", "body": event, "more_body": not last})
