"""The process that tries grammars out: what it lets through, what it refuses, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlc_server import _core, limits
from mlc_server.engine import grammar_probe
from mlc_server.engine.grammar_probe import GrammarProbe, GrammarRefused
from mlc_server.errors import Unavailable
from support.fake_server import new_probe
from support.hostile_grammars import chain, pair_of
from support.waiting import wait_for

# Some seconds of work, were it not for the limit.
ENDLESS = json.dumps(
    {
        "type": "array",
        "prefixItems": [
            {"type": "number", "minimum": -1.23456789e10 + i, "maximum": 9.87654321e12 - i}
            for i in range(3000)
        ],
    }
)
# Followed by recursion, to the end of the stack.
BOTTOMLESS = json.dumps(chain(20_000, pair_of))


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def probe() -> Iterator[GrammarProbe]:
    one = new_probe()
    yield one
    one.close()


def test_what_compiles_passes_and_a_fault_is_in_the_compilers_words(probe: GrammarProbe) -> None:
    weight = probe.check("json_schema", '{"type": "object"}')
    assert weight > 10_000 or _core.heap_bytes() == 0
    assert probe.check("regex", "[a-z]+") <= weight
    with pytest.raises(GrammarRefused, match="uniqueItems"):
        probe.check("json_schema", '{"uniqueItems": true}')
    with pytest.raises(GrammarRefused, match="unclosed"):
        probe.check("regex", "(")


def test_one_that_works_on_is_killed_and_leaves_nothing_behind(probe: GrammarProbe) -> None:
    probe.check("regex", "a")
    before = children()
    with pytest.raises(GrammarRefused, match=r"takes (more|longer) than \d+ ms"):
        probe.check("json_schema", ENDLESS)
    wait_for(lambda: children() == before, 5.0)


def test_one_that_crashes_the_compiler_is_refused(probe: GrammarProbe) -> None:
    with pytest.raises(GrammarRefused, match=r"too deep a recursion|takes"):
        probe.check("json_schema", BOTTOMLESS)
    probe.check("regex", "a")


def test_from_several_threads_each_gets_its_own_answer(probe: GrammarProbe) -> None:
    def fault(source: str) -> str:
        try:
            probe.check("json_schema", source)
        except GrammarRefused as error:
            return str(error)
        return ""

    sources = ['{"type": "null"}', ENDLESS, '{"uniqueItems": true}', '{"contains": {}}'] * 2
    with ThreadPoolExecutor(4) as threads:
        faults = list(threads.map(fault, sources))
    for said in (faults[:4], faults[4:]):
        assert said[0] == ""
        assert "simplify" in said[1]
        assert "uniqueItems" in said[2]
        assert "contains" in said[3]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    few = limits.Limit("grammar", 64 * 1024, "bytes", "too little for any")
    monkeypatch.setattr(limits, "GRAMMAR_MEMORY_BYTES", few)
    probe = new_probe()
    with pytest.raises(GrammarRefused, match="memory"):
        probe.check("json_schema", json.dumps({"enum": [f"value {i}" for i in range(20_000)]}))
    probe.close()


def test_a_lost_process_is_replaced() -> None:
    before = children()
    probe = new_probe()
    probe.check("regex", "a")
    [process] = children() - before
    os.kill(process, signal.SIGKILL)
    with contextlib.suppress(Unavailable):  # the one that finds out
        probe.check("regex", "a")
    probe.check("regex", "b")
    assert process not in children() - before
    probe.close()
    wait_for(lambda: children() == before, 5.0)


def test_a_process_that_has_ended_is_known_to_and_started_again() -> None:
    before = children()
    probe = new_probe()
    assert not probe.is_running
    probe.start()
    assert probe.is_running
    [process] = children() - before
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not probe.is_running, 5.0)
    probe.start()
    assert probe.is_running
    assert process not in children()
    probe.check("regex", "a")
    probe.close()
    assert not probe.is_running
    wait_for(lambda: children() == before, 5.0)


def test_the_process_holds_little_more_than_the_compiler(probe: GrammarProbe) -> None:
    """It is there a second time in each server's memory."""
    probe.check("regex", "a")
    assert probe._process is not None
    [process] = [child for child in psutil.Process().children() if child.pid == probe._process.pid]
    mapped = {Path(entry.path).name for entry in process.memory_maps()}
    assert any(name.startswith("_core") for name in mapped)
    assert not any("ssl" in name or "asyncio" in name for name in mapped)


def test_the_process_ends_with_its_owner() -> None:
    before = children()
    probe = new_probe()
    probe.start()
    assert len(children() - before) == 1
    del probe
    wait_for(lambda: children() == before, 5.0)


@pytest.mark.parametrize("when", ["before it is ready", "once it is ready"])
def test_the_process_ends_quietly_with_a_server_that_dies(when: str) -> None:
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", grammar_probe._PROGRAM, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        )
    if when == "before it is ready":
        mine.close()
        _, said = process.communicate(new_probe()._setup(), timeout=30)
    else:
        assert process.stdin is not None
        process.stdin.write(new_probe()._setup())
        process.stdin.close()
        process.stdin = None
        wait_for(lambda: bool(select.select([mine], [], [], 0)[0]), 30.0)
        mine.close()  # with what says that it is ready unread
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, b"")


def test_a_process_that_cannot_start_is_said_to(tmp_path: Path, capfd: Any) -> None:
    before = children()
    with pytest.raises(Unavailable, match="cannot be compiled"):
        new_probe(tmp_path / "nowhere.so").check("regex", "a")
    assert children() == before
    assert "nowhere.so" in capfd.readouterr().err
