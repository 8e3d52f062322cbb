"""How fast a server refuses what it cannot do, and what that costs others.

    python benchmarks/refusals.py [--url http://127.0.0.1:8000] [--rounds 3] [--burst 8]
                                  [--streams 4] [--json]

Requests, one after another on one connection:
- every field that /openapi.json names for chats and completions, at values that are no JSON, of a
  wrong type or far out of range;
- chats held to schemas, patterns and grammars made to take a compiler's time, each new to the
  server; with --burst also so many of them at once.

Answers that are not refusals are counted, not timed: not everything above is wrong for every field,
and a hostile grammar may be one that the server can follow. Those that the server has no time for
(503) are.

With --streams, so many ordinary streams are timed, alone and beside such grammars in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from hostile_constraints import another, hostile_constraints
from loadgen.client import Endpoint, Pool
from loadgen.event_loop import run_on_loop
from loadgen.metrics import percentile
from loadgen.response import ResponseError, decode
from loadgen.results import result_of

TIMEOUT_S = 60.0
TRICKLE_S = 0.1  # between a hostile grammar's answer and the next one
MAX_TRICKLE = 1000
STREAM_TOKENS = 150
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
PATHS = {CHAT: {"messages": MESSAGES}, "/v1/completions": {"prompt": "hi"}}
# JSON texts, some of which are none.
VALUES = (
    "NaN", "Infinity", "-Infinity", "1e400", "1e308", "-1e308", "9" * 40, "-" + "9" * 40,
    "-7", '"\\ud800"', '["\\ud800"]', '{"\\ud800": 1}', '"x"', "0.37", "[[]]", '{"zzz": {}}',
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A request, in words and as it is sent."""

    name: str
    path: str
    body: bytes


@dataclass(frozen=True)
class Summary:
    """Times of refusals, 503 among them, in milliseconds."""

    kind: str
    refused: int
    busy: int
    answered: int
    median_ms: float
    p99_ms: float
    max_ms: float
    slowest: str


@dataclass(frozen=True)
class Gaps:
    """Times between the tokens of streams, in milliseconds."""

    kind: str
    tokens: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def field_trials(openapi: dict[str, Any]) -> Iterator[Trial]:
    for path, required in PATHS.items():
        content = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for field in _properties(openapi, content["schema"]):
            others = {key: value for key, value in required.items() if key != field}
            head = json.dumps({**others, "max_tokens": 1} if field != "max_tokens" else others)
            for value in VALUES:
                text = f'{head[:-1]}, "{field}": {value}}}'.replace("{, ", "{")
                yield Trial(f"{field}: {value[:24]}", path, text.encode())


