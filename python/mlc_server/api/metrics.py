"""What Prometheus scrapes: our own names, and the same values again under vLLM's, which gateways
and dashboards already know.

Gauges are read from the engine's snapshot when scraped; histograms are fed by the request log on
the event loop. The engine's thread does nothing for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from mlc_server.api.service import Service

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "mlc_server_"

_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DURATION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)

# Ours, without the prefix -> vLLM's.
VLLM_NAMES = {
    "requests_running": ("vllm:num_requests_running",),
    "requests_waiting": ("vllm:num_requests_waiting",),
    "kv_cache_usage_ratio": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "cache_config_info": ("vllm:cache_config_info",),
    "preemptions": ("vllm:num_preemptions",),
    "prompt_tokens": ("vllm:prompt_tokens",),
    "generation_tokens": ("vllm:generation_tokens",),
    "requests_finished": ("vllm:request_success",),
    "time_to_first_token_seconds": ("vllm:time_to_first_token_seconds",),
    "inter_token_latency_seconds": ("vllm:inter_token_latency_seconds",),
    "time_per_output_token_seconds": (
        "vllm:time_per_output_token_seconds",
        "vllm:request_time_per_output_token_seconds",
    ),
    "e2e_request_latency_seconds": ("vllm:e2e_request_latency_seconds",),
    "request_queue_time_seconds": ("vllm:request_queue_time_seconds",),
    "request_prefill_time_seconds": ("vllm:request_prefill_time_seconds",),
    "request_decode_time_seconds": ("vllm:request_decode_time_seconds",),
    "request_inference_time_seconds": ("vllm:request_inference_time_seconds",),
    "request_prompt_tokens": ("vllm:request_prompt_tokens",),
    "request_generation_tokens": ("vllm:request_generation_tokens",),
}


class Metrics:
    """The server's counters and histograms. Lives on the event loop."""

    def __init__(self, service: Service) -> None:
        own = CollectorRegistry()

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(PREFIX + name, meaning, buckets=buckets, registry=own)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, meaning, labels, registry=own)

        self.first_token = histogram(
            "time_to_first_token_seconds", "from request to first token", _LATENCY_S
        )
        self.inter_token = TokenGaps(
            PREFIX + "inter_token_latency_seconds", "between two tokens of a choice", _LATENCY_S
        )
        own.register(self.inter_token)
        self.per_output_token = histogram(
            "time_per_output_token_seconds", "a request's mean after its first token", _LATENCY_S
        )
        self.end_to_end = histogram(
            "e2e_request_latency_seconds", "from request to the end of its answer", _DURATION_S
        )
        self.queue_time = histogram(
            "request_queue_time_seconds", "from a prompt's arrival to its first step", _LATENCY_S
        )
        self.prefill_time = histogram(
            "request_prefill_time_seconds", "from first step to first token", _LATENCY_S
        )
        self.decode_time = histogram(
            "request_decode_time_seconds", "from first to last token", _DURATION_S
        )
        self.inference_time = histogram(
            "request_inference_time_seconds", "from first step to last token", _DURATION_S
        )
        self.request_prompt_tokens = histogram(
            "request_prompt_tokens", "tokens of a request's prompt", _TOKENS
        )
        self.request_generation_tokens = histogram(
            "request_generation_tokens", "tokens of a request's answer", _TOKENS
        )
        self.prompt_tokens = counter("prompt_tokens", "tokens of all prompts submitted")
        self.finished = counter("requests_finished", "choices that ended", "finished_reason")
        self.responses = counter("responses", "generating requests by status", "status")
        own.register(_EngineCollector(service))
        self._registry = CollectorRegistry()
        self._registry.register(_WithVllmNames(own, service))

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class TokenGaps(Collector):
    """A histogram for what happens with every token: no lock, as all of it is on one thread."""

    def __init__(self, name: str, meaning: str, bounds: tuple[float, ...]) -> None:
        self._name, self._meaning, self._bounds = name, meaning, bounds
        self._counts = [0] * (len(bounds) + 1)  # the last is above all bounds
        self._sum = 0.0

    def observe(self, total_s: float, count: int) -> None:
        """`count` gaps, `total_s` together; they count as evenly spaced."""
        self._counts[bisect_left(self._bounds, total_s / count)] += count
        self._sum += total_s

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily(self._name, self._meaning, buckets=buckets, sum_value=self._sum)


class _EngineCollector(Collector):
    """Gauges and counters of the engine's latest snapshot; none while no model is loaded."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        return []  # not collected when registered

    def collect(self) -> Iterator[Metric]:
        model = self._service.model
        if model is None:
            return
        stats = model.engine.stats()
        used = 1 - stats.free_pages / max(stats.total_pages, 1)
        gauges = {
            "requests_running": ("choices being generated", stats.num_running),
            "requests_waiting": ("requests in the queue", stats.num_waiting),
            "kv_cache_usage_ratio": ("used part of the KV cache, 0 to 1", used),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(PREFIX + name, meaning, value=value)
        counters = {
            "generation_tokens": ("tokens generated", stats.generated_tokens),
            "draft_tokens": ("guesses of next tokens checked", stats.drafted_tokens),
            "accepted_draft_tokens": ("guesses that were right", stats.accepted_tokens),
            "preemptions": ("choices that gave up their pages for others", stats.preemptions),
            "steps": ("steps of the engine", stats.num_steps),
        }
        for name, (meaning, value) in counters.items():
            yield CounterMetricFamily(PREFIX + name, meaning, value=value)
        info = GaugeMetricFamily(
            PREFIX + "cache_config_info",
            "the KV cache: tokens of a block, number of blocks",
            labels=("block_size", "num_gpu_blocks"),
        )
        info.add_metric((str(model.page_size), str(stats.total_pages)), 1)
        yield info


class _WithVllmNames(Collector):
    """Everything in a registry with the model's name as a label, then again as vLLM calls it."""

    def __init__(self, registry: CollectorRegistry, service: Service) -> None:
        self._registry = registry
        self._service = service

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        model = self._service.model
        label = {"model_name": model.id if model is not None else ""}
        for family in list(self._registry.collect()):
            names = (family.name, *VLLM_NAMES.get(family.name.removeprefix(PREFIX), ()))
            for name in names:
                copy = Metric(name, family.documentation, family.type)
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        suffix = sample.name[len(family.name) :]
                        copy.add_sample(name + suffix, label | sample.labels, sample.value)
                yield copy
