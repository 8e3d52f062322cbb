"""The workloads. In every round all contestants take their turn, the next round in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from loadgen.client import Endpoint, Pool
from loadgen.event_loop import run_on_loop
from loadgen.load import PATHS, WARMUP_OUTPUT_LEN, Load, LoadGenerator, ServerError
from loadgen.metrics import Summary
from loadgen.prompts import PromptShape
from loadgen.response import ResponseError
from loadgen.results import result_of
from peers.contestants import OURS, Contestant, LlamaCpp, Ours
from peers.processes import START_S, ProcessError, Server, Worker, running

INPUT_LEN, OUTPUT_LEN = 135, 64
PREFILL_TOKENS = 512
DECODE_TOKENS = 64
LONG_CONTEXT = 4000
OTHER_CONTEXTS = (1000,)
TIMED_STREAMS = (1, 8, 32)
OTHER_STREAMS = (2, 4, 16)
SINGLE_REQUESTS = 4
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

    def cores(self, worker: Worker) -> None:
        """Decode and prefill of one stream without HTTP."""
        for number, order in turns(self._all, self._repeats):
            self._say(f"one stream in process, round {number + 1}")
            for index in order:
                if index == 0:
                    prefill = {"workload": "prefill", "tokens": PREFILL_TOKENS}
                    self._ask(worker, "prefill", prefill, warm=number == 0)
                    decode = {"workload": "decode", "context": 0, "batch": 1}
                    self._ask(worker, "decode", decode, warm=number == 0)
                    continue
                peer = self._peers[index - 1]
                rates = peer.bench(prompt=PREFILL_TOKENS, output=DECODE_TOKENS, depth=0)
                for metric, value in rates.items():
                    self.samples.add(metric, peer.name, CORE, value)

    def contexts(self, worker: Worker, context: int, rounds: int) -> None:
        """Decode of one stream after `context` tokens."""
        metric = f"decode at {context}"
        for number, order in turns(self._all, rounds):
            self._say(f"{metric}, round {number + 1}")
            for index in order:
                if index == 0:
                    job = {"workload": "decode", "context": context, "batch": 1}
                    self._ask(worker, metric, job, warm=False)
                    continue
                peer = self._peers[index - 1]
                rates = peer.bench(prompt=0, output=DECODE_TOKENS, depth=context)
                self.samples.add(metric, peer.name, CORE, rates["decode"])

    def _ask(self, worker: Worker, metric: str, job: dict[str, object], *, warm: bool) -> None:
        time.sleep(SWITCH_S)
        if warm:
            worker.ask(job)
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

    def streams(self, counts: Sequence[int], slots: int, rounds: int, worker: Worker) -> None:
        """Closed loops of each of `counts` streams, on servers that have `slots`."""
        servers = [contestant.start(slots) for contestant in self._all]
        with running(*servers):
            for server in servers:
                server.wait_for_port()
            run_on_loop(self._take_turns(servers, counts, rounds, worker))

    async def _take_turns(
        self, servers: Sequence[Server], counts: Sequence[int], rounds: int, worker: Worker
    ) -> None:
        generators = [await connected(server) for server in servers]
        try:
            for number, order in turns(servers, rounds):
                for count in counts:
                    self._say(f"{count} streams over HTTP, round {number + 1}")
                    for index in order:
                        before_s = servers[index].main_thread_cpu_s
                        await self._one_turn(generators[index], index, count, number)
                        if index == 0:
                            used_s = servers[index].main_thread_cpu_s - before_s
                            self._add_loop_cpu(count, number, used_s)
                        if count == max(TIMED_STREAMS):
                            name, size = self._all[index].name, servers[index].resident_bytes
                            self.samples.add("rss", name, HTTP, size / 1e6)
                        if index == 0:
                            self._core_streams(worker, count, warm=number == 0)
        finally:
            for generator in generators:
                generator.close()

    def _core_streams(self, worker: Worker, count: int, *, warm: bool) -> None:
        job = {"workload": "closed_loop", "streams": count, "requests": requests_of(count)}
        job |= {"input_len": INPUT_LEN, "output_len": OUTPUT_LEN}
        self._ask(worker, f"streams {count}", job, warm=warm)

    def _add_loop_cpu(self, count: int, number: int, used_s: float) -> None:
        """Ours has its event loop, and nothing else, on the first thread."""
        if count == 1:  # a turn of one stream does other things too
            return
        tokens = requests_of(count) * OUTPUT_LEN + warmups_of(count, number) * WARMUP_OUTPUT_LEN
        self.samples.add(f"loop cpu {count}", OURS, HTTP, 1e6 * used_s / tokens)

    async def _one_turn(
        self, generator: LoadGenerator, index: int, count: int, number: int
    ) -> None:
        name = self._all[index].name
        shape = PromptShape(INPUT_LEN)
        warmup = warmups_of(count, number)
        time.sleep(SWITCH_S)
        load = Load(shape, OUTPUT_LEN, requests_of(count), concurrency=count, warmup=warmup)
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


def warmups_of(streams: int, round_number: int) -> int:
    return streams if round_number == 0 else 1


async def connected(server: Server) -> LoadGenerator:
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
