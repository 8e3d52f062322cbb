"""Thousands of hostile requests beside valid ones, and whether the server minds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.hostile.answers import fault, parse_answers
from support.hostile.valid import essence
from support.hostile.wire import Hostile, as_json, http

Valid = tuple[str, dict[str, Any]]

AT_ONCE = 16
# Longer than any deadline of the server: a connection open for so long has been forgotten.
PATIENCE_S = 90.0
_FAULTS_KEPT = 40


@dataclass
class Soak:
    """What came of the hostile requests."""

    count: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    by_family: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def note(self, family: str, hostile: Hostile, data: bytes | None) -> None:
        """`data`: all that the connection brought; None if it stayed open for ever."""
        self.count += 1
        statuses = self.by_family.setdefault(family, Counter())
        if data is None:
            self._fault(family, hostile, "no end of the answer")
            return
        answers = list(parse_answers(data, to_head=hostile.data.startswith(b"HEAD")))
        for answer in answers:
            self.statuses[str(answer.status)] += 1
            statuses[str(answer.status)] += 1
            problem = fault(answer)
            if problem is None and hostile.refused and answer.status < 400:
                problem = f"accepted: {answer.body[:200]!r}"
            if problem is not None:
                self._fault(family, hostile, problem)
        if not answers:
            outcome = "left" if hostile.leave_after is not None else "cut off"
            self.statuses[outcome] += 1
            statuses[outcome] += 1

    def _fault(self, family: str, hostile: Hostile, problem: str) -> None:
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append(f"{family}: {problem}\n    {hostile.data[:400]!r}")

    def table(self) -> str:
        """Lines of family and how often which status was answered."""
        rows = [f"{self.count} hostile requests: {_counts(self.statuses)}"]
        rows += [f"  {name:24} {_counts(self.by_family[name])}" for name in sorted(self.by_family)]
        return "\n".join(rows)


def _counts(counter: Counter[str]) -> str:
    return "  ".join(f"{name} x {count}" for name, count in sorted(counter.items()))


async def send(port: int, hostile: Hostile) -> bytes | None:
    """All that the server says to it; None if it says no end."""
    try:
        return await asyncio.wait_for(_send(port, hostile), PATIENCE_S)
    except asyncio.TimeoutError:
        return None


async def _send(port: int, hostile: Hostile) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        with contextlib.suppress(ConnectionError):  # the server may close before all is sent
            writer.write(hostile.data)
            await writer.drain()
            if hostile.rest:
                await asyncio.sleep(0.02)
                writer.write(hostile.rest)
        with contextlib.suppress(ConnectionError):
            if hostile.leave_after == 0:
                await asyncio.sleep(len(hostile.data) % 7 * 0.01)
                return answer
            while data := await reader.read(65536):
                answer += data
                if hostile.leave_after is not None and len(answer) >= hostile.leave_after:
                    break
        return answer
    finally:
        if hostile.resets:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


async def ask(port: int, request: Valid) -> Any:
    """The essence of a valid request's answer; status and body if it is a refusal."""
    path, body = request
    data = await send(port, Hostile(http("POST", path, as_json(body))))
    assert data is not None, body
    (answer,) = parse_answers(data)
    if answer.status != 200 or not answer.whole:
        return (answer.status, answer.body)
    return essence(answer.body)


async def quiet(port: int, valid: Sequence[Valid]) -> list[Any]:
    """The answers when each request has the server for itself."""
    return [await ask(port, request) for request in valid]


async def mixed(
    port: int,
    hostile: Iterable[tuple[str, Hostile]],
    count: int,
    valid: Sequence[Valid],
    soak: Soak,
) -> list[Any]:
    """`count` hostile requests and the valid ones, evenly mixed, AT_ONCE of them at a time.

    Answers to the valid ones; `soak` notes the others.
    """
    answers: list[Any] = [None] * len(valid)
    source = _merged(hostile, count, len(valid))

    async def work() -> None:
        for item in source:
            if isinstance(item, int):
                answers[item] = await ask(port, valid[item])
            else:
                family, request = item
                soak.note(family, request, await send(port, request))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return answers


def _merged(
    hostile: Iterable[tuple[str, Hostile]], count: int, num_valid: int
) -> Iterator[tuple[str, Hostile] | int]:
    """Hostile requests, and between them the numbers of the valid ones, evenly."""
    given = 0
    for number, item in enumerate(hostile):
        while given * count < num_valid * number:
            yield given
            given += 1
        yield item
    yield from range(given, num_valid)
