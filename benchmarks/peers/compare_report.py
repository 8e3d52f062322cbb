"""The comparison as a table for a terminal, as JSON and as a page with plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from peers.comparison import Median, Row
from peers.contestants import OURS
from peers.session import (
    CORE,
    HTTP,
    LONG_CONTEXT,
    OTHER_CONTEXTS,
    OTHER_STREAMS,
    TIMED_STREAMS,
    Samples,
)
from report.page import code, notes, plots, table, write_page
from report.plot import Series, bar_chart, line_chart


@dataclass(frozen=True)
class Comparison:
    """`about`: machine, versions, commands, duration. `contestants`: names, ours first."""

    about: dict[str, Any]
    contestants: list[str]
    rows: list[Row]
    samples: Samples

    def as_dict(self) -> dict[str, Any]:
        rows = []
        for row in self.rows:
            medians = {name: asdict(median) for name, median in row.medians.items()}
            rows.append(
                {
                    "key": row.spec.key,
                    "title": row.spec.title,
                    "unit": row.spec.unit,
                    "medians": medians,
                    "better_peer": row.better_peer,
                    "ratio": row.ratio,
                    "target": row.target,
                    "target_text": row.target_text,
                    "met": row.met,
                }
            )
        return {
            "about": self.about,
            "contestants": self.contestants,
            "rows": rows,
            "samples": self.samples.values,
            "remarks": self.samples.remarks,
        }


def _value(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(median: Median) -> str:
    if median.low == median.high:
        return ""
    return f"{_value(median.low)}-{_value(median.high)}"


def _verdict(row: Row) -> str:
    if row.met is None:
        return row.target_text
    return f"{row.target_text} {'met' if row.met else 'missed'}"


def _cells(row: Row, contestants: Sequence[str], layout: str) -> list[str]:
    cells = [f"{row.spec.title}, {row.spec.unit}"]
    for name in contestants:
        median = row.medians.get(name)
        spread = "" if median is None else _spread(median)
        value = "" if median is None else _value(median.value)
        cells.append(layout.format(value, spread) if spread else value)
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return [*cells, ratio, _verdict(row)]


def terminal_table(comparison: Comparison) -> Table:
    """Median over its extremes in each cell."""
    printed = Table(title="median and extremes; ratio to the better peer", show_lines=True)
    for header in ("", *comparison.contestants, "ratio", "target"):
        printed.add_column(header, justify="right" if header else "left")
    for row in comparison.rows:
        cells = _cells(row, comparison.contestants, "{}\n{}")
        if row.met is not None:
            cells[-1] = f"[{'green' if row.met else 'red'}]{cells[-1]}[/]"
        printed.add_row(*cells)
    return printed


def _median(samples: Samples, metric: str, name: str, way: str) -> float | None:
    values = samples.of(metric, name, way)
    return Median.of(values, way).value if values else None


def _by_streams(comparison: Comparison, metric: str, name: str, way: str) -> list[Series]:
    """One curve, or none without samples."""
    points = []
    for count in sorted((*TIMED_STREAMS, *OTHER_STREAMS)):
        value = _median(comparison.samples, f"{metric} {count}", name, way)
        if value is not None:
            points.append((float(count), value))
    suffix = " in process" if way == CORE else ""
    return [Series(f"{name}{suffix}", points)] if points else []


def _over_http(comparison: Comparison, metric: str) -> list[Series]:
    names = comparison.contestants
    return [one for name in names for one in _by_streams(comparison, metric, name, HTTP)]


def _latency_curve(comparison: Comparison, metric: str) -> list[Series]:
    rates = {one.name: one.points for one in _over_http(comparison, "streams")}
    curves = []
    for one in _over_http(comparison, metric):
        by_count = dict(rates[one.name])
        points = [(by_count[count], latency) for count, latency in one.points]
        curves.append(Series(one.name, points, [f"{count:g}" for count, _ in one.points]))
    return curves


def _by_context(comparison: Comparison) -> list[Series]:
    series = []
    metrics = [(0, "decode")]
    metrics += [(context, f"decode at {context}") for context in (*OTHER_CONTEXTS, LONG_CONTEXT)]
    for name in comparison.contestants:
        points = []
        for context, metric in metrics:
            value = _median(comparison.samples, metric, name, CORE)
            if value is not None:
                points.append((float(context), value))
        if len(points) > 1:
            series.append(Series(name, points))
    return series


def _charts(comparison: Comparison) -> list[str]:
    bars = [
        (row.spec.title, row.ratio, None if row.spec.absolute else row.target)
        for row in comparison.rows
        if row.ratio is not None
    ]
    tokens, streams = "output tokens/s", "streams"
    scaling = _over_http(comparison, "streams")
    scaling += _by_streams(comparison, "paired", OURS, CORE)
    return [
        bar_chart("Ratio to the better peer (dashed: target)", bars, "x"),
        line_chart("Throughput by streams", scaling, streams, tokens, log2_x=True),
        line_chart(
            "TPOT p50 against throughput (labels: streams)",
            _latency_curve(comparison, "tpot"),
            tokens,
            "TPOT p50, ms",
        ),
        line_chart(
            "TTFT p50 against throughput (labels: streams)",
            _latency_curve(comparison, "ttft"),
            tokens,
            "TTFT p50, ms",
        ),
        line_chart(
            "Decode of one stream by context",
            _by_context(comparison),
            "tokens of context",
            "tokens/s",
        ),
    ]


def write_report(path: Path, comparison: Comparison) -> None:
    about = comparison.about
    headers = ["", *comparison.contestants, "ratio", "target"]
    cells = [_cells(row, comparison.contestants, "{} ({})") for row in comparison.rows]
    method = [
        "Contestants take turns in every round, on new processes, the next round in reverse; cells "
        "are the median of the rounds and their extremes; ratios are to the better peer.",
        "HTTP over in-process: the same load with and without HTTP, in turn in one process.",
        "Decode and prefill of one stream: the better of HTTP and in-process (llama-bench).",
        "Streams: closed loop, 135 tokens in, 64 out, random words, greedy, end of text ignored.",
    ]
    subtitle = f"{about['cpu']}, {about['threads']} threads, {about['repeats']} rounds"
    sections = [
        ("Result", table(headers, cells)),
        ("Plots", plots(_charts(comparison))),
        ("Method", notes(method)),
        ("Remarks", notes(comparison.samples.remarks) if comparison.samples.remarks else ""),
        ("Commands", code("\n".join(about["commands"]))),
    ]
    write_page(path, f"{OURS} beside llama.cpp", subtitle, sections)
