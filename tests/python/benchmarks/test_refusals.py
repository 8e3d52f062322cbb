"""refusals.py counts what a server refuses and how long that takes."""

from __future__ import annotations

import itertools
import json
import sys

import pytest

import refusals
from support.core_server import core_server
from support.fake_server import fake_grammars


def test_refusals_of_fields_and_grammars_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with core_server(grammars=fake_grammars(), step_ns=2_000_000) as server:
        argv = ["refusals.py", "--url", f"{server.url}/v1", "--rounds", "1", "--json"]
        monkeypatch.setattr(sys, "argv", [*argv, "--burst", "3", "--streams", "2"])
        assert refusals.main() == 0
    fields, grammars, bursts, trickle, alone, beside = json.loads(capsys.readouterr().out)
    sent = len(refusals.VALUES) * 40  # there are more fields
    assert fields["refused"] + fields["answered"] > sent
    assert fields["refused"] > 20 * fields["answered"]
    assert 0 < fields["median_ms"] <= fields["p99_ms"] <= fields["max_ms"]
    assert ": " in fields["slowest"]
    assert grammars["refused"] > 3
    sent = len(list(refusals.grammar_trials(itertools.count())))
    for part, times in ((grammars, 1), (bursts, 3)):
        assert part["refused"] + part["busy"] + part["answered"] == times * sent
    assert trickle["refused"] + trickle["busy"] + trickle["answered"] > 0
    for part in (alone, beside):
        assert part["tokens"] > refusals.STREAM_TOKENS
        assert 0 <= part["p50_ms"] <= part["p99_ms"] <= part["max_ms"]


def test_no_server_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["refusals.py", "--url", "http://127.0.0.1:9"])
    assert refusals.main() == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
