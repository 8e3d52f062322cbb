"""Load on any OpenAI-compatible server: latencies, throughput, goodput.

    python benchmarks/serve.py --concurrency 1,8,32                      closed loop
    python benchmarks/serve.py --request-rate 2,4,8 [--burstiness 0.5]   open loop
    python benchmarks/serve.py --prefix-len 96 --num-prefixes 4          shared prefixes
    python benchmarks/serve.py --concurrency 16 --json-schema benchmarks/people.json

Several values make one run each, and with a schema a second one held to it. Definitions are those
of `vllm bench serve`: TTFT up to the first text, TPOT = (E2EL - TTFT) / (output tokens - 1), ITL
between frames, which hides tokens that share a frame, hence tokens/frame. A run whose client could
not keep up prints why instead of figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadgen.client import Endpoint
from loadgen.event_loop import run_on_loop
from loadgen.load import Load, LoadGenerator, ServerError
from loadgen.metrics import GOODPUT_METRICS, METRICS, Summary, parse_goodput
from loadgen.prompts import PromptShape
from report.page import notes, plots, table, write_page
from report.plot import Series, line_chart

MIN_REQUESTS = 16
ROUNDS = 4  # requests of each stream by default


def numbers(text: str) -> list[float]:
    values = [float(word) for word in text.split(",")]
    if not all(value > 0 for value in values):
        raise argparse.ArgumentTypeError(f"must be positive numbers, not {text}")
    return values


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", help="default: http://127.0.0.1:8000")
    add("--model", help="default: the first of /v1/models")
    add("--endpoint", choices=("auto", "completions", "chat"), default="auto")
    add("--api-key", help="sent as bearer token")
    add("--tokenizer", type=Path, help="tokenizer.json to count with; default: /tokenize or usage")
    load = parser.add_argument_group("load")
    add = load.add_argument
    add("--concurrency", type=numbers, metavar="N[,N]", help="streams; default: 1")
    add("--request-rate", type=numbers, metavar="R[,R]", help="open loop, requests a second")
    add("--burstiness", type=float, default=1.0, help="gamma shape; default: 1, Poisson")
    add("--max-lag-ms", type=float, default=50.0, help="the client may send so late; default: 50")
    add("--num-requests", type=int, help="of a run; default: 4 a stream, at least 16")
    add("--warmup", type=int, help="requests before each run; default: one a stream")
    add("--input-len", type=int, default=135, help="tokens; default: 135")
    add("--output-len", type=int, default=64, help="tokens; default: 64")
    add("--prefix-len", type=int, default=0, help="of these, shared ones (prefix_repetition)")
    add("--num-prefixes", type=int, default=1, help="different shared prefixes; default: 1")
    add("--temperature", type=float, default=0.0, help="default: 0")
    add("--seed", type=int, default=0, help="default: 0")
    add("--json-schema", type=Path, metavar="FILE", help="again with outputs held to this schema")
    add("--goodput", nargs="+", default=[], metavar="NAME:MS", help=" ".join(GOODPUT_METRICS))
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON instead of a table")
    output.add_argument("--html", type=Path, help="write a report with plots")
    args = parser.parse_args()
    try:
        args.goodput = parse_goodput(args.goodput)
    except ValueError as error:
        parser.error(str(error))
    return args


def loads(args: argparse.Namespace) -> list[Load]:
    """The runs asked for, in order."""
    shape = PromptShape(args.input_len, args.prefix_len, args.num_prefixes)
    streams = [int(value) for value in args.concurrency or []]
    # In an open loop a single --concurrency is the most requests in flight.
    pairs: list[tuple[int, float | None]] = [(count, None) for count in streams or [1]]
    if args.request_rate:
        pairs = [(streams[0] if streams else 0, rate) for rate in args.request_rate]
    free = [
        Load(
            prompts=shape,
            output_len=args.output_len,
            requests=args.num_requests or max(MIN_REQUESTS, ROUNDS * count),
            concurrency=count,
            request_rate=rate,
            burstiness=args.burstiness,
            warmup=max(1, count) if args.warmup is None else args.warmup,
            seed=args.seed,
            temperature=args.temperature,
            goodput_ms=args.goodput,
            max_lag_ms=args.max_lag_ms,
        )
        for count, rate in pairs
    ]
    if args.json_schema is None:
        return free
    schema = json.loads(args.json_schema.read_text(encoding="utf-8"))
    return [run for load in free for run in (load, replace(load, json_schema=schema))]


async def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Summary]]:
    """What was measured, and each run."""
    generator = await LoadGenerator.connect(
        Endpoint.of(args.url, args.api_key),
        model=args.model,
        kind=args.endpoint,
        tokenizer=args.tokenizer,
        seed=args.seed,
    )
    try:
        runs = [await generator.run(load) for load in loads(args)]
    finally:
        generator.close()
    about = {"url": args.url, "model": generator.model, "endpoint": generator.kind}
    return about, runs


def throughput_cells(run: Summary) -> list[str]:
    good = "" if run.goodput_s is None else f"{run.goodput_s:.2f}"
    prompt = "?" if run.prompt_tokens_mean is None else f"{run.prompt_tokens_mean:.0f}"
    return [
        run.label,
        f"{run.requests - run.failed}/{run.requests}",
        f"{prompt}/{run.output_tokens_mean:.0f}",
        f"{run.output_tokens_s:,.0f}",
        f"{run.requests_s:.2f}",
        good,
        f"{run.tokens_per_frame:.2f}",
        f"{run.client_cpu_percent:.0f} %",
    ]


THROUGHPUT_HEADERS = ("run", "done", "in/out", "tok/s", "req/s", "good/s", "tok/frame", "client")
LATENCY_HEADERS = (
    "ms",
    *(f"{name.upper()} {p}" for name in METRICS for p in ("p50", "p90", "p99")),
)


def latency_cells(run: Summary) -> list[str]:
    cells = [run.label]
    for name in METRICS:
        values = run.latency_ms[name]
        cells += [
            f"{v:,.0f}" if v >= 100 else f"{v:.1f}" for v in (values.p50, values.p90, values.p99)
        ]
    return cells


def latency_table(runs: list[Summary]) -> Table:
    """Metrics down, percentiles across: fits a terminal however many there are."""
    printed = Table("run", "ms", "mean", "p50", "p90", "p99")
    for run in runs:
        for index, name in enumerate(METRICS):
            values = run.latency_ms[name]
            shown = (values.mean, values.p50, values.p90, values.p99)
            cells = (f"{v:,.1f}" for v in shown)
            printed.add_row(run.label if index == 0 else "", name.upper(), *cells)
    return printed


def print_tables(console: Console, about: dict[str, Any], runs: list[Summary]) -> None:
    valid = [run for run in runs if run.invalid is None]
    if valid:
        printed = Table(title=f"{about['model']} at {about['url']}")
        for header in THROUGHPUT_HEADERS:
            printed.add_column(header, no_wrap=True)
        for run in valid:
            printed.add_row(*throughput_cells(run))
        console.print(printed)
        console.print(latency_table(valid))
    for run in runs:
        if run.invalid is not None:
            console.print(f"{run.label}: no figures: {run.invalid}", style="bold red")
        for warning in run.warnings:
            console.print(f"{run.label}: {warning}", style="yellow")


def write_report(path: Path, about: dict[str, Any], runs: list[Summary]) -> None:
    valid = [run for run in runs if run.invalid is None]
    labels = [run.label.split()[0] for run in valid]

    def curve(metric: str) -> str:
        def points(percent: str) -> list[tuple[float, float]]:
            return [(r.output_tokens_s, getattr(r.latency_ms[metric], percent)) for r in valid]

        lines = [Series(percent, points(percent), labels) for percent in ("p50", "p99")]
        name = metric.upper()
        return line_chart(f"{name} against throughput", lines, "output tokens/s", f"{name}, ms")

    remarks = [f"{run.label}: no figures: {run.invalid}" for run in runs if run.invalid]
    remarks += [f"{run.label}: {warning}" for run in runs for warning in run.warnings]
    sections = [
        ("Throughput", table(THROUGHPUT_HEADERS, [throughput_cells(run) for run in valid])),
        ("Latency", table(LATENCY_HEADERS, [latency_cells(run) for run in valid])),
        ("Throughput and latency", plots([curve("ttft"), curve("tpot")]) if len(valid) > 1 else ""),
        ("Remarks", notes(remarks) if remarks else ""),
    ]
    write_page(path, f"Load on {about['model']}", f"{about['url']}, {about['endpoint']}", sections)


def main() -> int:
    args = parse_arguments()
    try:
        about, runs = run_on_loop(measure(args))
    except (ServerError, OSError, ValueError) as error:
        Console(stderr=True).print(f"{args.url}: {error}", style="bold red")
        return 1
    if args.html:
        write_report(args.html, about, runs)
    if args.json:
        print(json.dumps({**about, "runs": [run.as_dict() for run in runs]}, indent=2))
    else:
        print_tables(Console(), about, runs)
    return 1 if any(run.invalid for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
