"""Who may ask: the Host header and the API key, checked before any route sees the request."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlc_server.api.errors import error_response
from mlc_server.errors import HostNotAllowed, InvalidApiKey, RequestError
from mlc_server.protocol.excerpt import show
from mlc_server.settings import ServerSettings, is_loopback

# Answered without a key: what a supervisor or load balancer asks.
OPEN_PATHS = frozenset({"/health", "/ready"})


def guarded_hosts(settings: ServerSettings) -> frozenset[str] | None:
    """The host names to answer besides loopback ones; None is any.

    A web page anywhere can make its own name resolve to 127.0.0.1 and so reach a loopback server
    from the user's browser (DNS rebinding); the Host header gives it away.
    """
    if "*" in settings.allowed_hosts:
        return None
    if not settings.allowed_hosts and not is_loopback(settings.host):
        return None
    return frozenset(host.lower() for host in (*settings.allowed_hosts, settings.host))


class GuardMiddleware:
    """Refuses foreign hosts with 403 and wrong keys with 401, on routes that do not exist too."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], hosts: frozenset[str] | None) -> None:
        self._app = app
        # Digests have one length, so comparing takes the same time for every guess.
        self._digests = [_digest(key.encode()) for key in keys]
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                self._check_host(headers)
                if self._digests and scope["path"] not in OPEN_PATHS:
                    self._check_key(headers)
            except RequestError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        given = headers.get("host")
        if self._hosts is None or given is None:  # browsers always send it
            return
        host = _without_port(given).lower()
        if host not in self._hosts and not is_loopback(host):
            raise HostNotAllowed(
                f"host {show(host)} is not allowed here; the server's --allowed-hosts can allow it"
            )

    def _check_key(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip().encode("latin-1"))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            what = "the API key is wrong" if given else "an API key is needed"
            raise InvalidApiKey(f'{what}: send the header "Authorization: Bearer KEY"')


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _without_port(host: str) -> str:
    """example.org:80 -> example.org, [::1]:80 -> ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
