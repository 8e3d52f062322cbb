"""Tokenizers rebuilt from GGUF metadata encode as the originals do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mlc_server.build.gguf_file import GgufFile, read_gguf
from mlc_server.build.tokenizer.gguf_tokenizer import build_tokenizer, write_tokenizer
from mlc_server.build.tokenizer.gguf_vocabulary import (
    GgufVocabulary,
    TokenType,
    read_gguf_vocabulary,
)
from mlc_server.build.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from mlc_server.errors import FormatError
from mlc_server.text.fill_in_middle import FillInMiddle
from mlc_server.text.tokenizer import Tokenizer as RequestTokenizer
from support.import_files import random_weights, write_gguf
from support.tiny_model import byte_alphabet, tiny_config, write_tiny_tokenizer

# Pieces, scores and types of a 700-piece sentencepiece BPE with byte fallback, and what
# sentencepiece 0.2.3 encodes some texts to.
SENTENCEPIECE = Path(__file__).parents[2] / "golden" / "sentencepiece-700.json"
TEXTS = [
    "Hello the world, there!",
    "  two  spaces\n\nand lines\r\n\t",
    "naïve Größe 日本語 😀",
    "<|im_start|>user\nhi<|im_end|>\n",
    "12345 3.14 it's I'LL we've",
    "",
]


def _vocabulary(**changes: Any) -> GgufVocabulary:
    """A byte-level vocabulary: bytes, two specials and a few merges."""
    tokens = [*byte_alphabet(), "<s>", "</s>", "he", "hel", "hell", "hello", "12", "123"]
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "types": [TokenType.NORMAL] * 256 + [TokenType.CONTROL] * 2 + [TokenType.NORMAL] * 6,
        "scores": [],
        "merges": ["h e", "he l", "hel l", "1 2", "12 3"],
        "special_ids": {"bos": 256, "eos": 257},
        "add_bos": None,
        "add_eos": False,
        "add_space_prefix": True,
        "chat_template": None,
    }
    return GgufVocabulary(**{**values, **changes})


def _encode(vocabulary: GgufVocabulary, text: str, *, special: bool = False) -> list[str]:
    tokenizer = Tokenizer.from_str(json.dumps(build_tokenizer(vocabulary)))
    return tokenizer.encode(text, add_special_tokens=special).tokens


def test_rebuilt_tokenizer_encodes_as_the_file_it_came_from(tmp_path: Path) -> None:
    config = tiny_config()
    gguf = read_gguf(write_gguf(tmp_path / "m.gguf", config, random_weights(config)))
    vocabulary = read_gguf_vocabulary(gguf, config.vocab_size)
    write_tokenizer(vocabulary, tmp_path, 128)
    (tmp_path / "original").mkdir()
    write_tiny_tokenizer(tmp_path / "original")
    rebuilt = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    original = Tokenizer.from_file(str(tmp_path / "original" / "tokenizer.json"))
    for text in TEXTS:
        ids = original.encode(text, add_special_tokens=False).ids
        assert rebuilt.encode(text, add_special_tokens=False).ids == ids
        assert rebuilt.decode(ids, skip_special_tokens=False) == text


def test_sentencepiece_is_matched_piece_by_piece() -> None:
    data = json.loads(SENTENCEPIECE.read_text(encoding="utf-8"))
    vocabulary = _vocabulary(
        model="llama",
        tokens=data["tokens"],
        types=[TokenType(kind) for kind in data["types"]],
        scores=data["scores"],
        merges=[],
        special_ids={"bos": 1, "eos": 2, "unk": 0},
    )
    tokenizer = Tokenizer.from_str(json.dumps(build_tokenizer(vocabulary)))
    for text, ids in data["cases"]:
        assert tokenizer.encode(text, add_special_tokens=False).ids == ids, text
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")
    assert tokenizer.encode("x").ids[0] == 1


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_pre_tokenizer_keeps_the_text(pre: str) -> None:
    """Splitting loses nothing, whatever the pattern leaves unmatched."""
    tokenizer = Tokenizer.from_str(json.dumps(build_tokenizer(_vocabulary(pre=pre))))
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_split_as_each_family_does() -> None:
    assert _encode(_vocabulary(pre="gpt-2"), "12345") == ["123", "4", "5"]
    assert _encode(_vocabulary(pre="smollm"), "12345") == ["1", "2", "3", "4", "5"]
    assert _encode(_vocabulary(pre="qwen2"), "12345") == ["1", "2", "3", "4", "5"]
    assert _encode(_vocabulary(pre="llama-bpe"), "12345") == ["123", "4", "5"]


def test_ignore_merges_keeps_a_word_that_is_a_token() -> None:
    """`hello` is a token that no merge reaches."""
    assert _encode(_vocabulary(pre="gpt-2"), "hello") == ["hell", "o"]
    assert _encode(_vocabulary(pre="llama-bpe"), "hello") == ["hello"]


def test_bos_follows_the_file_then_the_family() -> None:
    assert _encode(_vocabulary(pre="gpt-2"), "h", special=True) == ["h"]
    assert _encode(_vocabulary(pre="llama-bpe"), "h", special=True) == ["<s>", "h"]
    assert _encode(_vocabulary(pre="llama-bpe", add_bos=False), "h", special=True) == ["h"]
    both = _vocabulary(pre="gpt-2", add_bos=True, add_eos=True)
    assert _encode(both, "h", special=True) == ["<s>", "h", "</s>"]


def test_control_tokens_are_special_and_end_ids_are_found() -> None:
    vocabulary = _vocabulary()
    assert _encode(vocabulary, "h</s>h") == ["h", "</s>", "h"]
    assert vocabulary.end_ids == (257,)
    assert _vocabulary(special_ids={}).end_ids == (257,)  # by its well-known text
    assert _vocabulary(special_ids={"eot": 5}).end_ids == (5, 257)


def test_user_defined_tokens_are_found_in_text_but_not_special() -> None:
    types = _vocabulary().types
    types[258] = TokenType.USER_DEFINED
    tokenizer = build_tokenizer(_vocabulary(types=types))
    added = {token["content"]: token["special"] for token in tokenizer["added_tokens"]}
    assert added == {"<s>": True, "</s>": True, "he": False}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "bert"}, "tokenizer.ggml.model"),
        ({"pre": "unheard-of"}, "tokenizer.ggml.pre"),
        ({"merges": ["nospace"]}, "tokenizer.ggml.merges"),
        ({"merges": ["absent token"]}, "tokenizer.ggml"),
        ({"model": "llama"}, "tokenizer.ggml.scores"),
    ],
)
def test_unusable_vocabularies(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FormatError, match=field):
        build_tokenizer(_vocabulary(**changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens", None),
        ("tokens", "text"),
        ("tokens", ["a"] * 999),
        ("model", None),
        ("model", 3),
        ("token_type", ["a"]),
        ("bos_token_id", 99),
        ("eos_token_id", -1),
        ("eos_token_id", "2"),
        ("add_bos_token", 1),
        ("scores", [0.5]),
        ("merges", "a b"),
    ],
)
def test_wrong_metadata_names_its_key(tmp_path: Path, key: str, value: Any) -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "c"]}
    gguf = GgufFile(tmp_path / "m.gguf", {**metadata, f"tokenizer.ggml.{key}": value}, {})
    with pytest.raises(FormatError, match=rf"tokenizer\.ggml\.{key}"):
        read_gguf_vocabulary(gguf, vocab_size=9)


@pytest.mark.parametrize(
    "keys",
    [
        ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id"),
        ("prefix_token_id", "suffix_token_id", "middle_token_id"),
    ],
)
def test_tokens_around_a_middle_are_kept(tmp_path: Path, keys: tuple[str, ...]) -> None:
    """Whatever they are called: newer files name the ids so, older ones otherwise."""
    tokens = [*byte_alphabet(), "<before>", "<after>", "<between>"]
    metadata: dict[str, Any] = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens}
    metadata |= {f"tokenizer.ggml.{key}": 256 + place for place, key in enumerate(keys)}
    vocabulary = read_gguf_vocabulary(GgufFile(tmp_path / "m.gguf", metadata, {}), len(tokens))
    write_tokenizer(vocabulary, tmp_path, 128)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    tokenizer = RequestTokenizer.from_folder(tmp_path)
    assert FillInMiddle.find(tokenizer, config) == FillInMiddle(256, 257, 258)
    assert FillInMiddle.find(tokenizer, {}) is None
