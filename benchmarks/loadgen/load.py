"""Sends the requests of a run, in a closed or an open loop, and times their answers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadgen.client import Endpoint, Exchange, Pool
from loadgen.metrics import ClientLoad, Summary, percentile, summarize
from loadgen.prompts import PromptMaker, PromptShape, calibrate, find_counter, local_counter
from loadgen.response import ResponseError
from loadgen.results import error_message, result_of
from loadgen.schedule import arrival_times

WARMUP_OUTPUT_LEN = 16
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


class ServerError(Exception):
    """The server cannot be measured: what it answered instead."""


@dataclass(frozen=True)
class Load:
    """One run.

    concurrency: requests in flight of the closed loop; with `request_rate` the most in flight
    (0 is no limit). request_rate: of the open loop, per second; None is the closed loop.
    json_schema: what outputs are held to; ignore_eos has no effect then, so that a fair comparison
    takes a schema whose texts have more than `output_len` tokens.
    """

    prompts: PromptShape
    output_len: int
    requests: int
    concurrency: int = 1
    request_rate: float | None = None
    burstiness: float = 1.0
    warmup: int = 1
    seed: int = 0
    temperature: float = 0.0
    goodput_ms: Mapping[str, float] = field(default_factory=dict)
    max_lag_ms: float = 50.0
    timeout_s: float = 600.0
    json_schema: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        held = "" if self.json_schema is None else ", schema"
        if self.request_rate is None:
            return f"{self.concurrency} stream{'s' if self.concurrency > 1 else ''}{held}"
        return f"{self.request_rate:g} req/s{held}"


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


class LoadGenerator:
    """One server, one endpoint, one model. Make it with `connect`."""

    def __init__(self, pool: Pool, model: str, kind: str, prompts: PromptMaker) -> None:
        self._pool = pool
        self.model = model
        self.kind = kind
        self.prompts = prompts

    @staticmethod
    async def connect(
        endpoint: Endpoint,
        *,
        model: str | None = None,
        kind: str = "auto",
        tokenizer: Path | None = None,
        seed: int = 0,
    ) -> LoadGenerator:
        """Finds out what the server serves and how it counts tokens. Raises ServerError."""
        pool = Pool(endpoint)
        try:
            model = model or await _served_model(pool)
            kind = await _find_kind(pool, model, kind)
            local = None if tokenizer is None else local_counter(tokenizer)
            counter = local or await find_counter(pool, model)

            async def prompt_tokens(text: str) -> int | None:
                answer = await _complete(pool, kind, _payload(kind, model, text, 1))
                tokens: int | None = (answer.get("usage") or {}).get("prompt_tokens")
                return tokens

            maker = await calibrate(prompt_tokens, counter, seed)
        except (OSError, ResponseError, ValueError) as error:
            pool.close()
            raise ServerError(str(error)) from error
        return LoadGenerator(pool, model, kind, maker)

    def close(self) -> None:
        self._pool.close()

    async def run(self, load: Load) -> Summary:
        """Warms up, runs, sums up. Raises ValueError when prompts cannot be so short."""
        requests = [self._request(load, load.output_len) for _ in range(load.requests)]
        short = min(load.output_len, WARMUP_OUTPUT_LEN)
        warmups = [self._request(load, short) for _ in range(load.warmup)]
        limit = load.concurrency if load.request_rate is None else load.warmup
        await self._closed_loop(warmups, max(1, limit), load.timeout_s)
        with _no_garbage_collection():
            begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
            lags: list[float] = []
            if load.request_rate is None:
                exchanges = await self._closed_loop(requests, load.concurrency, load.timeout_s)
            else:
                exchanges, lags = await self._open_loop(requests, load)
            cpu_s = time.process_time() - begin_cpu_s
            wall_s = time.perf_counter() - begin_s
        client = ClientLoad(
            cpu_percent=100 * cpu_s / wall_s,
            lag_p99_ms=1000 * percentile(lags, 99) if lags else None,
            lag_limit_ms=load.max_lag_ms,
        )
        return summarize(
            load.label,
            [result_of(exchange) for exchange in exchanges],
            output_len=load.output_len,
            goodput_ms=load.goodput_ms,
            client=client,
        )

    def _request(self, load: Load, output_len: int) -> bytes:
        text = self.prompts.text(load.prompts)
        payload = _payload(self.kind, self.model, text, output_len)
        payload |= {
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            "temperature": load.temperature,
            "seed": load.seed,
        }
        if load.json_schema is not None:
            named = {"name": "benchmark", "schema": load.json_schema}
            payload["response_format"] = {"type": "json_schema", "json_schema": named}
        return self._pool.endpoint.request("POST", PATHS[self.kind], payload)

    async def _send(self, request: bytes, timeout_s: float) -> Exchange:
        try:
            return await self._pool.exchange(request, timeout_s)
        except OSError as error:
            return Exchange(time.perf_counter(), [], f"cannot connect: {error}")

    async def _closed_loop(
        self, requests: Sequence[bytes], concurrency: int, timeout_s: float
    ) -> list[Exchange]:
        """Keeps `concurrency` requests in flight: each answer is followed by the next request."""
        waiting = iter(requests)
        exchanges: list[Exchange] = []

        async def stream() -> None:
            for request in waiting:
                exchanges.append(await self._send(request, timeout_s))

        await asyncio.gather(*(stream() for _ in range(min(concurrency, len(requests)))))
        return exchanges

    async def _open_loop(
        self, requests: Sequence[bytes], load: Load
    ) -> tuple[list[Exchange], list[float]]:
        """Sends on schedule whatever the server does; the lags are how late, in seconds."""
        assert load.request_rate is not None
        times = arrival_times(len(requests), load.request_rate, load.burstiness, load.seed)
        in_flight = asyncio.Semaphore(load.concurrency or len(requests))
        lags: list[float] = []
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def one(request: bytes) -> Exchange:
            async with in_flight:
                return await self._send(request, load.timeout_s)

        tasks = []
        for due, request in zip(times, requests, strict=True):
            await asyncio.sleep(start + due - loop.time())
            lags.append(loop.time() - (start + due))
            tasks.append(asyncio.create_task(one(request)))
        return list(await asyncio.gather(*tasks)), lags


def _payload(kind: str, model: str, text: str, max_tokens: int) -> dict[str, Any]:
    payload: dict[str, Any] = {"model": model, "max_tokens": max_tokens}
    if kind == "chat":
        return payload | {"messages": [{"role": "user", "content": text}]}
    return payload | {"prompt": text}


async def _complete(pool: Pool, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    response = await pool.call("POST", PATHS[kind], payload)
    if response.status != 200:
        raise ServerError(
            f"{PATHS[kind]} answers {response.status}: {error_message(response.body)}"
        )
    answer: dict[str, Any] = json.loads(response.body)
    return answer


async def _served_model(pool: Pool) -> str:
    response = await pool.call("GET", "/v1/models")
    try:
        return str(json.loads(response.body)["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise ServerError("/v1/models names no model: give --model") from None


async def _find_kind(pool: Pool, model: str, kind: str) -> str:
    """`kind`, or for "auto" completions where the server has them, else chat."""
    if kind != "auto":
        return kind
    payload = _payload("completions", model, "Hello", 1)
    response = await pool.call("POST", PATHS["completions"], payload)
    return "chat" if response.status in {404, 405, 501} else "completions"
