"""One log line per request when it ends, its share of the metrics, and with --enable-tracing its
events, logged and kept.

Prompts and answers are never logged.
"""

from __future__ import annotations

import json
import logging
import time

from starlette.requests import Request

from mlc_server.api.metrics import Metrics
from mlc_server.api.trace import EventTrace, Phase
from mlc_server.engine import Delta
from mlc_server.errors import RequestError

logger = logging.getLogger("mlc_server.requests")
tracer = logging.getLogger("mlc_server.trace")


class RequestLog:
    """Times and counts of one request. `trace` is None without tracing."""

    def __init__(
        self, request_id: str, route: str, metrics: Metrics, trace: EventTrace | None
    ) -> None:
        self._request_id = request_id
        self._route = route
        self._metrics = metrics
        self._trace = trace
        self._begin_s = time.perf_counter()
        self._submitted_s = self._begin_s
        self._queue_s: float | None = None  # of the prompt that ran first
        self._first_token_s: float | None = None
        self._token_s: dict[int, float] = {}  # of each choice's latest token
        self._prompt_tokens = 0
        self._finish_reasons: list[str] = []
        self._completion_tokens: dict[int, int] = {}  # by choice
        self._open_slices: list[str] = []
        self._event("received")
        self._begin_slice("request")

    @classmethod
    def begin(cls, request: Request) -> RequestLog:
        """The log of an HTTP request; whoever calls it sees to its end."""
        state = request.app.state
        request.state.is_logged = True
        return cls(request.state.request_id, request.url.path, state.metrics, state.trace)

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(self._completion_tokens.values())

    def submitted(self, prompt_tokens: int, num_choices: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._metrics.prompt_tokens.inc(prompt_tokens)
        self._event("submitted", prompt_tokens=prompt_tokens, choices=num_choices)
        self._submitted_s = time.perf_counter()
        self._begin_slice("queue", at_s=self._submitted_s)

    def progressed(self, delta: Delta) -> None:
        if delta.prompt is not None and delta.prompt.queue_s is not None:
            self._started(delta.prompt.queue_s)
        if delta.token_ids:
            self.tokens(delta.choice, len(delta.token_ids), delta.completion_tokens)
        self._completion_tokens[delta.choice] = delta.completion_tokens
        if delta.finish_reason is not None:
            self._finish_reasons.append(delta.finish_reason)
            self._metrics.finished.labels(delta.finish_reason).inc()
            self._event(
                "choice_finished",
                choice=delta.choice,
                reason=delta.finish_reason,
                tokens=delta.completion_tokens,
            )

    def _started(self, queue_s: float) -> None:
        """A prompt has left the queue: the only one, or one of several."""
        self._metrics.queue_time.observe(queue_s)
        if self._queue_s is None:
            self._queue_s = queue_s
            self._end_slice(at_s=self._started_s)
            self._begin_slice("prompt", at_s=self._started_s, tokens=self._prompt_tokens)

    @property
    def _started_s(self) -> float:
        """When the first prompt left the queue, by this module's clock."""
        assert self._queue_s is not None
        return min(self._submitted_s + self._queue_s, time.perf_counter())

    def tokens(self, choice: int, count: int, total: int) -> None:
        """`count` new tokens of a choice, which has `total` now; several count as evenly spaced."""
        now_s = time.perf_counter()
        latest_s = self._token_s.get(choice)
        if latest_s is not None:
            self._metrics.inter_token.observe(now_s - latest_s, count)
        elif self._first_token_s is None:
            self._first_token(choice, now_s)
        self._token_s[choice] = now_s
        self._completion_tokens[choice] = total

    def _first_token(self, choice: int, now_s: float) -> None:
        self._first_token_s = now_s
        self._metrics.first_token.observe(now_s - self._begin_s)
        if self._queue_s is not None:
            self._metrics.prefill_time.observe(now_s - self._started_s)
        self._event("first_token", choice=choice)
        self._end_slice()
        self._begin_slice("decode")

    def finished(self) -> None:
        total_s = time.perf_counter() - self._begin_s
        metrics, tokens = self._metrics, self.completion_tokens
        metrics.end_to_end.observe(total_s)
        metrics.request_prompt_tokens.observe(self._prompt_tokens)
        metrics.request_generation_tokens.observe(tokens)
        if self._first_token_s is not None and tokens > 1:
            decode_s = total_s - (self._first_token_s - self._begin_s)
            metrics.per_output_token.observe(decode_s / (tokens - 1))
        if self._first_token_s is not None:
            last_token_s = max(self._token_s.values())
            metrics.decode_time.observe(last_token_s - self._first_token_s)
            if self._queue_s is not None:
                metrics.inference_time.observe(last_token_s - self._started_s)
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
        fields: dict[str, object] = {
            "request": self._request_id,
            "status": status,
            "route": self._route,
            "outcome": outcome,
            "total_ms": round(total_s * 1e3),
        }
        line = f"{self._request_id} {status} {outcome}"
        if self._prompt_tokens:
            fields |= {"prompt": self._prompt_tokens, "output": self.completion_tokens}
            line += f" prompt={self._prompt_tokens} output={self.completion_tokens}"
        if self._queue_s is not None:
            fields["queue_ms"] = round(self._queue_s * 1e3)
            line += f" queue={self._queue_s * 1e3:.0f}ms"
        if self._first_token_s is not None:
            ttft_s = self._first_token_s - self._begin_s
            decode_s = total_s - ttft_s
            rate = (self.completion_tokens - 1) / decode_s if decode_s > 0 else 0.0
            fields |= {"ttft_ms": round(ttft_s * 1e3), "tokens_per_s": round(rate, 1)}
            line += f" ttft={ttft_s * 1e3:.0f}ms rate={rate:.1f}tok/s"
        self._metrics.responses.labels(str(status)).inc()
        logger.info("%s total=%.0fms", line, total_s * 1e3, extra={"fields": fields})
        self._event("ended", status=status, outcome=outcome, output_tokens=self.completion_tokens)
        while self._open_slices:
            self._end_slice()

    def _event(self, name: str, **details: object) -> None:
        if self._trace is None:
            return
        record = {
            "event": name,
            "request": self._request_id,
            "unix_s": round(time.time(), 6),
            "at_us": int((time.perf_counter() - self._begin_s) * 1e6),
            **details,
        }
        tracer.info("%s", json.dumps(record))
        if name != "received":  # the beginning of the slice says so
            self._keep("i", name, None, details)

    def _begin_slice(self, name: str, *, at_s: float | None = None, **details: object) -> None:
        self._open_slices.append(name)
        self._keep("B", name, at_s, details)

    def _end_slice(self, *, at_s: float | None = None) -> None:
        self._keep("E", self._open_slices.pop(), at_s, {})

    def _keep(
        self, phase: Phase, name: str, at_s: float | None, details: dict[str, object]
    ) -> None:
        if self._trace is not None:
            self._trace.add(phase, name, self._request_id, at_s=at_s, **details)
