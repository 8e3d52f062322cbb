"""What is compiled when, what is kept of it, and what one that fails or is lost does to others."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from mlc_server import _core, limits
from mlc_server.engine import AsyncEngine, GenerationRequest, GrammarSpec, SamplingOptions
from mlc_server.engine import grammar as grammar_module
from mlc_server.errors import InvalidRequest, Unavailable
from support.fake_server import fake_core, fake_grammars, new_probe
from support.heap import heap_growth
from support.waiting import wait_for


def schema_spec(schema: Any) -> GrammarSpec:
    return GrammarSpec("json_schema", json.dumps(schema))


def endless(spec: GrammarSpec) -> GenerationRequest:
    sampling = SamplingOptions(max_tokens=100_000, logit_bias=((ord("x"), 100.0),))
    return GenerationRequest([65], sampling, grammar=spec)


def test_a_grammar_is_compiled_once_and_again_after_it_had_to_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[str] = []
    compile_ = grammar_module._compile

    def counted(tools: grammar_module._Tools, spec: GrammarSpec) -> _core.Grammar:
        compiled.append(spec.source)
        return compile_(tools, spec)

    monkeypatch.setattr(grammar_module, "_compile", counted)

    async def scenario() -> None:
        grammars = fake_grammars()
        first = GrammarSpec("regex", "first")
        both = await asyncio.gather(grammars.compile(first), grammars.compile(first))
        assert both[0].core is both[1].core
        for _ in range(2):  # faults are remembered too
            with pytest.raises(InvalidRequest, match="elsewhere: "):
                await grammars.compile(GrammarSpec("regex", "(", param="elsewhere"))
        assert compiled == ["first", "("]
        for index in range(limits.GRAMMAR_CACHE_ENTRIES.default):
            await grammars.compile(GrammarSpec("regex", f"x{index}"))
        del compiled[:]
        await grammars.compile(GrammarSpec("regex", "x100"))
        await grammars.compile(first)
        assert compiled == ["first"]

    asyncio.run(scenario())


def with_bytes(name: str, num_bytes: int) -> limits.Limit:
    return dataclasses.replace(getattr(limits, name), default=num_bytes)


@pytest.mark.skipif(_core.heap_bytes() == 0, reason="the C library does not tell")
def test_what_is_kept_is_bounded_by_what_it_weighs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kilobytes of source can be megabytes of grammar."""
    names = [f"p{index}" for index in range(200)]
    large = [
        schema_spec({"title": str(i), "properties": {key: {"type": "integer"} for key in names}})
        for i in range(8)
    ]

    async def scenario() -> None:
        grammars = fake_grammars()
        compiled = await grammars.compile(large[0])
        assert compiled.num_bytes > 20 * len(large[0].source)
        tools = grammars._load()  # the tools it compiles with
        grown = heap_growth(lambda index: tools.core.compile("json_schema", large[index].source))
        assert 0.5 * grown < compiled.num_bytes < 2 * grown
        each = compiled.num_bytes + len(large[0].source)
        monkeypatch.setattr(
            limits, "GRAMMAR_CACHE_BYTES", with_bytes("GRAMMAR_CACHE_BYTES", 3 * each + each // 2)
        )
        for spec in large:
            await grammars.compile(spec)
        assert list(grammars._entries) == large[-3:]
        assert len(grammars._in_use) == 4  # and the one held here

    asyncio.run(scenario())


def test_a_source_larger_than_all_that_is_kept_is_refused_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "GRAMMAR_CACHE_BYTES", with_bytes("GRAMMAR_CACHE_BYTES", 100_000))
    with pytest.raises(InvalidRequest, match="at most 65536 bytes"):
        asyncio.run(fake_grammars().compile(GrammarSpec("lark", "x" * 200_000)))


