"""Hostile requests by the thousand among valid ones: the server stays up, and nobody notices.

MLC_SERVER_SOAK=10000 sends that many to the default model, and a twentieth as many valid ones.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from itertools import islice

import psutil
import pytest
import requests

from support.hostile.requests import FAMILIES, hostile_requests
from support.hostile.soak import Soak, mixed, quiet
from support.hostile.valid import valid_requests
from support.server_process import READY, Process, process
from support.waiting import wait_for

MIB = 1 << 20
COUNT = int(os.environ.get("MLC_SERVER_SOAK", "400"))
PARTS = 10
# Sixteen of the largest requests at once, and what the allocator keeps of them.
RSS_PEAK_MAX = 256 * MIB
# Later parts reuse what the first one took. Fewer requests are too few to say so.
RSS_GROWTH_MAX = 48 * MIB
PLATEAU_COUNT = 2000


def gauges(url: str) -> dict[str, float]:
    text = requests.get(f"{url}/metrics", timeout=20).text
    names = ("requests_running", "requests_waiting", "kv_cache_usage_ratio")
    return {
        name: float(re.search(rf"^mlc_server_{name}{{.*}} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]
        for name in names
    }


def soak(server: Process, num_hostile: int, num_valid: int, seed: int) -> Soak:
    """Runs it and checks what has to hold; returns what was answered."""
    url, port = server.url, int(server.url.rpartition(":")[2])
    valid = valid_requests(num_valid)
    expected = asyncio.run(quiet(port, valid))
    assert not [answer for answer in expected if isinstance(answer, tuple)]
    system = psutil.Process(server.popen.pid)
    rss, num_fds = [system.memory_info().rss], system.num_fds()
    hostile = hostile_requests(num_hostile, seed)
    result, begin_s = Soak(), time.monotonic()
    for part in range(PARTS):
        count = num_hostile * (part + 1) // PARTS - num_hostile * part // PARTS
        start, end = (num_valid * edge // PARTS for edge in (part, part + 1))
        answers = asyncio.run(mixed(port, islice(hostile, count), count, valid[start:end], result))
        assert answers == expected[start:end]
        rss.append(system.memory_info().rss)
        print(f"{result.count} in {time.monotonic() - begin_s:.0f} s", flush=True)
    took_s = time.monotonic() - begin_s
    sizes = ", ".join(f"{size / MIB:.0f}" for size in rss)
    print(f"\n{result.table()}\n{num_valid} valid ones among them, {took_s:.0f} s, RSS {sizes} MiB")
    assert not result.faults, "\n".join(result.faults)
    assert result.count == num_hostile
    # Idle again, whole, and no larger than it was.
    wait_for(lambda: set(gauges(url).values()) == {0.0}, 30)
    wait_for(lambda: system.num_fds() <= num_fds + 2, 30)
    assert max(rss) - rss[0] < RSS_PEAK_MAX
    assert num_hostile < PLATEAU_COUNT or rss[-1] - rss[1] < RSS_GROWTH_MAX
    assert requests.get(f"{url}/health", timeout=20).json() == {"status": "ok"}
    assert server.popen.poll() is None
    output = server.output
    bad = re.search(r"Traceback|\b(ERROR|CRITICAL)\b", output)
    assert bad is None, output[bad.start() - 1000 : bad.start() + 6000]
    odd = [line for line in server.lines if not line.rstrip("\n").isprintable()]
    assert not odd
    return result


@pytest.fixture
def fake_server() -> Iterator[Process]:
    with process("--port", "0", "--served-model-name", "fake") as running:
        running.url = running.wait_for(READY)
        yield running


def test_a_server_stands_hostile_requests(fake_server: Process) -> None:
    """Each family several times, the core with its FakeRunner."""
    result = soak(fake_server, 4 * len(FAMILIES), 32, seed=1)
    assert set(result.by_family) == set(FAMILIES)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.xdist_group("default_model")
def test_the_default_model_stands_hostile_requests() -> None:
    # The KV cache is memory too, touched as it is used: 45 MiB of it here.
    with process("--port", "0", "--max-total-seq-length", "2048", module="mlc_server") as server:
        server.url = server.wait_for(READY, timeout_s=240)
        soak(server, COUNT, max(COUNT // 20, 32), seed=2)
