"""How fast a server refuses what it cannot do.

    python benchmarks/refusals.py [--url http://127.0.0.1:8000] [--rounds 3] [--json]

Two kinds of requests, one after another on one connection:
- every field that /openapi.json names for chats and completions, at values that are no JSON, of a
  wrong type or far out of range;
- chats held to schemas, patterns and grammars made to take a compiler's time.

Answers that are not refusals are counted, not timed: not everything above is wrong for every field,
and a hostile grammar may be one that the server can follow.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import track
from rich.table import Table

TIMEOUT_S = 60.0
MESSAGES = [{"role": "user", "content": "hi"}]
PATHS = {"/v1/chat/completions": {"messages": MESSAGES}, "/v1/completions": {"prompt": "hi"}}
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
    """Times of refusals in milliseconds."""

    kind: str
    refused: int
    answered: int
    median_ms: float
    p99_ms: float
    max_ms: float
    slowest: str


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


def grammar_trials() -> Iterator[Trial]:
    for name, constraint in hostile_constraints():
        body = {"messages": MESSAGES, "max_tokens": 1, "structured_outputs": constraint}
        yield Trial(name, "/v1/chat/completions", json.dumps(body).encode())


def hostile_constraints() -> Iterator[tuple[str, dict[str, Any]]]:
    """Values of `structured_outputs`."""
    patterns = {
        "a pattern of powers": "((a{1,100}){1,100}){1,100}b",
        "a pattern of many words": "|".join(f".*{letter}.*" for letter in "abcdefghijklmnop") * 8,
        "a pattern that counts back": "[ab]*a[ab]{500}",
        "a pattern of large classes": r"(\p{L}|\p{N}|\p{Han}){1,200}" * 20,
        "a pattern a hundred thousand long": "a{1,100000}",
        "a pattern that is none": "(((",
    }
    for name, pattern in patterns.items():
        yield name, {"regex": pattern}
    pair = {"properties": {key: {"$ref": "#/$defs/NEXT"} for key in "ab"}}
    links = {str(i): json.loads(json.dumps(pair).replace("NEXT", str(i + 1))) for i in range(600)}
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"items": deep}
    schemas: dict[str, Any] = {
        "5,000 constants": {"enum": [f"value {index}" for index in range(5000)]},
        "4 times 512 properties": {
            "prefixItems": [{"properties": {f"{k}_{i}": {} for i in range(512)}} for k in range(4)]
        },
        "a product of unions": {
            "allOf": [
                {"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(5)]}
                for i in range(12)
            ]
        },
        "600 references in a row": {"$ref": "#/$defs/0", "$defs": {**links, "600": {}}},
        "200 levels": deep,
        "strings of a million": {"type": "string", "minLength": 10**6},
        "a reference abroad": {"$ref": "https://example.com/schema.json"},
        "an unknown keyword": {"type": "array", "uniqueItems": True},
    }
    for name, schema in schemas.items():
        yield name, {"json": schema}
    yield "20,000 brackets in Lark", {"grammar": "start: " + "(" * 20000}


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str, api_key: str | None) -> None:
        parts = urlsplit(url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.netloc, timeout=TIMEOUT_S)
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str) -> Any:
        self._connection.request("GET", path, headers=self._headers)
        return json.load(self._connection.getresponse())

    def time(self, trial: Trial) -> tuple[int, float]:
        """The status, and milliseconds until the whole answer was there."""
        begin_s = time.perf_counter()
        self._connection.request("POST", trial.path, trial.body, self._headers)
        response = self._connection.getresponse()
        response.read()
        return response.status, (time.perf_counter() - begin_s) * 1e3


def measure(client: Client, kind: str, trials: list[Trial], rounds: int) -> Summary:
    times: list[tuple[float, str]] = []
    statuses: Counter[int] = Counter()
    for trial in track(trials * rounds, kind, console=Console(stderr=True), transient=True):
        status, took_ms = client.time(trial)
        statuses[status] += 1
        if status >= 500:
            raise SystemExit(f"error: {trial.name} was answered {status}")
        if status >= 400:
            times.append((took_ms, trial.name))
    if not times:
        raise SystemExit(f"error: nothing was refused of: {kind}")
    times.sort()
    rank = int(0.99 * (len(times) - 1))
    return Summary(
        kind,
        refused=len(times),
        answered=statuses[200],
        median_ms=times[len(times) // 2][0],
        p99_ms=times[rank][0],
        max_ms=times[-1][0],
        slowest=times[-1][1],
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", help="sent as bearer token")
    parser.add_argument("--rounds", type=int, default=3, help="times each is sent; default: 3")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    client = Client(arguments.url.rstrip("/").removesuffix("/v1"), arguments.api_key)
    try:
        fields = list(field_trials(client.get("/openapi.json")))
        summaries = [
            measure(client, "wrong fields", fields, arguments.rounds),
            measure(client, "hostile grammars", list(grammar_trials()), arguments.rounds),
        ]
    except OSError as error:
        print(f"error: {arguments.url} does not answer\n  saw:  {error}", file=sys.stderr)
        print("  try:  start one with python -m mlc_server, or name it with --url", file=sys.stderr)
        return 1
    finally:
        client.close()
    if arguments.json:
        print(json.dumps([asdict(summary) for summary in summaries]))
        return 0
    table = Table("requests", "refused", "answered", "median ms", "p99 ms", "max ms", "slowest")
    for summary in summaries:
        times = (f"{ms:.1f}" for ms in (summary.median_ms, summary.p99_ms, summary.max_ms))
        counts = (str(summary.refused), str(summary.answered))
        table.add_row(summary.kind, *counts, *times, summary.slowest)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
