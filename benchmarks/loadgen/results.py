"""What one request of a run came to, from the bytes of its response."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from loadgen.client import Exchange
from loadgen.response import Response, ResponseError, decode


@dataclass(frozen=True)
class RequestResult:
    """Times in seconds, defined as `vllm bench serve` does.

    ttft_s: from sending to the first frame with text (a frame that only names the role is none).
    itl_s: between successive frames with text. e2el_s: from sending to the last such frame.
    output_tokens: as the server's usage says, else the number of frames.
    """

    sent_at: float
    ttft_s: float = 0.0
    e2el_s: float = 0.0
    itl_s: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int = 0
    frames: int = 0
    counted_by_usage: bool = False
    error: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first one; None when there is no second one."""
        if self.output_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.output_tokens - 1)

    @property
    def ended_at(self) -> float:
        return self.sent_at + self.e2el_s


def _text(choice: dict[str, Any]) -> str:
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or ""


def error_message(body: bytes) -> str:
    """The message of an error in OpenAI's shape, or the start of whatever it is."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def result_of(exchange: Exchange) -> RequestResult:
    """Never raises: what went wrong is the result's `error`."""
    if exchange.fault is not None:
        return RequestResult(exchange.sent_at, error=exchange.fault)
    try:
        response = decode(exchange.pieces)
        if response.status != 200:
            message = f"status {response.status}: {error_message(response.body)}"
            return RequestResult(exchange.sent_at, error=message)
        return _from_events(exchange.sent_at, response)
    except (ResponseError, ValueError) as error:
        return RequestResult(exchange.sent_at, error=f"{type(error).__name__}: {error}")


def _from_events(sent_at: float, response: Response) -> RequestResult:
    usage: dict[str, Any] = {}
    text_times = []
    finished_at = None
    for arrived_at, payload in response.events:
        if payload == b"[DONE]":
            continue
        event = json.loads(payload)
        if "error" in event:
            return RequestResult(sent_at, error=error_message(payload))
        usage = event.get("usage") or usage
        for choice in event.get("choices") or []:
            if _text(choice):
                text_times.append(arrived_at)
            if choice.get("finish_reason"):
                finished_at = arrived_at
    if finished_at is None:
        return RequestResult(sent_at, error="the stream ended without a finish_reason")
    times = text_times or [finished_at]  # all tokens were special ones, which have no text
    counted = usage.get("completion_tokens")
    return RequestResult(
        sent_at,
        ttft_s=times[0] - sent_at,
        e2el_s=times[-1] - sent_at,
        itl_s=[later - earlier for earlier, later in pairwise(times)],
        prompt_tokens=usage.get("prompt_tokens"),
        output_tokens=len(times) if counted is None else counted,
        frames=len(times),
        counted_by_usage=counted is not None,
    )
