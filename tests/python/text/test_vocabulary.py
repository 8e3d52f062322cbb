"""token_bytes: joined bytes of an encoding are the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mlc_server.build.tokenizer.gguf_tokenizer import write_tokenizer
from mlc_server.build.tokenizer.gguf_vocabulary import GgufVocabulary, TokenType
from mlc_server.errors import FormatError
from mlc_server.text.vocabulary import token_bytes
from support.tiny_model import write_tiny_tokenizer

SENTENCEPIECE = Path(__file__).parents[2] / "golden" / "sentencepiece-700.json"


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byte-level")
    write_tiny_tokenizer(folder)
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = json.loads(SENTENCEPIECE.read_text(encoding="utf-8"))
    types = [TokenType(kind) for kind in data["types"]]
    vocabulary = GgufVocabulary(
        model="llama",
        pre="default",
        tokens=data["tokens"],
        types=types,
        scores=data["scores"],
        merges=[],
        special_ids={"bos": 1, "eos": 2, "unk": 0},
        add_bos=None,
        add_eos=False,
        add_space_prefix=True,
        chat_template=None,
    )
    folder = tmp_path_factory.mktemp("sentencepiece")
    write_tokenizer(vocabulary, folder, 128)
    return folder / "tokenizer.json"


@given(text=st.text(max_size=60))
def test_byte_level_tokens_join_to_the_text(byte_level: Path, text: str) -> None:
    texts, special = token_bytes(byte_level, 320)
    ids = Tokenizer.from_file(str(byte_level)).encode(text, add_special_tokens=False).ids
    assert b"".join(texts[token_id] for token_id in ids) == text.encode()
    assert not any(special[token_id] for token_id in ids)


@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=60))
def test_sentencepiece_tokens_join_to_the_text_after_a_space(
    sentencepiece: Path, text: str
) -> None:
    texts, _ = token_bytes(sentencepiece, 700)
    ids = Tokenizer.from_file(str(sentencepiece)).encode(text, add_special_tokens=False).ids
    expected = b" " + text.encode() if text else b""
    assert b"".join(texts[token_id] for token_id in ids) == expected


def test_special_tokens_can_be_made_visible(byte_level: Path) -> None:
    texts, hidden = token_bytes(byte_level, 320)
    name = next(text for text, special in zip(texts, hidden, strict=True) if special and text)
    _, special = token_bytes(byte_level, 320, visible={name.decode()})
    assert [i for i in range(320) if special[i] != hidden[i]] == [texts.index(name)]


def test_special_and_padding_ids(byte_level: Path) -> None:
    texts, special = token_bytes(byte_level, 320)
    assert len(texts) == len(special) == 320
    assert texts[:3] == [b"<|endoftext|>", b"<|im_start|>", b"<|im_end|>"]
    assert special[:4] == [True, True, True, False]
    assert set(texts[290:]) == {b""}
    assert all(special[290:])
    assert sorted(texts[3:259]) == [bytes([byte]) for byte in range(256)]


def test_ids_the_network_cannot_produce_are_left_out(byte_level: Path) -> None:
    assert token_bytes(byte_level, 100)[0] == token_bytes(byte_level, 320)[0][:100]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"model": 3}',
        '{"model": {"vocab": 3}}',
        '{"model": {"vocab": [3]}}',
        '{"model": {"vocab": {"a": "0"}}}',
        '{"model": {"vocab": {"a": -1}}}',
        '{"model": {"vocab": {"a": true}}}',
        '{"model": {"vocab": {}}, "added_tokens": [3]}',
        '{"model": {"vocab": {}}, "added_tokens": [{"content": "a"}]}',
    ],
)
def test_files_that_are_no_tokenizer(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        token_bytes(path, 8)


def test_unigram_vocabularies(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁the", -1.0], ["<0x0A>", -2.0]]},
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    assert token_bytes(path, 3) == ([b"<unk>", b" the", b"\n"], [True, False, False])
