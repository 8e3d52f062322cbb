"""Text completion responses, whole and streamed."""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Sequence
from typing import Any

import orjson

from mlc_server.protocol.responses import Logprob, ResponseHead, Usage


def completion_head(model: str, system_fingerprint: str) -> ResponseHead:
    """What every chunk of one response repeats."""
    return ResponseHead(
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=model,
        system_fingerprint=system_fingerprint,
    )


class LogprobsWriter:
    """OpenAI's legacy logprobs of one choice: parallel lists, with offsets into its text."""

    def __init__(self, first_offset: int) -> None:
        """`first_offset`: characters of the text before the first token."""
        self._offset = first_offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def to_json(self, entries: Sequence[Logprob]) -> dict[str, Any]:
        """The next tokens. A token within a character has the offset where that will begin."""
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            if not entry.hidden:
                self._offset += len(self._decoder.decode(entry.raw))
        return {
            "tokens": [_token(entry.raw) for entry in entries],
            "token_logprobs": [_finite(entry.logprob) for entry in entries],
            "top_logprobs": [_top_logprobs(entry) for entry in entries],
            "text_offset": offsets,
        }


class EchoLogprobs:
    """The same of a prompt that is given back, filled as it comes. Its first token has none."""

    def __init__(self, first_token: bytes, starts: Sequence[int]) -> None:
        """`starts`: where each of the prompt's tokens begins in its text."""
        self._starts = starts
        self._tokens = [_token(first_token)]
        self._logprobs: list[float | None] = [None]
        self._top: list[dict[str, float] | None] = [None]

    def add(self, entries: Sequence[Logprob]) -> None:
        self._tokens += [_token(entry.raw) for entry in entries]
        self._logprobs += [_finite(entry.logprob) for entry in entries]
        self._top += [_top_logprobs(entry) for entry in entries]

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self._tokens,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._top,
            "text_offset": self._starts,
        }


def joined(first: dict[str, Any], second: dict[str, Any] | None) -> dict[str, Any]:
    """The log-probabilities of a text and of what follows it."""
    if second is None:
        return first
    return {key: [*values, *second[key]] for key, values in first.items()}


def _top_logprobs(entry: Logprob) -> dict[str, float]:
    """The token and its rivals. Of tokens with the same text the most likely one counts."""
    top = {_token(raw): _finite(value) for raw, value in reversed(entry.alternatives)}
    top.setdefault(_token(entry.raw), _finite(entry.logprob))
    return top


def choice_json(
    index: int,
    text: str,
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
    stop_reason: int | str | None = None,
) -> dict[str, Any]:
    """One choice, or in a stream its news."""
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
        "stop_reason": stop_reason,
    }


def with_token_ids(
    choice: dict[str, Any], token_ids: Sequence[int], prompt_ids: Sequence[int] | None
) -> dict[str, Any]:
    """A choice with what return_token_ids asks for; `prompt_ids` is None after a first chunk."""
    return choice | {"token_ids": list(token_ids), "prompt_token_ids": prompt_ids}


def completion_json(
    head: ResponseHead, choices: Sequence[dict[str, Any]], usage: Usage | None
) -> bytes:
    """A whole response as JSON."""
    body: dict[str, Any] = {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "choices": choices,
        "system_fingerprint": head.system_fingerprint,
    }
    if usage is not None:
        body["usage"] = usage.to_json()
    return orjson.dumps(body)


def completion_event(
    head: ResponseHead, choices: Sequence[dict[str, Any]], usage: Usage | None
) -> bytes:
    """One chunk of a stream, as a server-sent event."""
    return b"data: " + completion_json(head, choices, usage) + b"\n\n"


def around_text(head: ResponseHead, first: int, num_choices: int) -> tuple[list[bytes], bytes]:
    """What completion_event() puts before the JSON string of a choice's text, for so many choices
    from number `first` on, and after it."""
    before, after = [], b""
    for index in range(first, first + num_choices):
        event = completion_event(head, [choice_json(index, "")], None)
        # No string can hold this: its quotes would be escaped.
        start, key, rest = event.partition(b'"text":')
        before.append(start + key)
        after = rest.removeprefix(b'""')
    return before, after


def _token(raw: bytes) -> str:
    """A token's text; OpenAI's spelling "bytes:\\xe2\\x82" for one that is no whole characters."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)
