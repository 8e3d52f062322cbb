"""What /openapi.json and /docs say about request bodies."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mlc_server.protocol.chat import ChatCompletionRequest
from mlc_server.protocol.completions import CompletionRequest
from mlc_server.protocol.token_requests import (
    DetokenizeRequest,
    EmbeddingRequest,
    TemplateRequest,
    TokenizeRequest,
)

REQUEST_MODELS: tuple[type[BaseModel], ...] = (
    ChatCompletionRequest,
    CompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
    TemplateRequest,
    EmbeddingRequest,
)
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
    "tools": {
        "summary": "A call of a function, its arguments held to their schema",
        "value": {
            "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "get_weather",
                        "description": "The current weather in a city",
                        "parameters": {
                            "type": "object",
                            "properties": {"city": {"type": "string"}},
                            "required": ["city"],
                        },
                    },
                }
            ],
            "tool_choice": "required",
        },
    },
    "structured": {
        "summary": "JSON that fits a schema",
        "value": {
            "messages": [{"role": "user", "content": "Describe the film Casablanca."}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "film",
                    "schema": {
                        "type": "object",
                        "properties": {
                            "title": {"type": "string", "maxLength": 60},
                            "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
                        },
                        "required": ["title", "year"],
                        "additionalProperties": False,
                    },
                },
            },
        },
    },
}

COMPLETION_EXAMPLES: dict[str, Any] = {
    "whole": {
        "summary": "More of a text",
        "value": {"prompt": "Once upon a time", "max_tokens": 32},
    },
    "scored": {
        "summary": "Log-probabilities of a text, nothing generated",
        "value": {"prompt": "The sky is blue.", "echo": True, "logprobs": 1, "max_tokens": 0},
    },
    "several": {
        "summary": "Several prompts, streamed",
        "value": {"prompt": ["One, two,", "Red, green,"], "max_tokens": 8, "stream": True},
    },
}
TOKENIZE_EXAMPLES: dict[str, Any] = {
    "text": {"summary": "A text", "value": {"prompt": "Hello, world"}},
    "chat": {
        "summary": "A chat",
        "value": {"messages": [{"role": "user", "content": "Hello"}], "return_token_strs": True},
    },
}
DETOKENIZE_EXAMPLES: dict[str, Any] = {
    "ids": {"summary": "Some ids", "value": {"tokens": [72, 105]}},
}
TEMPLATE_EXAMPLES: dict[str, Any] = {
    "chat": {
        "summary": "A chat",
        "value": {"messages": [{"role": "user", "content": "Hello"}]},
    },
}
EMBEDDING_EXAMPLES: dict[str, Any] = {
    "text": {"summary": "A text", "value": {"input": "Hello, world"}},
}


def _request_body(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of the body of a route that parses it itself."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": COMPONENT_REF.format(model=model.__name__)},
                    "examples": examples,
                }
            },
        }
    }


CHAT_REQUEST_BODY = _request_body(ChatCompletionRequest, CHAT_EXAMPLES)
COMPLETION_REQUEST_BODY = _request_body(CompletionRequest, COMPLETION_EXAMPLES)
TOKENIZE_REQUEST_BODY = _request_body(TokenizeRequest, TOKENIZE_EXAMPLES)
DETOKENIZE_REQUEST_BODY = _request_body(DetokenizeRequest, DETOKENIZE_EXAMPLES)
TEMPLATE_REQUEST_BODY = _request_body(TemplateRequest, TEMPLATE_EXAMPLES)
EMBEDDING_REQUEST_BODY = _request_body(EmbeddingRequest, EMBEDDING_EXAMPLES)


def component_schemas() -> dict[str, Any]:
    """Schemas of request bodies, which routes parse themselves and FastAPI so does not see."""
    components: dict[str, Any] = {}
    for model in REQUEST_MODELS:
        schema = model.model_json_schema(ref_template=COMPONENT_REF)
        components.update(schema.pop("$defs", {}))
        components[model.__name__] = schema
    return components
