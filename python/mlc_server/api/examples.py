"""What /openapi.json and /docs say about request bodies."""

from __future__ import annotations

from typing import Any

from mlc_server.protocol.chat import ChatCompletionRequest

COMPONENT_REF = "#/components/schemas/{model}"

CHAT_EXAMPLES: dict[str, Any] = {
    "whole": {
        "summary": "The whole answer at once",
        "value": {
            "messages": [{"role": "user", "content": "Write a haiku about apples."}],
            "max_tokens": 300,
        },
    },
    "streamed": {
        "summary": "Streamed, with usage at the end",
        "value": {
            "messages": [{"role": "user", "content": "Write a haiku"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "repeatable": {
        "summary": "The same answer every time",
        "value": {
            "messages": [
                {"role": "system", "content": "You answer in one sentence."},
                {"role": "user", "content": "What is the capital of France?"},
            ],
            "seed": 7,
            "temperature": 0.7,
            "logprobs": True,
            "top_logprobs": 3,
        },
    },
}

CHAT_REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": COMPONENT_REF.format(model="ChatCompletionRequest")},
                "examples": CHAT_EXAMPLES,
            }
        },
    },
    "responses": {
        "200": {
            "description": "The answer, or with stream: true its events",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        "400": {"description": "A field is missing, out of range or not supported"},
        "404": {"description": "The model is not served here"},
        "413": {"description": "The body is larger than --max-body-size"},
        "503": {"description": "Loading, draining, dead or full; Retry-After says when to retry"},
    },
}


def component_schemas() -> dict[str, Any]:
    """Schemas of request bodies, which routes parse themselves and FastAPI so does not see."""
    schema = ChatCompletionRequest.model_json_schema(ref_template=COMPONENT_REF)
    components: dict[str, Any] = schema.pop("$defs", {})
    components["ChatCompletionRequest"] = schema
    return components
