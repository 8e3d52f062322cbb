"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from mlc_server.api.answer import Answer
from mlc_server.api.body import read_request
from mlc_server.api.collected import collect
from mlc_server.api.examples import CHAT_REQUEST_BODY
from mlc_server.api.prompts import chat_prompt
from mlc_server.api.request_log import RequestLog
from mlc_server.api.response_schemas import GENERATING, streamed_responses
from mlc_server.api.sampling import check_scored, generation_request
from mlc_server.api.service import ServedModel, Service
from mlc_server.api.streamed import ChatStream, chat_events
from mlc_server.api.template_input import tell_unread
from mlc_server.api.tools import ToolUse, prepare, tool_use
from mlc_server.errors import RequestError
from mlc_server.limits import TOOLS_INLINE
from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.responses import ResponseHead
from mlc_server.text.workers import apart

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    response_model=None,
    summary="Answer a conversation, streamed or whole",
    responses=streamed_responses("ChatCompletion", "ChatCompletionChunk", *GENERATING),
    openapi_extra=CHAT_REQUEST_BODY,
)
async def chat_completions(request: Request) -> Response:
    """Renders the messages with the model's chat template and generates `n` answers.

    With `stream: true` the answer comes as server-sent events, one HTTP chunk each.
    """
    service: Service = request.app.state.service
    log = RequestLog.begin(request)
    try:
        model, body = await _read_chat_request(request, service)
        tell_unread(request, model, body)
        answer = await _begin(service, model, body, log)
    except RequestError as error:
        log.refused(error)
        raise
    if body.stream:
        return ChatStream(
            answer,
            include_usage=_includes_usage(body),
            usage_always=_includes_usage(body, always=True),
            ping_interval_s=request.app.state.settings.stream_ping_interval_s,
        )
    return await collect(answer, request.receive, prompt_logprobs=body.prompt_logprobs)


async def _read_chat_request(
    request: Request, service: Service
) -> tuple[ServedModel, ChatCompletionRequest]:
    service.served()  # a server without a model need not look at the body
    body = await read_request(request, ChatCompletionRequest)
    return service.model_for(body.model), body


async def _tool_use(model: ServedModel, body: ChatCompletionRequest) -> ToolUse | None:
    arguments = (body, model.prompts.tools.format, model.tool_call_style)
    if len(body.callable) <= TOOLS_INLINE.default:
        return tool_use(*arguments)
    return await apart(tool_use, *arguments)


async def _begin(
    service: Service, model: ServedModel, body: ChatCompletionRequest, log: RequestLog
) -> Answer:
    """Submits the request to the engine."""
    tools = await _tool_use(model, body)
    prompt_ids = await chat_prompt(model, body, body.messages)
    request = generation_request(
        body,
        prompt_ids,
        model.prompts.stop,
        model.context_window_size,
        begins_text=not body.continue_final_message,
    )
    request, tools = await prepare(service, request, tools)
    check_scored(body, len(prompt_ids))
    head = ResponseHead.new(model.shown_as(body.model), model.system_fingerprint)
    usage = _includes_usage(body, always=True)
    if body.stream and tools is None and not usage and not body.return_token_ids:
        events = chat_events(head, request.num_choices, include_usage=_includes_usage(body))
        request = replace(request, events=events)
    generation = service.open(request)
    log.submitted(len(prompt_ids), request.num_choices)
    return Answer(
        head=head,
        generation=generation,
        num_choices=request.num_choices,
        prompt_tokens=len(prompt_ids),
        token_bytes=model.token_bytes,
        hidden_ids=model.hidden_ids,
        log=log,
        tools=tools,
        prompt_ids=prompt_ids if body.return_token_ids else None,
    )


def _includes_usage(body: ChatCompletionRequest, *, always: bool = False) -> bool:
    """In a chunk at the end, or `always`: in every chunk."""
    options = body.stream_options
    if options is None:
        return False
    return bool(options.continuous_usage_stats if always else options.include_usage)
