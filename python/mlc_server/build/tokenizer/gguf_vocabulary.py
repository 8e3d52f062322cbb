"""The vocabulary fields of a GGUF file, checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mlc_server.build.fields import Fields
from mlc_server.build.gguf_file import GgufFile

# Written by llama.cpp's converters for every model family; any of them ends a turn.
_END_TEXTS = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "</s>",
    }
)


# Tokens before prefix, suffix and middle, where a model can fill in a middle: the key of this
# package and those of GGUF.
FIM_KEYS = {
    "fim_pre": ("prefix", "fim_pre"),
    "fim_suf": ("suffix", "fim_suf"),
    "fim_mid": ("middle", "fim_mid"),
}


class TokenType(IntEnum):
    """GGUF's `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class GgufVocabulary:
    """Tokens by id with their types; `scores` only for sentencepiece, `merges` only for BPE."""

    model: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    scores: list[float]
    merges: list[str]
    special_ids: dict[str, int]
    add_bos: bool | None
    add_eos: bool
    add_space_prefix: bool
    chat_template: str | None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a turn: those the file names and the control tokens known to."""
        named = {self.special_ids[key] for key in ("eos", "eot", "eom") if key in self.special_ids}
        known = {
            token_id
            for token_id, token in enumerate(self.tokens)
            if token in _END_TEXTS and self.types[token_id] is TokenType.CONTROL
        }
        return tuple(sorted(named | known))


def read_gguf_vocabulary(gguf: GgufFile, vocab_size: int) -> GgufVocabulary:
    """Raises FormatError naming the metadata key."""
    prefix = "tokenizer.ggml."
    data = {key.removeprefix(prefix): value for key, value in gguf.metadata.items()}
    fields = Fields(data, gguf.path.name, prefix)
    tokens = _strings(fields, "tokens", required=True)
    if len(tokens) > vocab_size:
        raise fields.error("tokens", f"must be at most the {vocab_size} embeddings", len(tokens))
    special_ids = {
        name: fields.integer(f"{key}_token_id", 0, len(tokens) - 1)
        for name, key in (
            ("bos", "bos"),
            ("eos", "eos"),
            ("eot", "eot"),
            ("eom", "eom"),
            ("unk", "unknown"),
            ("pad", "padding"),
            # Newer names last, so that they win.
            *((name, key) for name, keys in FIM_KEYS.items() for key in keys),
        )
        if fields.has(f"{key}_token_id")
    }
    template = gguf.metadata.get("tokenizer.chat_template")
    return GgufVocabulary(
        model=fields.text("model"),
        pre=fields.text("pre", "default"),
        tokens=tokens,
        types=_types(fields, len(tokens)),
        scores=_numbers(fields, "scores", len(tokens), np.dtype(np.float32)),
        merges=_strings(fields, "merges", required=False),
        special_ids=special_ids,
        add_bos=fields.boolean("add_bos_token", default=False)
        if fields.has("add_bos_token")
        else None,
        add_eos=fields.boolean("add_eos_token", default=False),
        add_space_prefix=fields.boolean("add_space_prefix", default=True),
        chat_template=template if isinstance(template, str) else None,
    )


def _strings(fields: Fields, name: str, *, required: bool) -> list[str]:
    if not fields.has(name):
        if required:
            raise fields.missing(name)
        return []
    value = fields.data[name]
    # An empty array does not tell that it was of strings.
    if not isinstance(value, list) and not (isinstance(value, np.ndarray) and value.size == 0):
        raise fields.error(name, "must be an array of strings", value)
    return list(value)


def _numbers(fields: Fields, name: str, count: int, dtype: np.dtype[np.float32]) -> list[float]:
    value = fields.data.get(name)
    if value is None:
        return []
    if not isinstance(value, np.ndarray) or len(value) != count or value.dtype != dtype:
        raise fields.error(name, f"must be {count} numbers of type {dtype}", value)
    numbers: list[float] = value.tolist()
    return numbers


def _types(fields: Fields, count: int) -> list[TokenType]:
    value = fields.data.get("token_type")
    if value is None:
        return [TokenType.NORMAL] * count
    if not isinstance(value, np.ndarray) or len(value) != count or value.dtype.kind not in "iu":
        raise fields.error("token_type", f"must be {count} integers", value)
    known = {int(kind): kind for kind in TokenType}
    # 0 is "undefined" in old files: an ordinary token.
    return [known.get(number, TokenType.NORMAL) for number in value.tolist()]
