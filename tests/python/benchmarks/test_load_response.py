"""The HTTP parser of the load generator: pieces cut anywhere, nothing incomplete accepted."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.response import ChunkParser, EndDetector, EventParser, ResponseError, decode

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
EVENTS = [b'{"a": 1}', "\u00e9\u4e2d".encode(), b"[DONE]"]


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    return [piece for piece in pieces if piece]


CUTS = st.lists(st.integers(0, 10_000), max_size=30)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), CUTS)
def test_a_chunked_body_is_the_same_however_it_is_cut(chunks: list[bytes], places: list[int]):
    parser = ChunkParser()
    body = b"".join(parser.feed(piece) for piece in cut(chunked(*chunks), places))
    assert body == b"".join(chunks)
    assert parser.complete


@given(CUTS)
def test_events_come_whole_and_stamped_with_the_piece_that_ended_them(places: list[int]):
    # Three events in two chunks, the second event cut by the chunk boundary.
    text = b"".join(b"data: %s\n\n" % event for event in EVENTS)
    boundary = 20
    data = HEAD + chunked(text[:boundary], text[boundary:])
    pieces = [(float(index), piece) for index, piece in enumerate(cut(data, places))]
    response = decode(pieces)
    assert [payload for _, payload in response.events] == EVENTS
    second_start = data.index(text[boundary:])
    text_end = 0
    for (at, _), event in zip(response.events, EVENTS, strict=True):
        text_end += len(b"data: \n\n") + len(event)
        expected = second_start + text_end - boundary
        if text_end <= boundary:
            expected = data.index(text[:boundary]) + text_end
        arrived = sum(len(piece) for _, piece in pieces[: int(at) + 1])
        assert arrived - len(pieces[int(at)][1]) < expected <= arrived


@given(CUTS)
def test_the_end_of_a_chunked_response_is_seen_with_its_last_byte(places: list[int]):
    data = HEAD + chunked(*(b"data: %s\n\n" % event for event in EVENTS))
    detector = EndDetector()
    ends = [detector.feed(piece) for piece in cut(data, places)]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert detector.keep_alive


@given(CUTS)
def test_a_body_with_a_length_ends_after_that_many_bytes(places: list[int]):
    body = b'{"error": {"message": "no\\n\\r"}}'
    head = b"HTTP/1.1 400 Bad\r\ncontent-length: %d\r\nConnection: close\r\n\r\n" % len(body)
    detector = EndDetector()
    pieces = cut(head + body, places)
    ends = [detector.feed(piece) for piece in pieces]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert not detector.keep_alive
    response = decode([(0.0, piece) for piece in pieces])
    assert (response.status, response.body) == (400, body)


def test_an_empty_chunked_body_ends():
    assert EndDetector().feed(HEAD + b"0\r\n\r\n")


def test_a_body_without_length_ends_with_the_connection():
    detector = EndDetector()
    assert not detector.feed(b"HTTP/1.0 200 OK\r\n\r\nab")
    assert detector.ends_with_connection
    assert decode([(0.0, b"HTTP/1.0 200 OK\r\n\r\nab")]).body == b"ab"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        HEAD + b"5\r\nhello\r\n",  # no last chunk
        HEAD + b"5\r\nhello!\r\n0\r\n\r\n",  # longer than it says
        HEAD + b"xyz\r\n\r\n0\r\n\r\n",
        HEAD + b"0\r\nTrailer: 1\r\n\r\n",
        HEAD + b"0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
    ],
)
def test_what_is_not_a_whole_response_is_refused(data: bytes):
    with pytest.raises(ResponseError):
        decode([(0.0, data)] if data else [])


def test_events_may_have_several_lines_and_comments():
    payloads = EventParser().feed(b": keep-alive\n\nevent: x\r\ndata: a\r\ndata:b\r\n\r\ndata: c")
    assert payloads == [b"a\nb"]
