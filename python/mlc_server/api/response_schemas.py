"""What /openapi.json says of answers. Objects are closed: no other key is ever sent."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
# As FastAPI's `responses` takes them.
Responses = dict[int | str, dict[str, Any]]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}


def ref(name: str) -> Schema:
    """A schema of RESPONSE_SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(optional: Schema | None = None, /, **properties: Any) -> Schema:
    """A closed object with `properties`, and perhaps some of those in `optional`."""
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_IDS = _list(COUNT)
_TOKEN: Schema = {"token": STRING, "logprob": NUMBER, "bytes": _list(COUNT)}
_STOP_REASON = {"anyOf": [STRING, INTEGER, {"type": "null"}]}
_FINISH_REASON = _enum("stop", "length", "tool_calls")
_HEAD: Schema = {"id": STRING, "created": COUNT, "model": STRING, "system_fingerprint": STRING}

_ERROR = _object(
    error=_object(
        message={"type": "string", "minLength": 1, "maxLength": 512},
        type=_enum(
            "invalid_request_error",
            "authentication_error",
            "permission_error",
            "not_found_error",
            "server_error",
        ),
        param=_or_null(STRING),
        code=_or_null(STRING),
    )
)
_USAGE = _object(
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=_object(cached_tokens=COUNT),
    completion_tokens_details=_object(reasoning_tokens=COUNT),
)
_LOGPROBS = _object(
    content=_list(_object(**_TOKEN, top_logprobs=_list(_object(**_TOKEN)))),
    refusal={"type": "null"},
)
# Of each token of the prompt, by token id; the first token has none.
_PROMPT_LOGPROB = _object(logprob=NUMBER, rank=COUNT, decoded_token=STRING)
_PROMPT_LOGPROBS = _list(_or_null({"type": "object", "additionalProperties": _PROMPT_LOGPROB}))
# With --tool-call-style mlc arguments are an object.
_ARGUMENTS = {"anyOf": [STRING, {"type": "object"}]}
_CALLED = _object(
    id=STRING, type=_enum("function"), function=_object(name=STRING, arguments=_ARGUMENTS)
)
_CHAT_CHOICE = _object(
    {"token_ids": _IDS},
    index=COUNT,
    message=_object(
        {"tool_calls": _list(_CALLED)},
        role=_enum("assistant"),
        content=_or_null(STRING),
        refusal={"type": "null"},
    ),
    logprobs=_or_null(_LOGPROBS),
    finish_reason=_FINISH_REASON,
    stop_reason=_STOP_REASON,
)
_CHUNK_CALL = _object(
    {"id": STRING, "type": _enum("function")},
    index=COUNT,
    function=_object({"name": STRING}, arguments=STRING),
)
_CHUNK_CHOICE = _object(
    {"stop_reason": _STOP_REASON, "token_ids": _IDS},
    index=COUNT,
    delta=_object(
        {"role": _enum("assistant"), "content": STRING, "tool_calls": _list(_CHUNK_CALL)}
    ),
    logprobs=_or_null(_LOGPROBS),
    finish_reason=_or_null(_FINISH_REASON),
)
_TEXT_CHOICE = _object(
    {
        "token_ids": _IDS,
        "prompt_token_ids": _or_null(_IDS),
        "prompt_logprobs": _PROMPT_LOGPROBS,
    },
    index=COUNT,
    text=STRING,
    logprobs=_or_null(
        _object(
            tokens=_list(STRING),
            token_logprobs=_list(_or_null(NUMBER)),
            top_logprobs=_list(_or_null({"type": "object", "additionalProperties": NUMBER})),
            text_offset=_list(COUNT),
        )
    ),
    finish_reason=_or_null(_enum("stop", "length")),
    stop_reason=_STOP_REASON,
)
_MODEL = _object(
    id=STRING,
    object=_enum("model"),
    created=COUNT,
    owned_by=STRING,
    root=STRING,
    parent={"type": "null"},
    max_model_len=COUNT,
)
_TRACE = _object(
    traceEvents=_list(
        _object(
            {"cat": STRING, "ts": INTEGER, "s": STRING, "args": {"type": "object"}},
            name=STRING,
            ph=_enum("B", "E", "i", "M"),
            pid=INTEGER,
            tid=INTEGER,
        )
    ),
    displayTimeUnit=_enum("ms"),
)

