"""POST /v1/completions: prompts continued as they are, without a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive

from mlc_server.api.answer import Answer
from mlc_server.api.body import read_request
from mlc_server.api.collected import gather
from mlc_server.api.completion_choices import Choice, answered_prompts
from mlc_server.api.completion_stream import CompletionStream, streams_plain_text
from mlc_server.api.examples import COMPLETION_REQUEST_BODY
from mlc_server.api.prompts import encode_prompts
from mlc_server.api.request_log import RequestLog
from mlc_server.api.response_schemas import GENERATING, streamed_responses
from mlc_server.api.sampling import check_scored, generation_request
from mlc_server.api.service import ServedModel, Service
from mlc_server.engine import EventFormat, GenerationRequest
from mlc_server.errors import InvalidRequest, RequestError
from mlc_server.limits import MAX_STOP_TOKEN_IDS
from mlc_server.protocol.completion_responses import (
    around_text,
    completion_head,
    completion_json,
)
from mlc_server.protocol.completions import CompletionRequest
from mlc_server.text.fill_in_middle import FillInMiddle
from mlc_server.text.prompt import StopRules

router = APIRouter()


@router.post(
    "/v1/completions",
    response_model=None,
    summary="Continue prompts, streamed or whole",
    responses=streamed_responses("Completion", "Completion", *GENERATING),
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
    prompts = answered_prompts(model, body, prompt_ids, answer)
    n = body.n or 1
    choices = [Choice(index, prompts[index // n]) for index in range(answer.num_choices)]
    if body.stream:
        ping_s = request.app.state.settings.stream_ping_interval_s
        return CompletionStream(answer, body, choices, ping_s)
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
    num_tokens = sum(map(len, prompt_ids))
    n = body.n or 1
    check_scored(body, num_tokens * n)  # each choice repeats them
    head = completion_head(model.shown_as(body.model), model.system_fingerprint)
    requests = []
    for index, ids in enumerate(prompt_ids):
        if not ids:
            raise InvalidRequest("prompt: makes no token", param="prompt")
        request = generation_request(
            body, ids, stop, window, prompt_field="prompt", begins_text=False
        )
        if body.suffix:
            request = _ending_with_the_middle(model, request)
        if streams_plain_text(body):
            request = replace(request, events=EventFormat(*around_text(head, index * n, n)))
        requests.append(await service.prepare(request))
    generation = service.open(*requests)
    num_choices = len(requests) * n
    log.submitted(num_tokens, num_choices)
    return Answer(
        head=head,
        generation=generation,
        num_choices=num_choices,
        prompt_tokens=num_tokens,
        token_bytes=model.token_bytes,
        hidden_ids=model.hidden_ids,
        log=log,
    )


async def _collect(answer: Answer, choices: Sequence[Choice], receive: Receive) -> Response:
    """The whole answer to all prompts."""
    left = await gather(answer, receive, lambda delta, lp: choices[delta.choice].add(delta, lp))
    if left is not None:
        return left
    choices_json = [choice.to_json() for choice in choices]
    body = completion_json(answer.head, choices_json, answer.usage())
    return Response(body, media_type="application/json")
