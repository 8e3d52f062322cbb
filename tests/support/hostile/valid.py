"""Valid requests with seeds, and what of their answers has to be the same every time."""

from __future__ import annotations

import json
from typing import Any

from support.hostile.wire import CHAT, COMPLETIONS

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome", "Lima"]}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_FILM = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 20},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
    },
    "required": ["title", "year"],
    "additionalProperties": False,
}
_FILM_FORMAT = {"type": "json_schema", "json_schema": {"name": "film", "schema": _FILM}}
_TOPICS = ("apples", "the sea", "a small town", "the moon", "an old clock", "bread", "rain")
# Each with what a kind of client asks for. The prompts get a topic.
_KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"stream": True},
    {"temperature": 0, "logprobs": True, "top_logprobs": 3},
    {"stream": True, "logprobs": True, "stream_options": {"include_usage": True}},
    {"n": 2, "temperature": 1.3, "top_p": 0.9},
    {"stop": [".", "\n"], "frequency_penalty": 0.5, "presence_penalty": 0.5},
    {
        "tools": [_WEATHER],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 60,
    },
    {"tools": [_WEATHER], "stream": True, "tool_choice": "required", "max_tokens": 60},
    {"tools": [_WEATHER]},
    {"response_format": _FILM_FORMAT, "max_tokens": 60},
    {"response_format": _FILM_FORMAT, "stream": True, "max_tokens": 60},
    {"structured_outputs": {"choice": ["yes", "no", "maybe"]}},
)
_COMPLETION_KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"stream": True, "logprobs": 2},
    {"n": 2, "echo": True},
    {"structured_outputs": {"regex": "[a-z]{3,12}( [a-z]{3,12}){2}"}, "max_tokens": 30},
)


def valid_requests(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Routes and bodies: chats and completions, whole and streamed, with tools and formats."""
    requests = []
    for number in range(count):
        topic = _TOPICS[number % len(_TOPICS)]
        fields = {"seed": number, "max_tokens": 20}
        kind = number % (len(_KINDS) + len(_COMPLETION_KINDS))
        if kind < len(_KINDS):
            messages = [{"role": "user", "content": f"Tell me about {topic}."}]
            requests.append((CHAT, {"messages": messages, **fields, **_KINDS[kind]}))
        else:
            more = _COMPLETION_KINDS[kind - len(_KINDS)]
            prompt = f"This is a story about {topic}."
            requests.append((COMPLETIONS, {"prompt": prompt, **fields, **more}))
    return requests


def essence(body: bytes) -> Any:
    """An answer without its ids and times. A stream's pieces are put together, since how it is cut
    depends on how fast it is read."""
    if not body.startswith(b"data: "):
        answer = json.loads(body)
        choices = [_without_ids(choice) for choice in answer["choices"]]
        return {"choices": choices, "usage": answer["usage"]}
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""], body[-200:]
    choices: dict[int, list[Any]] = {}
    usage = None
    for event in events[:-2]:
        chunk = json.loads(event.removeprefix("data: "))
        assert "error" not in chunk, chunk
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            _add_piece(choices.setdefault(choice["index"], ["", [], [], None]), choice)
    return {"choices": [choices[index] for index in sorted(choices)], "usage": usage}


def _without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    message = dict(choice.get("message", {}))
    calls = [call["function"] for call in message.pop("tool_calls", None) or ()]
    return choice | {"message": message, "calls": calls}


def _add_piece(gathered: list[Any], choice: dict[str, Any]) -> None:
    """`gathered`: text, calls, log-probabilities, finish reason."""
    delta = choice.get("delta", {})
    gathered[0] += delta.get("content") or choice.get("text") or ""
    for call in delta.get("tool_calls") or ():
        if call["index"] == len(gathered[1]):
            gathered[1].append([call["function"]["name"], ""])
        gathered[1][call["index"]][1] += call["function"]["arguments"]
    logprobs = choice.get("logprobs") or {}
    gathered[2] += logprobs.get("content") or logprobs.get("token_logprobs") or []
    gathered[3] = choice["finish_reason"] or gathered[3]
