"""The process that tries grammars out: what it lets through, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlc_server import _core, limits
from mlc_server import grammar_sandbox as sandbox
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


def check(probe: GrammarProbe, source: str) -> None:
    """And waits for what did it to be gone."""
    probe.check("regex", source)
    assert probe._process is not None
    process = psutil.Process(probe._process.pid)
    wait_for(lambda: not process.children(), 5.0)


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
    check(probe, "a")
    before = children()
    with pytest.raises(GrammarRefused, match=r"takes more than \d+ ms of CPU time"):
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
    check(probe, "a")
    [process] = children() - before
    os.kill(process, signal.SIGKILL)
    probe.check("regex", "a")
    probe.check("regex", "b")
    assert process not in children() - before
    probe.close()
    wait_for(lambda: children() == before, 5.0)


def test_one_whose_process_is_lost_meanwhile_is_tried_again() -> None:
    probe = new_probe()
    probe.start()
    process = probe._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(probe.check, "regex", text) for text in ("a", "b")]
        time.sleep(0.2)  # both have been sent
        os.kill(process.pid, signal.SIGKILL)
        assert all(answer.result(timeout=30) >= 0 for answer in answers)
    assert probe._process is not process or not probe.is_running
    probe.close()


def test_one_that_ends_every_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a fork's end, which is known, but by that of the process itself."""
    program = (
        "import os; os.setpgid(0, 0); from mlc_server import grammar_sandbox as sandbox; "
        "sandbox._try_out = lambda *_: os.kill(os.getppid(), 9); sandbox.main()"
    )
    before = children()
    probe = new_probe()
    with monkeypatch.context() as patch:
        patch.setattr(grammar_probe, "_PROGRAM", program)
        with pytest.raises(GrammarRefused, match="crashes the compiler"):
            probe.check("regex", "a")
    probe.check("regex", "a")
    probe.close()
    wait_for(lambda: children() == before, 5.0)


def test_one_that_gets_no_time_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its refusal would depend on what else the machine does."""
    short = limits.Limit("grammar", 5, "milliseconds", "less than any hostile one takes")
    monkeypatch.setattr(limits, "GRAMMAR_WALL_MS", short)
    probe = new_probe()
    with pytest.raises(Unavailable, match="try again"):
        probe.check("json_schema", ENDLESS)
    probe.close()


def test_what_it_may_not_be_told_by_a_terminal_it_is_not(probe: GrammarProbe) -> None:
    """It is in a process group of its own, but in the session, in which priorities count."""
    probe.check("regex", "a")
    assert probe._process is not None
    pid = probe._process.pid
    assert os.getpgid(pid) == pid
    assert os.getsid(pid) == os.getsid(0)
    assert psutil.Process(pid).nice() == psutil.Process().nice() + sandbox.NICE


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
    probe = new_probe()
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                grammar_probe._PROGRAM,
                str(theirs.fileno()),
                *probe._arguments(),
            ],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        )
    if when == "before it is ready":
        mine.close()
        _, said = process.communicate(probe._vocabulary.serialize(), timeout=30)
    else:
        assert process.stdin is not None
        process.stdin.write(probe._vocabulary.serialize())
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
