"""A keep-alive HTTP/1.1 connection that stores what arrives and when, and nothing else."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from loadgen.response import EndDetector, Response, ResponseError, decode

Piece = tuple[float, bytes]


@dataclass(frozen=True)
class Endpoint:
    """A server's address: what a connection and the head of a request need."""

    host: str
    port: int
    tls: bool
    base_path: str
    api_key: str | None

    @staticmethod
    def of(url: str, api_key: str | None = None) -> Endpoint:
        """`url` as users give it, with or without /v1. Raises ValueError."""
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url} is not a http:// or https:// URL")
        tls = parts.scheme == "https"
        base = parts.path.rstrip("/").removesuffix("/v1")
        return Endpoint(parts.hostname, parts.port or (443 if tls else 80), tls, base, api_key)

    def request(self, method: str, path: str, payload: Mapping[str, Any] | None = None) -> bytes:
        """The bytes of a request."""
        return self.request_of(
            method, path, b"" if payload is None else json.dumps(payload).encode()
        )

    def request_of(self, method: str, path: str, body: bytes) -> bytes:
        """The same around a body that may be no JSON."""
        lines = [
            f"{method} {self.base_path}{path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Accept: */*",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        if self.api_key:
            lines.append(f"Authorization: Bearer {self.api_key}")
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True)
class Exchange:
    """A request's time of sending and all that came back; `fault` says why it is not whole."""

    sent_at: float
    pieces: list[Piece]
    fault: str | None


class Connection(asyncio.Protocol):
    """One request at a time; `is_open` says whether another can follow."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._pieces: list[Piece] = []
        self._end = EndDetector()
        self._waiter: asyncio.Future[str | None] | None = None
        self._closed = False
        self.was_lost = False  # closed by the other side

    @staticmethod
    async def open(endpoint: Endpoint) -> Connection:
        context = ssl.create_default_context() if endpoint.tls else None
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(
            Connection, endpoint.host, endpoint.port, ssl=context
        )
        return protocol

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    async def exchange(self, request: bytes, timeout_s: float) -> Exchange:
        """Sends `request` and waits for all of its response."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._pieces, self._end = [], EndDetector()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self._finish, f"no answer within {timeout_s:g} s")
        sent_at = time.perf_counter()
        self._transport.write(request)
        fault = await self._waiter
        timer.cancel()
        if fault is not None or not self._end.keep_alive:
            self.close()
        return Exchange(sent_at, self._pieces, fault)

    def _finish(self, fault: str | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(fault)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._pieces.append((time.perf_counter(), data))
        try:
            complete = self._end.feed(data)
        except ResponseError as error:
            self._finish(str(error))
            return
        if complete:
            self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.was_lost = not self._closed
        self._transport = None
        if self._end.ends_with_connection and exc is None:
            self._finish(None)
        else:
            self._finish(f"the connection was lost: {exc or 'closed by the server'}")


class Pool:
    """Idle connections to one server; a closed one is replaced when taken."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: list[Connection] = []

    async def exchange(self, request: bytes, timeout_s: float) -> Exchange:
        """Sends over an idle connection, or a new one. Raises OSError when there is no server."""
        connection = self._idle_connection()
        if connection is not None:
            exchange = await self._exchange_on(connection, request, timeout_s)
            if exchange.pieces or not connection.was_lost:
                return exchange
            # The server had closed it meanwhile: that is no fault (RFC 9112, section 9.3.1).
        connection = await Connection.open(self.endpoint)
        return await self._exchange_on(connection, request, timeout_s)

    def _idle_connection(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _exchange_on(
        self, connection: Connection, request: bytes, timeout_s: float
    ) -> Exchange:
        exchange = await connection.exchange(request, timeout_s)
        if connection.is_open:
            self._idle.append(connection)
        return exchange

    async def call(
        self, method: str, path: str, payload: Mapping[str, Any] | None = None
    ) -> Response:
        """A plain request outside of what is timed. Raises OSError, ResponseError."""
        exchange = await self.exchange(self.endpoint.request(method, path, payload), 600)
        if exchange.fault is not None:
            raise ResponseError(f"{method} {path}: {exchange.fault}")
        return decode(exchange.pieces)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
