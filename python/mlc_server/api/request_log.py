"""One log line per request when it ends, and with --enable-tracing one per event on the way.

Prompts and answers are never logged.
"""

from __future__ import annotations

import json
import logging
import time

from mlc_server.engine import Delta
from mlc_server.errors import RequestError

logger = logging.getLogger("mlc_server.requests")
tracer = logging.getLogger("mlc_server.trace")


class RequestLog:
    """Times and counts of one request."""

    def __init__(self, request_id: str, *, tracing: bool) -> None:
        self._request_id = request_id
        self._tracing = tracing
        self._begin_s = time.perf_counter()
        self._first_token_s: float | None = None
        self._prompt_tokens = 0
        self._finish_reasons: list[str] = []
        self._completion_tokens: dict[int, int] = {}  # by choice
        self._trace("received")

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(self._completion_tokens.values())

    def submitted(self, prompt_tokens: int, num_choices: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._trace("submitted", prompt_tokens=prompt_tokens, choices=num_choices)

    def progressed(self, delta: Delta) -> None:
        if self._first_token_s is None and delta.token_ids:
            self._first_token_s = time.perf_counter()
            self._trace("first_token", choice=delta.choice)
        self._completion_tokens[delta.choice] = delta.completion_tokens
        if delta.finish_reason is not None:
            self._finish_reasons.append(delta.finish_reason)
            self._trace(
                "choice_finished",
                choice=delta.choice,
                reason=delta.finish_reason,
                tokens=delta.completion_tokens,
            )

    def finished(self) -> None:
        self._end(200, "+".join(dict.fromkeys(self._finish_reasons)))

    def disconnected(self) -> None:
        self._end(499, "client disconnected")

    def failed(self, error: RequestError) -> None:
        """After submission: the message is the engine's own."""
        self._end(error.status, f"failed: {error.message}")

    def refused(self, error: RequestError) -> None:
        """Before submission: the message may hold excerpts of the request, so only its kind."""
        self._end(error.status, f"refused: {error.code or error.type} {error.param or ''}".rstrip())

    def _end(self, status: int, outcome: str) -> None:
        total_s = time.perf_counter() - self._begin_s
        line = f"{self._request_id} {status} {outcome}"
        if self._prompt_tokens:
            line += f" prompt={self._prompt_tokens} output={self.completion_tokens}"
        if self._first_token_s is not None:
            ttft_s = self._first_token_s - self._begin_s
            decode_s = total_s - ttft_s
            rate = (self.completion_tokens - 1) / decode_s if decode_s > 0 else 0.0
            line += f" ttft={ttft_s * 1e3:.0f}ms rate={rate:.1f}tok/s"
        logger.info("%s total=%.0fms", line, total_s * 1e3)
        self._trace("ended", status=status, outcome=outcome, output_tokens=self.completion_tokens)

    def _trace(self, event: str, **details: object) -> None:
        if self._tracing:
            record = {
                "event": event,
                "request": self._request_id,
                "unix_s": round(time.time(), 6),
                "at_us": int((time.perf_counter() - self._begin_s) * 1e6),
                **details,
            }
            tracer.info("%s", json.dumps(record))
