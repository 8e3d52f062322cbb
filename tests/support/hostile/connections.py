"""Hostile HTTP: methods, paths, framing, headers, and senders that leave."""

from __future__ import annotations

import random
from dataclasses import replace

from support.hostile.wire import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    Hostile,
    as_json,
    chat_body,
    http,
)

BODY = as_json(chat_body())
GOOD = http("POST", CHAT, BODY)
KIB = 1024


def methods(chance: random.Random) -> Hostile:
    method = chance.choice(("PUT", "PATCH", "DELETE", "TRACE", "GET", "BREW", "get", "CONNECT"))
    path = chance.choice((CHAT, COMPLETIONS, "/tokenize", "/v1/models/"))
    return Hostile(http(method, path), refused=True)


def paths(chance: random.Random) -> Hostile:
    path = chance.choice(
        (
            "/nope",
            "/v1/models/" + "x" * 3000,
            "/v1/models/%00%0d%0aset-cookie:%20a=b",
            "/v1/models/../../../../etc/passwd",
            "/v1/models/%2e%2e/%2e%2e/etc/passwd",
            "/v1/models/%f0%9f%98%80" + "%f0%9f%98%80" * 300,
            "/v1/models/%ff%fe",
            "//v1//chat//completions",
            "/v1/chat/completions/",
            "/v1/chat/completions;a=b",
            "/docs/../../../etc/shadow",
            "/debug/dump_event_trace",
            "/%",
            "/%zz",
            "/\xe9",
            "*",
            "http://example.org/v1/models",
            "v1/models",
            "/?" + "a=b&" * 5000,
            "/" + "a" * 60_000,
        )
    )
    return Hostile(http(chance.choice(("GET", "POST", "OPTIONS", "HEAD")), path))


def content_types(chance: random.Random) -> Hostile:
    kind = chance.choice(
        (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json; charset=utf-7",
            "application/octet-stream",
            "",
            "a" * 5000,
            "text/html; charset=\xff",
        )
    )
    encoding = chance.choice(((), (("content-encoding", "gzip"),), (("content-encoding", "zzz"),)))
    body = BODY if chance.random() < 0.5 else chance.randbytes(300)
    return Hostile(http("POST", CHAT, body, (("content-type", kind), *encoding)))


def content_lengths(chance: random.Random) -> Hostile:
    """Stated lengths that are none, or not the body's."""
    size = len(BODY)
    bad = ("-1", "abc", "1e3", "0x10", "+5", "18446744073709551616", "9" * 400, "1 1", "1,1", "5;")
    if chance.random() < 0.6:
        length = chance.choice(bad)
        return Hostile(http("POST", CHAT, BODY, (("content-length", length),)), refused=True)
    twice = f"content-length: {size}\r\ncontent-length: {size + 3}"
    both = f"content-length: {size}\r\ntransfer-encoding: chunked"
    lines = chance.choice((twice, both, "content-length: 5", f"content-length: 00{size}"))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{lines}\r\n\r\n"
    return Hostile(head.encode() + BODY)


def chunked_garbage(chance: random.Random) -> Hostile:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"transfer-encoding: {chance.choice(('chunked', 'chunked', 'gzip, chunked', 'chunkedd'))}"
        "\r\n\r\n"
    ).encode()
    size = b"%x" % len(BODY)
    bodies = (
        b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"-5\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"f" * 20 + b"\r\n" + BODY,
        size + b"\r\n" + BODY + b"0\r\n\r\n",
        size + b";ext=" + b"x" * 5000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
        size + b"\r\n" + BODY + b"\r\n0\r\n" + b"trailer: x\r\n" * 2000 + b"\r\n",
        b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        b"0\r\n\r\n",
        b"\r\n\r\n",
        chance.randbytes(200),
    )
    # Some of these wait for more; their sender does not stay until the server's deadline.
    body = chance.choice(bodies)
    whole = body.endswith(b"0\r\n\r\n") or body.endswith(b"trailer: x\r\n\r\n")
    return Hostile(head + body, leave_after=None if whole else 0)


def half_requests(chance: random.Random) -> Hostile:
    return Hostile(GOOD[: chance.randrange(len(GOOD))], leave_after=0, resets=chance.random() < 0.5)


def slow_requests(chance: random.Random) -> Hostile:
    cut = chance.randrange(1, len(GOOD))
    return Hostile(GOOD[:cut], GOOD[cut:])


def disconnects(chance: random.Random) -> Hostile:
    """Leaves early or in the middle of an answer that would go on for long."""
    fields = {
        "stream": chance.random() < 0.7,
        "n": chance.choice((1, 1, 4)),
        "ignore_eos": True,
        "max_tokens": 400,
    }
    if chance.random() < 0.7:
        path, body = CHAT, chat_body(**fields)
    else:
        path, body = COMPLETIONS, {"prompt": ["One", "Two"], **fields}
    data = http("POST", path, as_json(body))
    after = chance.choice((0, 1, 100, 600, 1500)) if fields["stream"] else 0
    return Hostile(data, leave_after=after, resets=chance.random() < 0.5)


