"""Vocabularies kept in the cache folder are those of the tokenizer they were made of."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mlc_server.cli import vocabulary_cache
from mlc_server.cli.vocabulary_cache import load_vocabulary
from mlc_server.errors import FormatError
from mlc_server.text import vocabulary as source
from support.tiny_model import write_tiny_tokenizer

SIZE = 320


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    write_tiny_tokenizer(tmp_path)
    return tmp_path / "tokenizer.json"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The tokenizers that have been read for their tokens."""
    paths: list[Path] = []
    original = source.token_bytes

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        paths.append(path)
        return original(path, *args, **options)

    monkeypatch.setattr(vocabulary_cache.source, "token_bytes", counted)
    return paths


def test_it_is_worked_out_once(tokenizer: Path, tmp_path: Path, readings: list[Path]) -> None:
    texts, special = source.token_bytes(tokenizer, SIZE)
    readings.clear()
    for _ in range(2):
        vocabulary = load_vocabulary(tokenizer, SIZE, tmp_path / "cache")
        assert list(vocabulary) == texts
        assert vocabulary.special_ids() == [id_ for id_, hidden in enumerate(special) if hidden]
    assert readings == [tokenizer]
    for beyond in (-1, SIZE):
        with pytest.raises(IndexError, match=f"token {beyond} of {SIZE}"):
            vocabulary[beyond]


def test_another_tokenizer_or_size_is_another_vocabulary(
    tokenizer: Path, tmp_path: Path, readings: list[Path]
) -> None:
    cache = tmp_path / "cache"
    load_vocabulary(tokenizer, SIZE, cache)
    assert len(load_vocabulary(tokenizer, 100, cache)) == 100
    content = json.loads(tokenizer.read_text())
    vocabulary = content["model"]["vocab"]
    name, token_id = list(vocabulary.items())[-1]
    del vocabulary[name]
    vocabulary["changed"] = token_id
    tokenizer.write_text(json.dumps(content))
    assert load_vocabulary(tokenizer, SIZE, cache)[token_id] == b"changed"
    assert len(readings) == 3


def test_what_is_damaged_is_made_anew(
    tokenizer: Path, tmp_path: Path, readings: list[Path]
) -> None:
    cache = tmp_path / "cache"
    good = load_vocabulary(tokenizer, SIZE, cache).serialize()
    [kept] = (cache / "vocabularies").iterdir()
    for content in (b"", good[:-1], load_vocabulary(tokenizer, 100, cache).serialize()):
        kept.write_bytes(content)
        assert load_vocabulary(tokenizer, SIZE, cache).serialize() == good
        assert kept.read_bytes() == good
    assert len(readings) == 5


def test_without_a_cache_it_is_made_each_time(
    tokenizer: Path, tmp_path: Path, readings: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("no folder")
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert len(load_vocabulary(tokenizer, SIZE, tmp_path / "cache")) == SIZE
    assert len(readings) == 2
    assert "the vocabulary is not kept" in caplog.text


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"tokenizer\.json: cannot be read"):
        load_vocabulary(tmp_path / "tokenizer.json", SIZE, tmp_path / "cache")
