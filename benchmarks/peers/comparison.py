"""From samples to the rows of the table: medians, ratios to the better peer, targets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peers.contestants import OURS
from peers.session import CORE, HTTP, Samples

RSS_ALLOWANCE_MB = 150.0


@dataclass(frozen=True)
class Median:
    """`value` with the extremes of its samples, and the way it was measured."""

    value: float
    low: float
    high: float
    way: str

    @staticmethod
    def of(values: Sequence[float], way: str) -> Median:
        return Median(statistics.median(values), min(values), max(values), way)


@dataclass(frozen=True)
class RowSpec:
    """A row. `ways`: a contestant is taken at its best of these. `target`: least ratio to the
    better peer, or most (least) of our own value when `absolute`."""

    key: str
    title: str
    metric: str
    unit: str
    ways: tuple[str, ...] = (HTTP,)
    higher_is_better: bool = True
    target: float | None = None
    absolute: bool = False


ROWS = (
    RowSpec("decode", "decode, one stream", "decode", "tok/s", (HTTP, CORE), target=2.0),
    RowSpec("prefill", "prefill 512", "prefill", "tok/s", (HTTP, CORE), target=4.0),
    RowSpec("streams8", "8 streams over HTTP", "streams 8", "tok/s", target=4.0),
    RowSpec("streams32", "32 streams over HTTP", "streams 32", "tok/s", target=4.0),
    RowSpec("ttft32", "TTFT p50 at 32", "ttft 32", "ms", higher_is_better=False, target=3.0),
    RowSpec("context", "decode at 4,000", "decode at 4000", "tok/s", (CORE,), target=3.5),
    RowSpec("overhead1", "HTTP / in-process, 1", "overhead 1", "%", target=97.0, absolute=True),
    RowSpec("overhead8", "HTTP / in-process, 8", "overhead 8", "%", target=97.0, absolute=True),
    RowSpec("overhead32", "HTTP / in-process, 32", "overhead 32", "%", target=97.0, absolute=True),
    RowSpec("loop8", "event loop CPU, 8", "loop cpu 8", "us/tok", higher_is_better=False),
    RowSpec("loop32", "event loop CPU, 32", "loop cpu 32", "us/tok", higher_is_better=False),
    RowSpec("client8", "client CPU, 8", "client cpu 8", "us/tok", higher_is_better=False),
    RowSpec("client32", "client CPU, 32", "client cpu 32", "us/tok", higher_is_better=False),
    RowSpec(
        "start",
        "cached start to token",
        "start",
        "s",
        higher_is_better=False,
        target=2.0,
        absolute=True,
    ),
    RowSpec("rss", "RSS at 32 streams", "rss", "MB", higher_is_better=False, absolute=True),
)


@dataclass(frozen=True)
class Row:
    """`ratio`: ours to the better peer, above 1 is better for us. `met`: None without target."""

    spec: RowSpec
    medians: dict[str, Median]
    better_peer: str | None
    ratio: float | None
    target: float | None
    met: bool | None

    @property
    def target_text(self) -> str:
        if self.target is None:
            return ""
        if not self.spec.absolute:
            return f"{self.target:g}x"
        sign = ">=" if self.spec.higher_is_better else "<="
        return f"{sign} {self.target:,.4g} {self.spec.unit}"


def add_overheads(samples: Samples, streams: Sequence[int]) -> None:
    """HTTP over in-process of each pair of runs in one process, percent, as a metric of its own."""
    for count in streams:
        metric = f"paired {count}"
        pairs = zip(samples.of(metric, OURS, HTTP), samples.of(metric, OURS, CORE), strict=True)
        for http, core in pairs:
            samples.add(f"overhead {count}", OURS, HTTP, 100 * http / core)


def _best(samples: Samples, spec: RowSpec, contestant: str) -> Median | None:
    medians = []
    for way in spec.ways:
        values = samples.of(spec.metric, contestant, way)
        if values:
            medians.append(Median.of(values, way))
    if not medians:
        return None
    pick: Callable[..., Median] = max if spec.higher_is_better else min
    return pick(medians, key=lambda median: median.value)


def compare_row(
    samples: Samples, spec: RowSpec, contestants: Sequence[str], target: float | None
) -> Row | None:
    """The row of `spec`, ours being the first contestant; None without samples of ours."""
    found = {name: _best(samples, spec, name) for name in contestants}
    medians = {name: median for name, median in found.items() if median is not None}
    if contestants[0] not in medians:
        return None
    ours = medians[contestants[0]].value
    others = {name: median.value for name, median in medians.items() if name != contestants[0]}
    better, ratio = None, None
    if others:
        pick: Callable[..., str] = max if spec.higher_is_better else min
        better = pick(others, key=lambda name: others[name])
        ratio = ours / others[better] if spec.higher_is_better else others[better] / ours
    met = None
    if target is not None and spec.absolute:
        met = ours >= target if spec.higher_is_better else ours <= target
    elif target is not None and ratio is not None:
        met = ratio >= target
    return Row(spec, medians, better, ratio, target, met)


def compare(
    samples: Samples, contestants: Sequence[str], *, weights_and_kv_mb: float | None
) -> list[Row]:
    """All rows that were measured."""
    rows = []
    for spec in ROWS:
        target = spec.target
        if spec.key == "rss" and weights_and_kv_mb is not None:
            target = weights_and_kv_mb + RSS_ALLOWANCE_MB
        row = compare_row(samples, spec, contestants, target)
        if row is not None:
            rows.append(row)
    return rows