def bad_headers(chance: random.Random) -> Hostile:
    lines = chance.choice(
        (
            b"no colon here",
            b": no name",
            b"na me: x",
            b"name : x",
            b"x: a\r\n folded",
            b"x: a\x00b",
            b"x: a\rb",
            b"x: a\nb: c",
            b"x-request-id: evil\r\nset-cookie: a=b",
            b"x-request-id: " + b"a" * 5000,
            b"x-request-id: \x1b[31m",
            b"authorization: Bearer " + bytes(range(128, 256)),
            b"authorization: \xff",
            b"cookie: " + b"a=b; " * 3000,
            b"accept: " + b"*/*, " * 3000,
            b"transfer-encoding: identity",
            b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x",
            b"upgrade: h2c\r\nhttp2-settings: AAAA",
            b"origin: null\r\naccess-control-request-method: EVIL",
            b"range: bytes=0-1",
            b"x-forwarded-for: " + b"127.0.0.1, " * 2000,
        )
    )
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(BODY)}\r\n".encode()
    close = b"" if b"connection:" in lines else b"connection: close\r\n"
    # Bad framing may leave the server waiting; a header it accepts leaves the connection open.
    leave_after = None if close else 1
    return Hostile(head + close + lines + b"\r\n\r\n" + BODY, leave_after=leave_after)


def large_headers(chance: random.Random) -> Hostile:
    head = chance.choice(
        (
            b"x-long: " + b"a" * chance.randrange(66 * KIB, 300 * KIB),
            b"\r\n".join(b"x-%d: a" % i for i in range(9000)),
            b"x" * (70 * KIB) + b": a",
        )
    )
    data = b"POST /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" + head
    return Hostile(data + b"\r\n\r\n", refused=True)


def large_bodies(chance: random.Random) -> Hostile:
    size = 5 * KIB * KIB
    stated = http("POST", CHAT, b"", (("content-length", str(size)),))
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    datas = (
        stated,  # and no body
        stated + b" " * 100_000,
        http("POST", CHAT, b"", (("content-length", "9" * 18),)),
        head + chunk * 80,
        stated.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"),
    )
    return Hostile(chance.choice(datas), refused=True)


def bad_hosts(chance: random.Random) -> Hostile:
    host = chance.choice(
        (
            "evil.example",
            "evil.example:80",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "169.254.169.254",
            "0.0.0.0.",
            "[::ffff:8.8.8.8]",
            "[fe80::1%25eth0]",
            "user@evil.example",
            "\xe9vil",
            "a" * 5000,
            "[",
        )
    )
    return Hostile(http("GET", "/v1/models", headers=(("host", host),)), refused=True)


def odd_hosts(chance: random.Random) -> Hostile:
    lines = chance.choice(
        (b"", b"host: localhost\r\nhost: evil.example\r\n", b"host:\r\n", b"host: [::1]:99999\r\n")
    )
    return Hostile(b"GET /v1/models HTTP/1.1\r\n" + lines + b"connection: close\r\n\r\n")


def pipelines(chance: random.Random) -> Hostile:
    """Several requests in one write; the last one closes."""
    kept = http("POST", CHAT, BODY, close=False)
    streamed = http("POST", CHAT, as_json(chat_body(stream=True)), close=False)
    bad = http("POST", CHAT, b"{", close=False)
    missing = http("GET", "/nope", close=False)
    count = chance.randrange(1, 6)
    parts = [chance.choice((kept, streamed, bad, missing)) for _ in range(count)]
    if chance.random() < 0.2:
        return Hostile(b"".join(parts) + b"garbage\r\n\r\n")
    if chance.random() < 0.2:
        return Hostile(b"".join(parts) + GOOD[: chance.randrange(len(GOOD))], leave_after=300)
    return Hostile(b"".join(parts) + GOOD)


def other_protocols(chance: random.Random) -> Hostile:
    data = chance.choice(
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(200),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1 HTTP/1.1\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"HELO localhost\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"\x00" * 500,
            chance.randbytes(300) + b"\r\n\r\n",
            b"GET  /health  HTTP/1.1\r\n\r\n",
            b"GET /health HTTP/1.1\nhost: localhost\nconnection: close\n\n",
            b"\r\n" * 2000 + GOOD,
        )
    )
    # What might be the beginning of a request is waited for; its sender leaves.
    return Hostile(data, leave_after=1)


def old_http(chance: random.Random) -> Hostile:
    lines = (
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET /health HTTP/0.9\r\n\r\n",
        b"GET /health\r\n\r\n",
    )
    return Hostile(chance.choice(lines), leave_after=1)


def preflights(chance: random.Random) -> Hostile:
    method = chance.choice(("POST", "DELETE", "EVIL", "", "a" * 2000))
    fields = (
        ("origin", chance.choice(("https://example.org", "null", "\xff", "a" * 3000))),
        ("access-control-request-method", method),
        ("access-control-request-headers", chance.choice(("x", "*", "a," * 500, "\xe9"))),
    )
    return Hostile(http("OPTIONS", CHAT, headers=fields))


def idle(chance: random.Random) -> Hostile:
    """Connects, says nothing, leaves."""
    return Hostile(b"", leave_after=0, resets=chance.random() < 0.5)


def gone_before_the_answer(chance: random.Random) -> Hostile:
    """A whole valid request, and nobody to read the answer."""
    body = as_json({"messages": MESSAGES, "max_tokens": 200, "ignore_eos": True})
    return replace(idle(chance), data=http("POST", CHAT, body))
