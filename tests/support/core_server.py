"""A real server in this process over the compiled engine, whose model is a FakeRunner of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlc_server.engine import AsyncEngine, GrammarCompiler
from mlc_server.settings import ServerSettings
from support.fake_server import NUM_PAGES, fake_core
from support.http_server import LiveServer
from support.waiting import wait_for


@contextmanager
def core_server(
    *, grammars: GrammarCompiler | None = None, **runner_options: float
) -> Iterator[LiveServer]:
    """Every page is free again at the end."""
    live = LiveServer(ServerSettings())
    live.start()
    engine = AsyncEngine(fake_core(**runner_options), grammars)
    try:
        live.on_loop(engine.start)
        live.set_ready(engine)
        yield live
        wait_for(lambda: engine.stats().free_pages == NUM_PAGES, 5.0)
    finally:
        live.on_loop(engine.close)
        live.stop()
