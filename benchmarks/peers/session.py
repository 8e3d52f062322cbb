"""The workloads. In every round all contestants take their turn, the next round in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadgen.client import Endpoint, Pool
from loadgen.event_loop import run_on_loop
from loadgen.load import PATHS, WARMUP_OUTPUT_LEN, Load, LoadGenerator, ServerError
from loadgen.metrics import Summary
from loadgen.prompts import PromptShape
from loadgen.response import ResponseError
from loadgen.results import result_of
from peers.contestants import OURS, Contestant, LlamaCpp, Ours
from peers.processes import START_S, ProcessError, ServedWorker, Server, Worker, running

INPUT_LEN, OUTPUT_LEN = 135, 64
PREFILL_TOKENS = 512
DECODE_TOKENS = 64
LONG_CONTEXT = 4000
OTHER_CONTEXTS = (1000,)
TIMED_STREAMS = (1, 8, 32)
OTHER_STREAMS = (2, 4, 16)
SINGLE_REQUESTS = 4
PAIRED_REQUESTS = 16  # at least; single streams take their own time
SWITCH_S = 0.2  # for the last one's threads to fall asleep

# Ways of measuring a contestant: over HTTP, or in process (ours; llama-bench).
HTTP, CORE = "http", "core"


@dataclass
class Samples:
    """values[metric][contestant][way], one for each round; `remarks` on what went wrong."""

    values: dict[str, dict[str, dict[str, list[float]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    )
    remarks: list[str] = field(default_factory=list)

    def add(self, metric: str, contestant: str, way: str, value: float) -> None:
        self.values[metric][contestant][way].append(value)

    def of(self, metric: str, contestant: str, way: str) -> list[float]:
        return self.values.get(metric, {}).get(contestant, {}).get(way, [])


def turns(items: Sequence[object], rounds: int) -> Iterable[tuple[int, list[int]]]:
    """(round, order of the items): A B C, then C B A, so that drift favours nobody."""
    forward = list(range(len(items)))
    for number in range(rounds):
        yield number, forward if number % 2 == 0 else forward[::-1]


class Session:
    """Runs the workloads of contestants, ours first, and keeps their samples."""

    def __init__(
        self, ours: Ours, peers: Sequence[LlamaCpp], repeats: int, say: Callable[[str], None]
    ) -> None:
        self._ours = ours
        self._peers = list(peers)
        self._all: list[Contestant] = [ours, *peers]
        self._repeats = repeats
        self._say = say
        self.samples = Samples()
        self.info: dict[str, Any] = {}  # what a worker says of the model, after `prepare`

    def prepare(self) -> None:
        """Fetches, converts and compiles what is not cached."""
        worker = self._ours.worker()
        with running(worker):
            self.info = worker.info

    def cores(self) -> None:
        """Decode and prefill of one stream without HTTP."""
        for number, order in turns(self._all, self._repeats):
            self._say(f"one stream in process, round {number + 1}")
            for index in order:
                if index == 0:
                    prefill = {"workload": "prefill", "tokens": PREFILL_TOKENS}
                    decode = {"workload": "decode", "context": 0, "batch": 1}
                    self._in_process({"prefill": prefill, "decode": decode}, warm=True)
                    continue
                peer = self._peers[index - 1]
                rates = peer.bench(prompt=PREFILL_TOKENS, output=DECODE_TOKENS, depth=0)
                for metric, value in rates.items():
                    self.samples.add(metric, peer.name, CORE, value)

    def contexts(self, context: int, rounds: int) -> None:
        """Decode of one stream after `context` tokens."""
        metric = f"decode at {context}"
        for number, order in turns(self._all, rounds):
            self._say(f"{metric}, round {number + 1}")
            for index in order:
                if index == 0:
                    job = {"workload": "decode", "context": context, "batch": 1}
                    self._in_process({metric: job}, warm=False)
                    continue
                peer = self._peers[index - 1]
                rates = peer.bench(prompt=0, output=DECODE_TOKENS, depth=context)
                self.samples.add(metric, peer.name, CORE, rates["decode"])

    def _in_process(self, jobs: Mapping[str, Mapping[str, object]], *, warm: bool) -> None:
        """Metric -> job, of one new process: like llama-bench, each gets its own memory."""
        worker = self._ours.worker()
        with running(worker):
            for metric, job in jobs.items():
                if warm:
                    worker.ask(job)
                self._ask(worker, metric, job)

    def _ask(self, worker: Worker, metric: str, job: Mapping[str, object]) -> None:
        time.sleep(SWITCH_S)
        self.samples.add(metric, OURS, CORE, worker.ask(job)["tokens_s"])

    def starts(self, rounds: int) -> None:
        """From starting the process to the first token of its first answer."""
        for number, order in turns(self._all, rounds):
            self._say(f"start to first token, round {number + 1}")
            for index in order:
                contestant = self._all[index]
                server = contestant.start(1)
                with running(server):
                    seconds = run_on_loop(first_token(server))
                self.samples.add("start", contestant.name, HTTP, seconds)

    def streams(self, counts: Sequence[int], slots: int, rounds: int) -> None:
        """Closed loops of each of `counts` streams, on servers that have `slots`.

        They are started anew in each round: what memory a process gets lasts as long as it lives,
        and on some machines decides half its speed.
        """
        for number, order in turns(self._all, rounds):
            servers = [self._all[index].start(slots) for index in order]
            with running(*servers):
                for server in servers:
                    server.wait_for_port()
                by_index = dict(zip(order, servers, strict=True))
                run_on_loop(self._one_round(by_index, counts, number))

    async def _one_round(
        self, servers: Mapping[int, Server], counts: Sequence[int], number: int
    ) -> None:
        generators = {index: await connected(server) for index, server in servers.items()}
        try:
            for count in counts:
                self._say(f"{count} streams over HTTP, round {number + 1}")
                for index, server in servers.items():
                    before_s = server.main_thread_cpu_s
                    await self._one_turn(generators[index], index, count)
                    if index == 0:
                        self._add_loop_cpu(count, server.main_thread_cpu_s - before_s)
                    if count == max(TIMED_STREAMS):
                        name, size = self._all[index].name, server.resident_bytes
                        self.samples.add("rss", name, HTTP, size / 1e6)
        finally:
            for generator in generators.values():
                generator.close()

    def overheads(self, count: int, rounds: int) -> None:
        """Ours with and without HTTP, in turn in one process, a new one in each round."""
        for number, order in turns((CORE, HTTP), rounds):
            self._say(f"{count} streams with and without HTTP, round {number + 1}")
            worker = self._ours.served_worker()
            with running(worker):
                run_on_loop(self._with_and_without_http(worker, count, order))

    async def _with_and_without_http(
        self, worker: ServedWorker, count: int, order: Sequence[int]
    ) -> None:
        requests = max(PAIRED_REQUESTS, requests_of(count))
        job = {"workload": "closed_loop", "streams": count, "requests": requests}
        job |= {"input_len": INPUT_LEN, "output_len": OUTPUT_LEN}
        load = Load(PromptShape(INPUT_LEN), OUTPUT_LEN, requests, concurrency=count, warmup=count)
        generator = await connected(worker)
        rates: dict[str, float] = {}
        try:
            for index in order:
                time.sleep(SWITCH_S)
                if index == 0:
                    rates[CORE] = worker.ask(job)["tokens_s"]
                    continue
                run = await generator.run(load)
                if self._is_usable(OURS, run):
                    rates[HTTP] = run.output_tokens_s
        finally:
            generator.close()
        if HTTP in rates:
            for way, rate in rates.items():
                self.samples.add(f"paired {count}", OURS, way, rate)

    def _add_loop_cpu(self, count: int, used_s: float) -> None:
        """Ours has its event loop, and nothing else, on the first thread."""
        if count == 1:  # a turn of one stream does other things too
            return
        tokens = requests_of(count) * OUTPUT_LEN + count * WARMUP_OUTPUT_LEN
        self.samples.add(f"loop cpu {count}", OURS, HTTP, 1e6 * used_s / tokens)

    async def _one_turn(self, generator: LoadGenerator, index: int, count: int) -> None:
        name = self._all[index].name
        shape = PromptShape(INPUT_LEN)
        time.sleep(SWITCH_S)
        load = Load(shape, OUTPUT_LEN, requests_of(count), concurrency=count, warmup=count)
        run = await generator.run(load)
        if not self._is_usable(name, run):
            return
        self.samples.add(f"streams {count}", name, HTTP, run.output_tokens_s)
        self.samples.add(f"ttft {count}", name, HTTP, run.latency_ms["ttft"].p50)
        self.samples.add(f"tpot {count}", name, HTTP, run.latency_ms["tpot"].p50)
        self.samples.add(f"tokens/frame {count}", name, HTTP, run.tokens_per_frame)
        client_us = 1e4 * run.client_cpu_percent / run.output_tokens_s
        self.samples.add(f"client cpu {count}", name, HTTP, client_us)
        if count == 1:
            self.samples.add("decode", name, HTTP, 1000 / run.latency_ms["tpot"].p50)
            prefill = await generator.run(Load(PromptShape(PREFILL_TOKENS), 1, 2, warmup=1))
            if self._is_usable(name, prefill):
                rate = 1000 * PREFILL_TOKENS / prefill.latency_ms["ttft"].p50
                self.samples.add("prefill", name, HTTP, rate)

    def _is_usable(self, name: str, run: Summary) -> bool:
        remarks = [*([run.invalid] if run.invalid else []), *run.warnings]
        self.samples.remarks += [f"{name}, {run.label}: {remark}" for remark in remarks]
        return run.invalid is None and run.failed == 0


def requests_of(streams: int) -> int:
    return max(SINGLE_REQUESTS, 2 * streams)


async def connected(server: Server | ServedWorker) -> LoadGenerator:
    """A generator for a server that accepts connections, once its model is loaded."""
    last: Exception | None = None
    while time.perf_counter() - server.started_at < START_S:
        try:
            return await LoadGenerator.connect(Endpoint.of(server.url))
        except ServerError as error:
            last = error
            await asyncio.sleep(0.05)
    raise ProcessError(f"{server.url}: {last}\n{server.output_tail()}")


async def first_token(server: Server) -> float:
    """Seconds from the start of the process to the first token over HTTP."""
    server.wait_for_port()
    pool = Pool(Endpoint.of(server.url))
    try:
        while time.perf_counter() - server.started_at < START_S:
            with contextlib.suppress(ResponseError, OSError, ValueError, KeyError, IndexError):
                models = await pool.call("GET", "/v1/models")
                payload = {
                    "model": json.loads(models.body)["data"][0]["id"],
                    "messages": [{"role": "user", "content": "Hello"}],
                    "max_tokens": 8,
                    "stream": True,
                }
                request = pool.endpoint.request("POST", PATHS["chat"], payload)
                result = result_of(await pool.exchange(request, START_S))
                if result.error is None:
                    return result.sent_at + result.ttft_s - server.started_at
            await asyncio.sleep(0.005)
    finally:
        pool.close()
    raise ProcessError(f"{server.url} gave no token:\n{server.output_tail()}")
