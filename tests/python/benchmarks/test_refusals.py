"""refusals.py counts what a server refuses and how long that takes."""

from __future__ import annotations

import json
import sys

import pytest

import refusals
from support.core_server import core_server
from support.fake_server import fake_grammars


def test_refusals_of_fields_and_grammars_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with core_server(grammars=fake_grammars()) as server:
        argv = ["refusals.py", "--url", f"{server.url}/v1", "--rounds", "1", "--json"]
        monkeypatch.setattr(sys, "argv", argv)
        assert refusals.main() == 0
    fields, grammars = json.loads(capsys.readouterr().out)
    sent = len(refusals.VALUES) * 40  # there are more fields
    assert fields["refused"] + fields["answered"] > sent
    assert fields["refused"] > 20 * fields["answered"]
    assert 0 < fields["median_ms"] <= fields["p99_ms"] <= fields["max_ms"]
    assert ": " in fields["slowest"]
    assert grammars["refused"] > 3
    assert grammars["refused"] + grammars["answered"] == len(list(refusals.grammar_trials()))


def test_no_server_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["refusals.py", "--url", "http://127.0.0.1:9"])
    assert refusals.main() == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
