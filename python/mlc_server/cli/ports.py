"""The listening socket: taken before the model loads, so that a taken port fails at once."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from mlc_server.errors import UserError

_LISTEN_STATE = "0A"
_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; connections wait in its backlog until the server accepts them.

    Raises UserError that names the process holding the port and a free one.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UserError(
            f"host {host} is not known", seen=str(error), hint="--host 127.0.0.1"
        ) from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)  # binding alone does not notice another that is bound
    except OSError as error:
        sock.close()
        raise _explain(host, port, error) from error
    sock.setblocking(False)
    return sock


def url_of(sock: socket.socket) -> str:
    """http://host:port of a bound socket; a wildcard address is shown as loopback."""
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def _explain(host: str, port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port)
        return UserError(
            f"port {port} on {host} is in use",
            seen=holder or "a process of another user",
            hint=f"--port {free_port(host)}",
        )
    if error.errno == errno.EACCES:
        return UserError(
            f"port {port} needs more rights than this user has",
            seen=str(error),
            hint="--port 8000, or any from 1024 on",
        )
    return UserError(
        f"{host}:{port} cannot be listened on", seen=str(error), hint="--host 127.0.0.1"
    )


def free_port(host: str) -> int:
    """A port nobody listens on at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def port_holder(port: int) -> str | None:
    """ "process 123 (python3 ...)" for whoever listens on a port, None if that cannot be seen."""
    inodes = _listening_inodes(port)
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = str(descriptor.readlink())
        except OSError:  # not ours to see, or gone meanwhile
            continue
        if target.startswith("socket:[") and target[8:-1] in inodes:
            process = descriptor.parent.parent
            return f"process {process.name} ({_command_of(process)})"
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            if columns[3] == _LISTEN_STATE and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(columns[9])
    return inodes


def _command_of(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "unknown"
    return b" ".join(words).decode("utf-8", "replace").strip()[:80]
