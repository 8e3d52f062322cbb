"""Chat completion responses, as bytes. A streamed chunk is its constant parts around the text: no
object is built and no model validated per token."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

DONE_EVENT = b"data: [DONE]\n\n"
_AFTER_TEXT = b'},"logprobs":null,"finish_reason":null}'

# For each token of a prompt, what the model thought of it and of its rivals by token id; None for
# the first.
PromptLogprobs = list[dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log-probability of one token; `raw` are its bytes, which need not be whole characters."""

    raw: bytes
    logprob: float
    alternatives: Sequence[tuple[bytes, float]] = ()
    # The text does not show it.
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request: the prompt once, the output of all its choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


@dataclass(frozen=True, slots=True)
class CalledTool:
    """A tool call. `arguments` is JSON text, or in MLC-LLM's style the object itself."""

    id: str
    name: str
    arguments: Any

    @property
    def function(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": self.function}


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer. `stop_reason` is the stop string or token id that ended it, if any."""

    index: int
    content: str
    finish_reason: str
    stop_reason: int | str | None = None
    logprobs: Sequence[Logprob] | None = None
    tool_calls: Sequence[CalledTool] = ()
    # The one call of a request with `functions`, in place of tool_calls.
    function_call: CalledTool | None = None
    # If return_token_ids asks for them.
    token_ids: Sequence[int] | None = None

    def to_json(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None}
        if self.tool_calls:
            message["content"] = self.content or None
            message["tool_calls"] = [call.to_json() for call in self.tool_calls]
        if self.function_call is not None:
            message["content"] = self.content or None
            message["function_call"] = self.function_call.function
        choice = {
            "index": self.index,
            "message": message,
            "logprobs": None if self.logprobs is None else logprobs_json(self.logprobs),
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
        }
        return choice if self.token_ids is None else choice | {"token_ids": self.token_ids}


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What every chunk of one response repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, model: str, system_fingerprint: str) -> ResponseHead:
        return cls(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=model,
            system_fingerprint=system_fingerprint,
        )


def completion(
    head: ResponseHead,
    choices: Sequence[Choice],
    usage: Usage,
    prompt_ids: Sequence[int] | None = None,
    prompt_logprobs: PromptLogprobs | None = None,
) -> bytes:
    """A whole ChatCompletionResponse; `prompt_ids` if return_token_ids asks for them."""
    body = {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [choice.to_json() for choice in choices],
        "usage": usage.to_json(),
        "system_fingerprint": head.system_fingerprint,
    }
    if prompt_ids is not None:
        body["prompt_token_ids"] = prompt_ids
    if prompt_logprobs is not None:
        body["prompt_logprobs"] = prompt_logprobs
    return orjson.dumps(body)


class ChunkWriter:
    """Server-sent events of one streamed response, one call per event.

    `include_usage` adds `usage: null` to every chunk, as the usage chunk at the end requires.
    """

    def __init__(self, head: ResponseHead, *, include_usage: bool) -> None:
        fixed = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
        }
        # '{"id": ... }' without its closing brace, up to the list of choices.
        self._start = b"data: " + orjson.dumps(fixed)[:-1] + b',"choices":['
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def role(self, index: int) -> bytes:
        """The first chunk of a choice."""
        delta = b',"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return b'%b{"index":%d%b%b' % (self._start, index, delta, self._end)

    def text(self, index: int, text: str, logprobs: Sequence[Logprob] | None = None) -> bytes:
        """More text of a choice."""
        if logprobs is None:
            tail = _AFTER_TEXT
        else:
            encoded = orjson.dumps(logprobs_json(logprobs))
            tail = b'},"logprobs":%b,"finish_reason":null}' % encoded
        return b"%b%b%b%b" % (self._before_text(index), orjson.dumps(text), tail, self._end)

    def around_text(self, num_choices: int) -> tuple[list[bytes], bytes]:
        """What text() puts before the JSON string of each choice, and after it."""
        before = [self._before_text(index) for index in range(num_choices)]
        return before, _AFTER_TEXT + self._end

    def _before_text(self, index: int) -> bytes:
        return b'%b{"index":%d,"delta":{"content":' % (self._start, index)

    def tool_call(self, index: int, call_index: int, call: CalledTool) -> bytes:
        """The beginning of a call: its id, type and name, once; `arguments` begins them."""
        return self._tool_call(index, {"index": call_index, **call.to_json()})

    def tool_arguments(self, index: int, call_index: int, arguments: str) -> bytes:
        """More of a call's arguments."""
        return self._tool_call(index, {"index": call_index, "function": {"arguments": arguments}})

    def function_call(self, index: int, function: dict[str, Any]) -> bytes:
        """A call of a request with `functions`: its name, or more of its arguments."""
        return self._delta(index, {"function_call": function})

    def _tool_call(self, index: int, call: dict[str, Any]) -> bytes:
        return self._delta(index, {"tool_calls": [call]})

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":null,"finish_reason":null}%b' % (
            self._start,
            index,
            orjson.dumps(delta),
            self._end,
        )

    def finish(self, index: int, reason: str, stop_reason: int | str | None) -> bytes:
        """The last chunk of a choice: an empty delta and why it ended."""
        return (
            b'%b{"index":%d,"delta":{},"logprobs":null,"finish_reason":%b,"stop_reason":%b}%b'
            % (
                self._start,
                index,
                orjson.dumps(reason),
                orjson.dumps(stop_reason),
                self._end,
            )
        )

    def with_token_ids(self, chunk: bytes, token_ids: Sequence[int]) -> bytes:
        """A chunk with the ids of the tokens it brings, in its choice."""
        choice = chunk[: -len(self._end) - 1]
        return b'%b,"token_ids":%b}%b' % (choice, orjson.dumps(token_ids), self._end)

    def with_prompt_ids(self, chunk: bytes, prompt_ids: Sequence[int]) -> bytes:
        """The first chunk of the response, with the prompt's ids."""
        rest = chunk.removeprefix(b"data: {")
        return b'data: {"prompt_token_ids":%b,%b' % (orjson.dumps(prompt_ids), rest)

    def set_usage(self, usage: Usage) -> None:
        """From now on every chunk says what has been used so far."""
        self._end = b'],"usage":%b}\n\n' % orjson.dumps(usage.to_json())

    def usage(self, usage: Usage) -> bytes:
        """The extra chunk before [DONE] that stream_options.include_usage asks for."""
        return b'%b],"usage":%b}\n\n' % (self._start, orjson.dumps(usage.to_json()))


def logprobs_json(logprobs: Sequence[Logprob]) -> dict[str, Any]:
    """OpenAI's ChoiceLogprobs."""
    return {
        "content": [
            {
                **_token_json(entry.raw, entry.logprob),
                "top_logprobs": [_token_json(raw, value) for raw, value in entry.alternatives],
            }
            for entry in logprobs
        ],
        "refusal": None,
    }


def _token_json(raw: bytes, logprob: float) -> dict[str, Any]:
    # A banned token's -inf has no JSON form; OpenAI reports -9999.0 for "as good as impossible".
    return {
        "token": raw.decode("utf-8", "replace"),
        "logprob": max(logprob, -9999.0),
        "bytes": list(raw),
    }
