"""Which models can fill in a middle, and the prompts that ask them to."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as HfTokenizer

from mlc_server.text.fill_in_middle import FillInMiddle
from mlc_server.text.tokenizer import Tokenizer

WORDS = ["<unk>", "<s>", "▁a", "a", "▁", "b", "☺", "\n"]


def tokenizer_with(*tokens: str, special: bool = True) -> Tokenizer:
    """Ids from 8 are `tokens`. Text is cut into letters as sentencepiece does, with BOS."""
    vocab = {word: index for index, word in enumerate(WORDS)}
    inner = HfTokenizer(models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    strip = decoders.Strip(" ", 1, 0)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), strip])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair=None, special_tokens=[("<s>", 1)]
    )
    added = [AddedToken(token, special=special, normalized=False) for token in tokens]
    inner.add_tokens(added)
    return Tokenizer(inner)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"), FillInMiddle(8, 10, 9)),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), FillInMiddle(8, 9, 10)),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), FillInMiddle(8, 9, 10)),  # noqa: RUF001
        (("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"), FillInMiddle(8, 9, 10, (11,))),
        (("[PREFIX]", "[SUFFIX]"), FillInMiddle(8, 9, None)),
        (
            ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>", "<|file_sep|>"),
            FillInMiddle(8, 9, 10, (11, 12)),
        ),
        (("<fim_prefix>", "<fim_suffix>"), None),
        (("[PREFIX]",), None),
        ((), None),
    ],
)
def test_the_tokenizer_tells_whether_a_middle_can_be_filled_in(
    tokens: tuple[str, ...], expected: FillInMiddle | None
) -> None:
    for special in (True, False):
        tokenizer = tokenizer_with(*tokens, special=special)
        assert FillInMiddle.find(tokenizer, {}) == expected


def test_what_the_models_file_says_goes_first() -> None:
    tokenizer = tokenizer_with("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<P>", "<S>", "<M>")
    said: Any = {"fim_pre_token": "<P>", "fim_suf_token": "<S>", "fim_mid_token": "<M>"}
    assert FillInMiddle.find(tokenizer, said) == FillInMiddle(11, 12, 13)
    said["fim_mid_token"] = "<absent>"
    assert FillInMiddle.find(tokenizer, said) == FillInMiddle(8, 9, 10)


def test_prompts() -> None:
    assert FillInMiddle(8, 9, 10).prompt([1], [2, 3], [5]) == [1, 8, 2, 3, 9, 5, 10]
    assert FillInMiddle(8, 9, None).prompt([1], [2, 3], [5]) == [1, 9, 5, 8, 2, 3]


def test_a_suffix_gets_no_leading_space() -> None:
    tokenizer = tokenizer_with()
    assert tokenizer.encode("ab") == [2, 5]
    assert tokenizer.encode_inside("ab") == [3, 5]
    assert tokenizer.encode_inside(" ab") == [2, 5]
    assert tokenizer.encode_inside("") == []


def test_what_comes_before_a_text() -> None:
    assert tokenizer_with().first_ids == [1]
    inner = HfTokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    assert Tokenizer(inner).first_ids == []
    assert Tokenizer(inner).encode_inside("ab") == [0, 1]
