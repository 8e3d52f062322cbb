"""Long texts are counted in pieces before they are encoded whole."""

from __future__ import annotations

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_server.build.sources import DEFAULT_MODEL, prepare_model
from mlc_server.cli.common import default_cache_dir
from mlc_server.text.tokenizer import Tokenizer, TooManyTokens
from support.byte_model import byte_tokenizer

LENGTHS = st.integers(0, 70_000)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(prepare_model(DEFAULT_MODEL, default_cache_dir()))


@settings(max_examples=25)
@given(LENGTHS, LENGTHS)
def test_what_fits_comes_out_whole_and_what_is_clearly_too_long_does_not(
    length: int, most: int
) -> None:
    bytewise = byte_tokenizer()
    text = "x" * length
    if length > 2 * most + (1 << 14):
        with pytest.raises(TooManyTokens) as caught:
            bytewise.encode(text, most=most)
        assert most < caught.value.count <= length
    elif length <= most:
        assert bytewise.encode(text, most=most) == [ord("x")] * length


@pytest.mark.model
@pytest.mark.xdist_group("default_model")
@pytest.mark.parametrize("word", ["a ", "apple ", "=", " ", "\n", "é", "\N{GRINNING FACE}", "x1"])
def test_pieces_count_about_as_many_tokens_as_the_text_has(word: str, tokenizer: Tokenizer) -> None:
    """So that no text is refused that would fit."""
    text = word * (100_000 // len(word))
    count = len(tokenizer.encode(text))
    assert tokenizer.encode(text, most=count) == tokenizer.encode(text)
    if count > 10_000:
        with pytest.raises(TooManyTokens):
            tokenizer.encode(text, most=count // 2)


@pytest.mark.model
@pytest.mark.xdist_group("default_model")
def test_a_refused_text_takes_no_memory(tokenizer: Tokenizer) -> None:
    text = "a " * 1_000_000  # its encoding takes 400 MiB
    process = psutil.Process()
    before = process.memory_info().rss
    with pytest.raises(TooManyTokens):
        tokenizer.encode(text, most=8192)
    assert process.memory_info().rss - before < 64 << 20
