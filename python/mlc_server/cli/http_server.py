"""Runs the HTTP server around a model that loads meanwhile, and ends it gracefully.

The port answers before the model is ready (503). The model loads on a thread of its own; everything
else lives on the event loop of the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

# Before pydantic is imported: to find plugins it reads what every installed package says of itself.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

import uvicorn

from mlc_server import _core, limits
from mlc_server.api.app import create_app
from mlc_server.api.http_protocol import BoundedHttpProtocol
from mlc_server.api.service import Phase, Service
from mlc_server.cli.common import say
from mlc_server.cli.launch import RunningModel
from mlc_server.cli.loading import Loading
from mlc_server.cli.ports import url_of
from mlc_server.errors import Unavailable
from mlc_server.settings import ServerSettings

logger = logging.getLogger(__name__)
T = TypeVar("T")

_HEALTH_POLL_S = 0.5
_DRAIN_POLL_S = 0.05
_BACKSTOP_S = 2
_GC_THRESHOLDS = (700, 10, 10)  # Python's own; `serve` starts with others
# After the engine has died, clients get this long to read their errors.
_DEAD_GRACE_S = 2.0
EXIT_ENGINE_DEAD = 3


def serve_forever(settings: ServerSettings, sock: socket.socket, loading: Loading) -> int:
    """Serves on `sock` until a signal or a dead engine; returns the exit code.

    Raises UserError if the model cannot be loaded.
    """
    code = _run_on_new_loop(ServerHost(settings, sock, loading).run())
    if loading.is_running or code == EXIT_ENGINE_DEAD:
        # The loader cannot be interrupted, nor can a hung engine be joined; both run without the
        # interpreter's lock, so it must not be taken down under them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class ServerHost:
    """One server: its sockets, its model and its end."""

    def __init__(self, settings: ServerSettings, sock: socket.socket, loading: Loading) -> None:
        self._settings = settings
        self._loading = loading
        self._socket = sock
        self._url = url_of(sock)
        self.service = Service(allow_any_model=settings.allow_any_model)
        self._server = _Server(
            uvicorn.Config(
                create_app(settings, self.service),
                http=BoundedHttpProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=limits.KEEP_ALIVE_S.default,
                # Ours ends first, with an error for each open request; this one is the backstop.
                timeout_graceful_shutdown=settings.shutdown_timeout_s + _BACKSTOP_S,
            )
        )
        self._running: RunningModel | None = None
        self._draining: asyncio.Future[None] | None = None
        self._exit_code = 0

    async def run(self) -> int:
        """Serves until the end; returns the exit code."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, self._stop)
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        starting = asyncio.ensure_future(self._start())
        watching = asyncio.ensure_future(self._watch_engine())
        try:
            await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.exception() is not None:
                self._server.should_exit = True
            await serving
            if starting.done():
                starting.result()  # raises what kept the model from loading
        finally:
            watching.cancel()
            starting.cancel()
            if self._draining is not None:
                self._draining.cancel()
            if self._running is not None:
                self._running.close()
        return self._exit_code

    # Start

    async def _start(self) -> None:
        phases = self._loading.phases
        loaded = await asyncio.wrap_future(self._loading.future)
        with phases.phase("HTTP"):
            self._running = loaded.serve()
            # Everything made so far lives as long as the process: never look at it again. What
            # loading took besides is given back.
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            _core.trim_heap()
        if self.service.phase is not Phase.LOADING:
            return
        self.service.set_ready(self._running.model)
        for line in self._running.ready_lines(self._url, needs_key=bool(self._settings.api_keys)):
            say(line)
        say(f"ready in {phases.total_s:.1f} s, listening on {self._url}")

    async def _watch_engine(self) -> None:
        """Ends the process after the engine has died, so that a supervisor starts another."""
        while True:
            await asyncio.sleep(_HEALTH_POLL_S)
            if self._running is None or self.service.phase is Phase.DEAD:
                continue
            health = self._running.model.engine.health()
            if health.startswith("dead"):
                logger.critical("engine is %s; the server ends", health)
                self.service.set_dead(health)
                self._exit_code = EXIT_ENGINE_DEAD
                await asyncio.sleep(_DEAD_GRACE_S)
                self._server.should_exit = True

    # End

    def _stop(self) -> None:
        """SIGTERM or Ctrl-C: the first lets open requests finish, the second ends them."""
        if self._draining is not None:
            self._end_open("the server was stopped")
            self._server.should_exit = True
            asyncio.get_running_loop().call_later(1.0, self._force_exit)
            return
        self.service.set_draining()
        count, timeout_s = self.service.num_open, self._settings.shutdown_timeout_s
        if count:
            plural = "s" if count > 1 else ""
            say(f"finishing {count} request{plural}, up to {timeout_s} s; again to stop now")
        self._draining = asyncio.ensure_future(self._drain(timeout_s))

    async def _drain(self, timeout_s: int) -> None:
        """Ends the server once no request is open. Until then the port answers: /health and new
        requests are told 503, so that load balancers send them elsewhere."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        loop.call_later(timeout_s, self._end_open, "the server is shutting down")
        while self.service.num_open and loop.time() < deadline_s:
            await asyncio.sleep(_DRAIN_POLL_S)
        left_s = math.ceil(max(0.0, deadline_s - loop.time()))
        self._server.config.timeout_graceful_shutdown = left_s + _BACKSTOP_S
        self._server.should_exit = True

    def _end_open(self, reason: str) -> None:
        self.service.fail_open(Unavailable(reason))

    def _force_exit(self) -> None:
        self._server.force_exit = True


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would end the process by the signal it caught."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _run_on_new_loop(main: Coroutine[Any, Any, T]) -> T:
    try:
        import uvloop  # noqa: PLC0415 - absent on some platforms

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
