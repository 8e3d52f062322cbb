"""Runs the HTTP server around a model that loads meanwhile, and ends it gracefully.

The port answers from the start (503 until the model is ready). The model loads on a thread of its
own; everything else lives on the event loop of the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

import uvicorn

from mlc_server import _core, limits
from mlc_server.api.app import create_app
from mlc_server.api.http_protocol import BoundedHttpProtocol
from mlc_server.api.service import Phase, Service
from mlc_server.cli.common import say
from mlc_server.cli.launch import RunningModel, load_model
from mlc_server.cli.main import STARTED_S
from mlc_server.cli.phases import Phases
from mlc_server.cli.ports import url_of
from mlc_server.errors import Unavailable
from mlc_server.settings import ServerSettings

logger = logging.getLogger(__name__)
T = TypeVar("T")

_HEALTH_POLL_S = 0.5
# After the engine has died, clients get this long to read their errors.
_DEAD_GRACE_S = 2.0
EXIT_ENGINE_DEAD = 3


def serve_forever(settings: ServerSettings, sock: socket.socket) -> int:
    """Serves on `sock` until a signal or a dead engine; returns the exit code.

    Raises UserError if the model cannot be loaded.
    """
    host = ServerHost(settings, sock)
    code = _run_on_new_loop(host.run())
    if host.loading or code == EXIT_ENGINE_DEAD:
        # The loader cannot be interrupted, nor can a hung engine be joined; both run without the
        # interpreter's lock, so it must not be taken down under them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class ServerHost:
    """One server: its sockets, its model and its end."""

    def __init__(self, settings: ServerSettings, sock: socket.socket) -> None:
        self._settings = settings
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
                timeout_graceful_shutdown=settings.shutdown_timeout_s + 2,
            )
        )
        self._running: RunningModel | None = None
        self._exit_code = 0
        self._loader: threading.Thread | None = None

    @property
    def loading(self) -> bool:
        """Whether the loader's thread is still at work."""
        return self._loader is not None and self._loader.is_alive()

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
            if self._running is not None:
                self._running.close()
        return self._exit_code

    # Start

    async def _start(self) -> None:
        phases = Phases(STARTED_S)
        with phases.phase("imports"):
            pass  # done by now; the line says what they took
        self._loader, future = _on_thread(lambda: load_model(self._settings, phases))
        loaded = await future
        with phases.phase("warm up") as phase:
            self._running = await loaded.start()
            phase.note = await self._running.warm_up()
            # Everything made so far lives as long as the process: never scan it again. What loading
            # took besides is given back.
            gc.collect()
            gc.freeze()
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
        loop = asyncio.get_running_loop()
        if self._server.should_exit:
            self._end_open("the server was stopped")
            loop.call_later(1.0, self._force_exit)
            return
        self.service.set_draining()
        self._server.should_exit = True
        count, timeout_s = self.service.num_open, self._settings.shutdown_timeout_s
        if count:
            plural = "s" if count > 1 else ""
            say(f"finishing {count} request{plural}, up to {timeout_s} s; again to stop now")
        loop.call_later(timeout_s, self._end_open, "the server is shutting down")

    def _end_open(self, reason: str) -> None:
        self.service.fail_open(Unavailable(reason))

    def _force_exit(self) -> None:
        self._server.force_exit = True


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would end the process by the signal it caught."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _on_thread(work: Callable[[], T]) -> tuple[threading.Thread, asyncio.Future[T]]:
    """Starts `work()` on a daemon thread, which unlike an executor's does not hold up the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # handed over to the event loop
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, error)

    thread = threading.Thread(target=run, name="load-model", daemon=True)
    thread.start()
    return thread, future


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
