"""Prompts that ask for the text between a prefix and a suffix, as code models are trained to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc_server.text.tokenizer import Tokenizer

# The tokens before prefix, suffix and middle, as families of models spell them.
_SPELLINGS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite, StableCode
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001 - DeepSeek-Coder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<PRE>", "<SUF>", "<MID>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)
# Codestral's prompt begins with the suffix and has no token before the middle.
_SUFFIX_FIRST = ("[PREFIX]", "[SUFFIX]")
# How tokenizer_config.json names them if the model's file told which they are.
TOKEN_KEYS = ("fim_pre_token", "fim_suf_token", "fim_mid_token")
# What ends the middle besides EOS: the next file, or padding.
_ENDS = (
    "▁<EOT>",
    "<EOT>",
    "<|EOT|>",
    "<|endoftext|>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<|file_sep|>",
    "<|file_separator|>",
    "<|repo_name|>",
)


@dataclass(frozen=True)
class FillInMiddle:
    """A model's way of asking for a middle. `end_ids` end it. With `middle_id` None the suffix
    comes first and the model goes on with the prefix."""

    prefix_id: int
    suffix_id: int
    middle_id: int | None
    end_ids: tuple[int, ...] = ()

    @classmethod
    def find(cls, tokenizer: Tokenizer, token_config: Mapping[str, Any]) -> FillInMiddle | None:
        """By what tokenizer_config.json says or else by known spellings; None if the tokenizer has
        no such tokens."""

        def ids_of(tokens: Sequence[object]) -> list[int]:
            """The ids of those among `tokens` that there are."""
            ids = [tokenizer.id_of(token) for token in tokens if isinstance(token, str)]
            return [id_ for id_ in ids if id_ is not None]

        ends = tuple(ids_of(_ENDS))
        for spelling in ([token_config.get(key) for key in TOKEN_KEYS], *_SPELLINGS):
            ids = ids_of(spelling)
            if len(ids) == len(TOKEN_KEYS):
                return cls(ids[0], ids[1], ids[2], ends)
        ids = ids_of(_SUFFIX_FIRST)
        return cls(ids[0], ids[1], None, ends) if len(ids) == len(_SUFFIX_FIRST) else None

    def prompt(
        self, first_ids: Sequence[int], prefix_ids: Sequence[int], suffix_ids: Sequence[int]
    ) -> list[int]:
        """The prompt for the middle between a prefix and a suffix; `first_ids` is BOS, if any."""
        prefix, suffix = (self.prefix_id, *prefix_ids), (self.suffix_id, *suffix_ids)
        if self.middle_id is None:
            return [*first_ids, *suffix, *prefix]
        return [*first_ids, *prefix, *suffix, self.middle_id]
