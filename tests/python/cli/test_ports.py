"""The listening socket."""

from __future__ import annotations

import os
import socket

import pytest

from mlc_server.cli.ports import bind, free_port, port_holder, url_of
from mlc_server.errors import UserError


def test_a_taken_port_names_its_holder_and_a_free_one() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as refused:
            bind("127.0.0.1", port)
        assert refused.value.what == f"port {port} on 127.0.0.1 is in use"
        assert f"process {os.getpid()} (" in refused.value.seen
        suggested = int(refused.value.hint.removeprefix("--port "))
        bind("127.0.0.1", suggested).close()
    bind("127.0.0.1", port).close()


def test_connections_wait_in_the_backlog() -> None:
    with bind("127.0.0.1", 0) as sock:
        address = sock.getsockname()
        with socket.create_connection(address, timeout=5):
            accepted, _ = sock.accept()
            accepted.close()


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")]
)
def test_urls_can_be_opened(host: str, shown: str) -> None:
    try:
        sock = bind(host, 0)
    except UserError:
        assert host == "::1", "only IPv6 may be switched off"
        return
    with sock:
        assert url_of(sock) == f"http://{shown}:{sock.getsockname()[1]}"


def test_unknown_hosts_are_refused() -> None:
    with pytest.raises(UserError, match="is not known"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(UserError, match="cannot be listened on"):
        bind("192.0.2.1", 8000)


def test_nobody_holds_a_free_port() -> None:
    assert port_holder(free_port("127.0.0.1")) is None
