"""Figures of the load generator: definitions of `vllm bench serve`, and when there are none."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.client import Exchange
from loadgen.metrics import ClientLoad, is_good, parse_goodput, percentile, summarize
from loadgen.results import RequestResult, result_of

IDLE = ClientLoad(cpu_percent=5.0, lag_p99_ms=None, lag_limit_ms=50.0)


def result(sent_at: float = 0.0, ttft: float = 0.1, e2el: float = 0.4, tokens: int = 4):
    gaps = [(e2el - ttft) / (tokens - 1)] * (tokens - 1) if tokens > 1 else []
    return RequestResult(sent_at, ttft, e2el, gaps, 10, tokens, tokens, counted_by_usage=True)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_those_of_numpy(values: list[float], percent: float):
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-6)


def test_the_percentile_of_nothing_is_no_number():
    assert math.isnan(percentile([], 50))


def test_time_per_output_token_leaves_the_first_one_out():
    assert result(ttft=0.1, e2el=0.4, tokens=4).tpot_s == pytest.approx(0.1)
    assert result(ttft=0.1, e2el=0.1, tokens=1).tpot_s is None


def test_goodput_counts_requests_that_keep_every_limit():
    limits = parse_goodput(["ttft:500", "tpot:50"])
    assert limits == {"ttft": 500.0, "tpot": 50.0}
    assert is_good(result(ttft=0.5, e2el=0.64, tokens=4), limits)
    assert not is_good(result(ttft=0.501, e2el=0.65, tokens=4), limits)
    assert not is_good(result(ttft=0.5, e2el=0.66, tokens=4), limits)
    assert not is_good(RequestResult(0.0, error="refused"), limits)
    results = [result(0.0, ttft=0.1, e2el=0.2), result(1.0, ttft=0.9, e2el=1.0)]
    summary = summarize("x", results, output_len=4, goodput_ms=limits, client=IDLE)
    assert summary.goodput_s == pytest.approx(1 / 2)  # one of two, in two seconds


@pytest.mark.parametrize("word", ["ttft", "ttft:", "ttft:fast", "itl:5", "ttft:-1", "ttft:nan"])
def test_goodput_limits_must_make_sense(word: str):
    with pytest.raises(ValueError, match=word):
        parse_goodput([word])


def test_rates_are_over_the_time_from_first_sending_to_last_frame():
    results = [result(10.0, e2el=1.0, tokens=4), result(11.0, e2el=1.0, tokens=6)]
    summary = summarize("x", results, output_len=4, goodput_ms={}, client=IDLE)
    assert summary.duration_s == pytest.approx(2.0)
    assert summary.output_tokens_s == pytest.approx(5.0)
    assert summary.requests_s == pytest.approx(1.0)
    assert summary.goodput_s is None
    assert "1 answers do not have the 4 tokens" in summary.warnings[0]


@pytest.mark.parametrize(
    "client",
    [
        ClientLoad(cpu_percent=95.0, lag_p99_ms=None, lag_limit_ms=50.0),
        ClientLoad(cpu_percent=5.0, lag_p99_ms=51.0, lag_limit_ms=50.0),
    ],
)
def test_a_client_that_was_the_limit_gives_no_figures(client: ClientLoad):
    summary = summarize("x", [result()], output_len=4, goodput_ms={}, client=client)
    assert "the client" in (summary.invalid or "")
    assert "output_tokens_s" not in summary.as_dict()


def test_a_run_without_answers_gives_no_figures():
    failed = [RequestResult(0.0, error="refused")]
    summary = summarize("x", failed, output_len=4, goodput_ms={}, client=IDLE)
    assert summary.invalid == "no request succeeded: refused"


def test_json_has_no_nan():
    summary = summarize("x", [result(tokens=1)], output_len=1, goodput_ms={}, client=IDLE)
    assert json.loads(json.dumps(summary.as_dict(), allow_nan=False))["latency_ms"]["tpot"]


def stream(*events: object) -> Exchange:
    """Event i arrives i + 1 seconds after the request was sent, at 100."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    pieces = [(100.5, head)]
    for index, event in enumerate(events):
        text = event if isinstance(event, str) else json.dumps(event)
        data = f"data: {text}\n\n".encode()
        pieces.append((101.0 + index, b"%x\r\n%s\r\n" % (len(data), data)))
    pieces.append((200.0, b"0\r\n\r\n"))
    return Exchange(100.0, pieces, None)


def chat(content: str | None, reason: str | None = None):
    delta = {"role": "assistant"} if content is None else {"content": content}
    return {"choices": [{"delta": delta, "finish_reason": reason}]}


def test_a_chat_stream_is_timed_from_its_first_text_to_its_last():
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
    got = result_of(stream(chat(None), chat("a"), chat("bc"), chat("", "length"), usage, "[DONE]"))
    assert got.error is None
    assert (got.ttft_s, got.e2el_s, got.itl_s) == (2.0, 3.0, [1.0])
    assert (got.prompt_tokens, got.output_tokens, got.frames) == (7, 5, 2)


def test_frames_are_counted_where_there_is_no_usage():
    got = result_of(
        stream(
            {"choices": [{"text": "a"}]}, {"choices": [{"text": "b", "finish_reason": "length"}]}
        )
    )
    assert (got.output_tokens, got.counted_by_usage) == (2, False)
    summary = summarize("x", [got], output_len=2, goodput_ms={}, client=IDLE)
    assert "no usage" in summary.warnings[0]


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        (stream(chat("a")), "without a finish_reason"),
        (stream(chat("a"), {"error": {"message": "out of pages"}}), "out of pages"),
        (stream("{"), "JSONDecodeError"),
        (Exchange(0.0, [], "no answer within 5 s"), "no answer"),
        (
            Exchange(0.0, [(1.0, b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy")], None),
            "503: b",
        ),
    ],
)
def test_what_went_wrong_is_kept_as_the_error(exchange: Exchange, message: str):
    assert message in (result_of(exchange).error or "")