def _properties(openapi: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    while "$ref" in schema:
        schema = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return sorted(schema.get("properties", ()))


def grammar_trials(numbers: Iterator[int]) -> Iterator[Trial]:
    for name, constraint in hostile_constraints():
        outputs = another(constraint, next(numbers))
        body = {"messages": MESSAGES, "max_tokens": 1, "structured_outputs": outputs}
        yield Trial(name, CHAT, json.dumps(body).encode())


class Answers:
    """Counts what comes back."""

    def __init__(self) -> None:
        self._times: list[tuple[float, str]] = []
        self._statuses: Counter[int] = Counter()

    def add(self, trial: Trial, status: int, took_ms: float) -> None:
        self._statuses[status] += 1
        if status >= 500 and status != 503:
            raise SystemExit(f"error: {trial.name} was answered {status}")
        if status >= 400:
            self._times.append((took_ms, trial.name))

    @property
    def refused(self) -> frozenset[str]:
        """Names of trials."""
        return frozenset(name for _, name in self._times)

    def summary(self, kind: str) -> Summary:
        if not self._times:
            raise SystemExit(f"error: nothing was refused of: {kind}")
        values = [took_ms for took_ms, _ in self._times]
        return Summary(
            kind,
            refused=len(values) - self._statuses[503],
            busy=self._statuses[503],
            answered=self._statuses[200],
            median_ms=percentile(values, 50),
            p99_ms=percentile(values, 99),
            max_ms=max(self._times)[0],
            slowest=max(self._times)[1],
        )


async def measure(pool: Pool, kind: str, groups: Sequence[Sequence[Trial]]) -> Answers:
    """The trials of a group are sent at once."""
    answers = Answers()
    for group in track(groups, kind, console=Console(stderr=True), transient=True):
        came = await asyncio.gather(*(time_of(pool, trial) for trial in group))
        for trial, (status, took_ms) in zip(group, came, strict=True):
            answers.add(trial, status, took_ms)
    return answers


async def time_of(pool: Pool, trial: Trial) -> tuple[int, float]:
    """The status, and milliseconds until the whole answer was there."""
    request = pool.endpoint.request_of("POST", trial.path, trial.body)
    exchange = await pool.exchange(request, TIMEOUT_S)
    if exchange.fault is not None:
        raise SystemExit(f"error: {trial.name}: {exchange.fault}")
    return decode(exchange.pieces).status, (exchange.pieces[-1][0] - exchange.sent_at) * 1e3


async def measure_streams(
    pool: Pool, streams: int, rounds: int, hostile: Iterator[Trial]
) -> list[Summary | Gaps]:
    alone: list[float] = []
    beside: list[float] = []
    answers = Answers()
    await _stream_all(pool, streams)
    for _ in track(range(rounds), "streams", console=Console(stderr=True), transient=True):
        alone += await _stream_all(pool, streams)
        ended = asyncio.Event()
        trickle = asyncio.ensure_future(_trickle(pool, hostile, answers, ended))
        beside += await _stream_all(pool, streams)
        ended.set()
        await trickle
    name = f"{streams} streams"
    return [
        answers.summary(f"hostile grammars beside {name}"),
        _gaps(f"{name} alone", alone),
        _gaps(f"{name} beside hostile grammars", beside),
    ]


def _prepared(names: frozenset[str], numbers: Iterator[int]) -> Iterator[Trial]:
    """Those of these names, made beforehand. The work that others make is that of any request."""
    copies = [
        trial
        for _ in range(MAX_TRICKLE // len(names) + 1)
        for trial in grammar_trials(numbers)
        if trial.name in names
    ]
    return iter(copies)


async def _trickle(
    pool: Pool, hostile: Iterator[Trial], answers: Answers, ended: asyncio.Event
) -> None:
    for trial in hostile:
        if ended.is_set():
            return
        answers.add(trial, *await time_of(pool, trial))
        await asyncio.sleep(TRICKLE_S)


async def _stream_all(pool: Pool, streams: int) -> list[float]:
    """Milliseconds between tokens of so many streams at once."""
    asked = [
        {
            "messages": [
                {"role": "user", "content": f"Tell me a long story about number {index}."}
            ],
            "max_tokens": STREAM_TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        for index in range(streams)
    ]
    exchanges = await asyncio.gather(
        *(pool.exchange(pool.endpoint.request("POST", CHAT, body), TIMEOUT_S) for body in asked)
    )
    results = [result_of(exchange) for exchange in exchanges]
    for result in results:
        if result.error is not None:
            raise SystemExit(f"error: a stream: {result.error}")
    return [gap_s * 1e3 for result in results for gap_s in result.itl_s]


def _gaps(kind: str, gaps_ms: list[float]) -> Gaps:
    if not gaps_ms:
        raise SystemExit("error: the streams came in one piece")
    p50, p99 = percentile(gaps_ms, 50), percentile(gaps_ms, 99)
    return Gaps(kind, len(gaps_ms), p50, p99, max(gaps_ms))


async def benchmark(arguments: argparse.Namespace) -> list[Summary | Gaps]:
    pool = Pool(Endpoint.of(arguments.url, arguments.api_key))
    numbers = itertools.count()
    rounds = arguments.rounds
    try:
        openapi = json.loads((await pool.call("GET", "/openapi.json")).body)
        fields = list(field_trials(openapi)) * rounds
        grammars = [trial for _ in range(rounds) for trial in grammar_trials(numbers)]
        kinds = {"wrong fields": fields, "hostile grammars": grammars}
        answers = {
            kind: await measure(pool, kind, [[trial] for trial in trials])
            for kind, trials in kinds.items()
        }
        found: list[Summary | Gaps] = [part.summary(kind) for kind, part in answers.items()]
        size = arguments.burst
        if size:
            # Each at once with others like it, so that the slowest are together.
            copies = [list(grammar_trials(numbers)) for _ in range(size * rounds)]
            groups = [
                group[at::rounds] for group in zip(*copies, strict=True) for at in range(rounds)
            ]
            kind = f"hostile grammars, {size} at once"
            found.append((await measure(pool, kind, groups)).summary(kind))
        if arguments.streams:
            hostile = _prepared(answers["hostile grammars"].refused, numbers)
            found += await measure_streams(pool, arguments.streams, rounds, hostile)
    finally:
        pool.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", help="sent as bearer token")
    parser.add_argument("--rounds", type=int, default=3, help="times each is sent; default: 3")
    parser.add_argument("--burst", type=int, default=0, help="hostile grammars at once")
    parser.add_argument("--streams", type=int, default=0, help="streams to time beside them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        found = run_on_loop(benchmark(arguments))
    except (OSError, ResponseError) as error:
        print(f"error: {arguments.url} does not answer\n  saw:  {error}", file=sys.stderr)
        print("  try:  start one with python -m mlc_server, or name it with --url", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([asdict(part) for part in found]))
        return 0
    show(found)
    return 0


def show(found: Sequence[Summary | Gaps]) -> None:
    table = Table(
        "requests", "refused", "busy", "answered", "median ms", "p99 ms", "max ms", "slowest"
    )
    for part in found:
        if isinstance(part, Summary):
            times = (f"{ms:.1f}" for ms in (part.median_ms, part.p99_ms, part.max_ms))
            counts = map(str, (part.refused, part.busy, part.answered))
            table.add_row(part.kind, *counts, *times, part.slowest)
    Console().print(table)
    streams = Table("streams", "gaps", "median ms", "p99 ms", "max ms")
    for part in found:
        if isinstance(part, Gaps):
            times = (f"{ms:.1f}" for ms in (part.p50_ms, part.p99_ms, part.max_ms))
            streams.add_row(part.kind, str(part.tokens), *times)
    if streams.row_count:
        Console().print(streams)


if __name__ == "__main__":
    sys.exit(main())
