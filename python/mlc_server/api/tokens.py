"""POST /tokenize, /detokenize and /apply-template: what the model sees of a text or a chat."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from mlc_server.api.body import read_request
from mlc_server.api.examples import (
    DETOKENIZE_REQUEST_BODY,
    TEMPLATE_REQUEST_BODY,
    TOKENIZE_REQUEST_BODY,
)
from mlc_server.api.prompts import chat_prompt, tokenized_most, tokens_of
from mlc_server.api.response_schemas import READING, responses
from mlc_server.api.service import ServedModel, Service
from mlc_server.api.template_input import (
    tell_unread,
    template_messages,
    template_options,
    template_tools,
)
from mlc_server.errors import InvalidRequest
from mlc_server.protocol.token_requests import DetokenizeRequest, TemplateRequest, TokenizeRequest
from mlc_server.text.workers import apart

router = APIRouter()


def _model(request: Request, name: str | None) -> ServedModel:
    service: Service = request.app.state.service
    return service.model_for(name)


@router.post(
    "/tokenize",
    response_model=None,
    summary="Token ids of a text or a chat",
    responses=responses("Tokens", *READING),
    openapi_extra=TOKENIZE_REQUEST_BODY,
)
async def tokenize(request: Request) -> dict[str, Any]:
    """The ids that a completion of `prompt`, or a chat of `messages`, would begin with."""
    request.app.state.service.served()
    body = await read_request(request, TokenizeRequest)
    model = _model(request, body.model)
    if body.messages is not None:
        tell_unread(request, model, body)
        tokens = await chat_prompt(model, body, body.messages, tokenized_most(model))
    else:
        special = body.add_special_tokens is not False
        tokens = await tokens_of(model, body.text or "", add_special_tokens=special)
    answer = {
        "count": len(tokens),
        "max_model_len": model.context_window_size,
        "tokens": tokens,
        "token_strs": None,
    }
    if body.return_token_strs:
        answer["token_strs"] = [model.prompts.tokenizer.written(token) for token in tokens]
    return answer


@router.post(
    "/detokenize",
    response_model=None,
    summary="The text of token ids",
    responses=responses("Text", *READING),
    openapi_extra=DETOKENIZE_REQUEST_BODY,
)
async def detokenize(request: Request) -> dict[str, Any]:
    """`prompt` as vLLM calls it, `content` as llama.cpp does. Special tokens are written out."""
    request.app.state.service.served()
    body = await read_request(request, DetokenizeRequest)
    model = _model(request, body.model)
    size = len(model.token_bytes)
    largest = max(body.tokens, default=0)
    if largest >= size:
        raise InvalidRequest(f"tokens: must be below {size}; got {largest}", param="tokens")
    decode = model.prompts.tokenizer.decode
    text = await apart(decode, body.tokens)
    return {"prompt": text, "content": text}


@router.post(
    "/apply-template",
    response_model=None,
    summary="A chat as the model's template writes it",
    responses=responses("Prompt", *READING),
    openapi_extra=TEMPLATE_REQUEST_BODY,
)
async def apply_template(request: Request) -> dict[str, Any]:
    """The prompt's text as a chat with the same messages, tools and template options has it."""
    request.app.state.service.served()
    body = await read_request(request, TemplateRequest)
    model = _model(request, body.model)
    tell_unread(request, model, body)
    messages, tools = template_messages(body.messages), template_tools(body)
    prompt = await apart(model.prompts.render, messages, tools, template_options(body))
    return {"prompt": prompt}
