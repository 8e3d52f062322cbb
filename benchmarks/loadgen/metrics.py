"""Percentiles, goodput and the summary of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadgen.results import RequestResult

METRICS = ("ttft", "tpot", "itl", "e2el")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")
CLIENT_CPU_LIMIT = 90.0  # percent of one core; above, the client is what was measured


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear interpolation between closest ranks, as NumPy's default; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def parse_goodput(words: Sequence[str]) -> dict[str, float]:
    """Limits in ms from `ttft:500 tpot:50`. Raises ValueError naming the word."""
    limits = {}
    for word in words:
        name, _, text = word.partition(":")
        try:
            limit = float(text)
        except ValueError:
            limit = math.nan
        if name not in GOODPUT_METRICS or not limit >= 0:
            names = ", ".join(GOODPUT_METRICS)
            raise ValueError(f"{word}: must be NAME:MILLISECONDS with a NAME of {names}")
        limits[name] = limit
    return limits


def is_good(result: RequestResult, limits_ms: Mapping[str, float]) -> bool:
    """Whether a request kept every limit. One without TPOT (a single token) keeps TPOT's."""
    if result.error is not None:
        return False
    values = {"ttft": result.ttft_s, "tpot": result.tpot_s or 0.0, "e2el": result.e2el_s}
    return all(values[name] * 1000 <= limit for name, limit in limits_ms.items())


@dataclass(frozen=True)
class Distribution:
    """Milliseconds; NaN where there are no values."""

    mean: float
    p50: float
    p90: float
    p99: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Distribution:
        values = [1000 * value for value in seconds]
        mean = sum(values) / len(values) if values else math.nan
        return Distribution(mean, *(percentile(values, p) for p in (50, 90, 99)))


@dataclass(frozen=True)
class ClientLoad:
    """What the client itself did: percent of one core, and how late it sent (open loop)."""

    cpu_percent: float
    lag_p99_ms: float | None
    lag_limit_ms: float


@dataclass(frozen=True)
class Summary:
    """A run. Rates are per second of `duration_s`, from the first sending to the last frame."""

    label: str
    requests: int
    failed: int
    duration_s: float
    prompt_tokens_mean: float | None  # as the server counted
    output_tokens_mean: float
    output_tokens_s: float
    requests_s: float
    goodput_s: float | None
    tokens_per_frame: float
    latency_ms: dict[str, Distribution]
    client_cpu_percent: float
    client_lag_p99_ms: float | None
    invalid: str | None  # why no figure of this run may be used
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: an invalid run has no figures, and NaN is null."""
        values = asdict(self)
        if self.invalid is not None:
            kept = ("label", "requests", "failed", "client_cpu_percent", "client_lag_p99_ms")
            values = {name: values[name] for name in (*kept, "invalid", "warnings")}
        return without_nan(values)


def without_nan(value: Any) -> Any:
    """`value` with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def client_fault(client: ClientLoad) -> str | None:
    """Why the client was the limit of a run, or None."""
    if client.cpu_percent > CLIENT_CPU_LIMIT:
        return (
            f"the client used {client.cpu_percent:.0f} % of a core "
            f"(limit {CLIENT_CPU_LIMIT:.0f} %): it was measured, not the server"
        )
    if client.lag_p99_ms is not None and client.lag_p99_ms > client.lag_limit_ms:
        return (
            f"the client sent up to {client.lag_p99_ms:.0f} ms late (p99; limit "
            f"{client.lag_limit_ms:.0f} ms): the server did not get the stated rate"
        )
    return None


def summarize(
    label: str,
    results: Sequence[RequestResult],
    *,
    output_len: int,
    goodput_ms: Mapping[str, float],
    client: ClientLoad,
) -> Summary:
    """The summary of all requests of a run, warm-up left out."""
    done = [result for result in results if result.error is None]
    errors = [result.error for result in results if result.error is not None]
    begin = min((result.sent_at for result in results), default=0.0)
    duration = max((result.ended_at for result in done), default=begin) - begin
    invalid = client_fault(client)
    if not done or duration <= 0:
        invalid = f"no request succeeded: {errors[0] if errors else 'none was sent'}"
    tokens = sum(result.output_tokens for result in done)
    prompts = [result.prompt_tokens for result in done if result.prompt_tokens is not None]
    good = sum(is_good(result, goodput_ms) for result in done)
    count, per_s = max(1, len(done)), 1 / duration if duration > 0 else math.nan
    return Summary(
        label=label,
        requests=len(results),
        failed=len(errors),
        duration_s=duration,
        prompt_tokens_mean=sum(prompts) / len(prompts) if prompts else None,
        output_tokens_mean=tokens / count,
        output_tokens_s=tokens * per_s,
        requests_s=len(done) * per_s,
        goodput_s=good * per_s if goodput_ms else None,
        tokens_per_frame=tokens / max(1, sum(result.frames for result in done)),
        latency_ms={
            "ttft": Distribution.of([result.ttft_s for result in done]),
            "tpot": Distribution.of([r.tpot_s for r in done if r.tpot_s is not None]),
            "itl": Distribution.of([gap for result in done for gap in result.itl_s]),
            "e2el": Distribution.of([result.e2el_s for result in done]),
        },
        client_cpu_percent=client.cpu_percent,
        client_lag_p99_ms=client.lag_p99_ms,
        invalid=invalid,
        warnings=_warnings(done, errors, output_len),
    )


def _warnings(done: Sequence[RequestResult], errors: Sequence[str], output_len: int) -> list[str]:
    warnings = []
    if errors:
        warnings.append(f"{len(errors)} requests failed, the first with: {errors[0]}")
    if done and not all(result.counted_by_usage for result in done):
        warnings.append("the server gives no usage: one token is assumed per frame")
    other = sum(result.output_tokens != output_len for result in done)
    if other:
        warnings.append(f"{other} answers do not have the {output_len} tokens asked for")
    return warnings