RESPONSE_SCHEMAS: dict[str, Schema] = {
    "Error": _ERROR,
    "Usage": _USAGE,
    "ChatCompletion": _object(
        {"prompt_token_ids": _IDS, "prompt_logprobs": _PROMPT_LOGPROBS},
        object=_enum("chat.completion"),
        choices=_list(_CHAT_CHOICE),
        usage=ref("Usage"),
        **_HEAD,
    ),
    "ChatCompletionChunk": _object(
        {"prompt_token_ids": _IDS, "usage": _or_null(ref("Usage"))},
        object=_enum("chat.completion.chunk"),
        choices=_list(_CHUNK_CHOICE),
        **_HEAD,
    ),
    # Streams have the same, and usage only if stream_options asks for it.
    "Completion": _object(
        {"usage": ref("Usage")},
        object=_enum("text_completion"),
        choices=_list(_TEXT_CHOICE),
        **_HEAD,
    ),
    "Model": _MODEL,
    "ModelList": _object(object=_enum("list"), data=_list(ref("Model"))),
    "Tokens": _object(
        count=COUNT,
        max_model_len=COUNT,
        tokens=_IDS,
        token_strs=_or_null(_list(STRING)),
    ),
    "Text": _object(prompt=STRING, content=STRING),
    "Prompt": _object(prompt=STRING),
    "Status": _object(status=_enum("ok", "ready")),
    "Version": _object(version=STRING),
    "Trace": _TRACE,
}

# Statuses of routes that generate, and of those that only read a body.
GENERATING = (400, 401, 404, 413, 500, 503)
READING = (400, 401, 404, 413, 503)

_MEANINGS = {
    400: "A field is missing, out of range or not supported",
    401: "No key of --api-key came with the request",
    403: "The Host header names a host this server does not stand for",
    404: "The model is not served here",
    413: "The body is larger than --max-body-size",
    500: "The engine gave this request up",
    503: "Loading, draining, dead or full; Retry-After says when to ask again",
}


def errors(*statuses: int) -> Responses:
    """The refusals of a route; 403 is one of every route, 401 of all but the open ones."""
    return {
        str(status): {
            "description": _MEANINGS[status],
            "content": {"application/json": {"schema": ref("Error")}},
            **({"headers": _RETRY_AFTER} if status == 503 else {}),
        }
        for status in sorted({403, *statuses})
    }


_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": COUNT}}


def text_responses(description: str, *statuses: int) -> Responses:
    """All of a route that answers plain text."""
    return {"200": {"description": description}, **errors(*statuses)}


def answer(name: str, description: str = "The answer") -> dict[str, Any]:
    """A 200 with JSON of RESPONSE_SCHEMAS."""
    return {"description": description, "content": {"application/json": {"schema": ref(name)}}}


def streamed_responses(name: str, chunk: str, *statuses: int) -> Responses:
    """Those of a route that answers JSON or, with stream: true, events whose data are `chunk`."""
    whole = answer(name, "The answer, or with stream: true its events, the last of them [DONE]")
    event = {
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [ref(chunk), ref("Error")]},
    }
    # OpenAPI's way since 3.2 to describe each event; older readers pass over it.
    whole["content"]["text/event-stream"] = {
        "itemSchema": {
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"anyOf": [{"const": "[DONE]"}, {"type": "string", **event}]}},
        }
    }
    return {"200": whole, **errors(*statuses)}


def responses(name: str, *statuses: int) -> Responses:
    """All of a route that answers JSON."""
    return {"200": answer(name), **errors(*statuses)}