@pytest.mark.skipif(_core.heap_bytes() == 0, reason="the C library does not tell")
def test_what_requests_hold_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grammars that had to go from the cache are in memory until their requests end."""
    monkeypatch.setattr(limits, "GRAMMAR_CACHE_BYTES", with_bytes("GRAMMAR_CACHE_BYTES", 1))
    specs = [GrammarSpec("regex", f"x{index}[a-z]*") for index in range(8)]

    async def scenario() -> None:
        grammars = fake_grammars()
        engine = AsyncEngine(fake_core(step_ns=1_000_000), grammars)
        engine.start()
        each = (await grammars.compile(specs[0])).num_bytes
        monkeypatch.setattr(
            limits, "GRAMMAR_USE_BYTES", with_bytes("GRAMMAR_USE_BYTES", 2 * each + each // 2)
        )
        for spec in specs:  # nobody holds them
            await grammars.compile(spec)
        handles = [
            engine.submit(
                await engine.prepare(endless(spec)),
                lambda deltas: None,
            )
            for spec in specs[:3]
        ]
        with pytest.raises(Unavailable, match="too much memory"):
            await engine.prepare(endless(specs[3]))
        engine.cancel(handles[0])
        await engine.prepare(endless(specs[3]))
        engine.close()

    asyncio.run(scenario())


def test_whoever_waits_too_long_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = grammar_module._compile
    gate = threading.Event()

    def slow(tools: grammar_module._Tools, spec: GrammarSpec) -> _core.Grammar:
        if spec.source.startswith("slow"):
            assert gate.wait(20)
        return compile_(tools, spec)

    monkeypatch.setattr(grammar_module, "_compile", slow)
    monkeypatch.setattr(grammar_module, "_MAX_THREADS", 2)

    async def scenario() -> None:
        grammars = fake_grammars()
        await grammars.compile(GrammarSpec("regex", "loaded"))
        monkeypatch.setattr(grammar_module, "_PATIENCE_S", 0.1)
        slow_ones = [GrammarSpec("regex", f"slow {index}") for index in range(2)]
        with pytest.raises(Unavailable, match="try again"):
            await grammars.compile(slow_ones[0])
        monkeypatch.setattr(grammar_module, "_PATIENCE_S", 10.0)
        await grammars.compile(GrammarSpec("regex", "quick"))
        monkeypatch.setattr(grammar_module, "_PATIENCE_S", 0.1)
        with pytest.raises(Unavailable, match="try again"):
            await grammars.compile(slow_ones[1])
        # Both threads are taken now.
        with pytest.raises(Unavailable, match="try again"):
            await grammars.compile(GrammarSpec("regex", "third"))
        gate.set()
        monkeypatch.setattr(grammar_module, "_PATIENCE_S", 10.0)
        for spec in (GrammarSpec("regex", "third"), *slow_ones):
            await grammars.compile(spec)

    asyncio.run(scenario())


def test_quick_grammars_do_not_wait_for_hostile_ones_and_all_are_answered() -> None:
    """Twelve of the slowest at once, each refused for what it is; one that comes after them is
    compiled before most of them have been."""
    hostile = [
        schema_spec(
            {"title": str(i), "prefixItems": [{"minimum": k - 1e9 / 7} for k in range(1500)]}
        )
        for i in range(12)
    ]

    async def scenario() -> None:
        grammars = fake_grammars()
        await grammars.compile(GrammarSpec("json_object"))
        ended = []

        async def answered(spec: GrammarSpec) -> Exception | None:
            error = None
            try:
                await grammars.compile(spec)
            except (InvalidRequest, Unavailable) as raised:
                error = raised
            ended.append(spec)
            return error

        quick = GrammarSpec("regex", "quick")
        answers = await asyncio.gather(*map(answered, [*hostile, quick]))
        assert answers.pop() is None
        assert ended.index(quick) < len(hostile) // 2
        for error in answers:
            assert isinstance(error, InvalidRequest)
            assert "ms of CPU time" in error.message

    asyncio.run(scenario())


def test_what_was_warmed_up_the_first_grammar_need_not_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = new_probe()
    grammars = fake_grammars(probe)
    grammars.warm_up()
    wait_for(lambda: grammars._tools is not None, 30.0)
    assert probe.is_running
    tools, process = grammars._tools, probe._process
    monkeypatch.setattr(grammars, "_load", None)  # nothing is left to load
    asyncio.run(grammars.compile(GrammarSpec("regex", "a")))
    assert (grammars._tools, probe._process) == (tools, process)
    probe.close()


def test_a_warm_up_that_fails_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> Path:
        raise FileNotFoundError("the package llguidance is not installed")

    grammars = fake_grammars()
    with monkeypatch.context() as patch:
        patch.setattr(grammar_module, "llguidance_library", missing)
        grammars.warm_up()
        wait_for(lambda: "llguidance is not installed" in caplog.text, 10.0)
    asyncio.run(grammars.compile(GrammarSpec("regex", "a")))


def test_the_loss_of_the_process_is_no_fault_of_the_next_grammar() -> None:
    probe = new_probe()
    grammars = fake_grammars(probe)

    async def scenario() -> None:
        await grammars.compile(GrammarSpec("regex", "a"))
        for pattern in ("b", "c"):
            assert probe._process is not None
            probe._process.kill()
            wait_for(lambda: not probe.is_running, 5.0)
            await grammars.compile(GrammarSpec("regex", pattern))

    asyncio.run(scenario())
    probe.close()


def test_without_the_library_grammars_are_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    foreign = tmp_path / "_lib.abi3.so"
    foreign.write_bytes(b"not a library")
    monkeypatch.setattr(grammar_module, "llguidance_library", lambda: foreign)

    async def scenario() -> None:
        for _ in range(2):
            with pytest.raises(Unavailable, match="cannot be compiled"):
                await fake_grammars().compile(GrammarSpec("json_object"))

    asyncio.run(scenario())
