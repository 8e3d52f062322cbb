"""The bytes each token of a tokenizer.json stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mlc_server.errors import FormatError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK = "\u2581"  # sentencepiece's visible space


def byte_level_alphabet() -> dict[str, int]:
    """Byte-level BPE's characters to the bytes they stand for (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


def token_bytes(
    path: Path, vocab_size: int, *, visible: Collection[str] = ()
) -> tuple[list[bytes], list[bool]]:
    """(bytes, is_special) of ids 0 .. vocab_size - 1; reads a tokenizer.json.

    A token may be part of a UTF-8 character. Special tokens have their written form as bytes; those
    among `visible` count as ordinary ones. Ids that the tokenizer does not have are empty and
    special: they never become text. A sentencepiece token keeps its leading space. Ids from
    `vocab_size` on, which the network cannot produce, are left out. Raises FormatError for a file
    that is not a tokenizer.
    """
    tokenizer = _read(path)
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise _error(path, "field model must be an object", model)
    decode = _byte_level_decoder() if _uses_byte_level(tokenizer) else _decode_sentencepiece
    texts: list[bytes] = [b""] * vocab_size
    special = [True] * vocab_size
    for token, token_id in _vocabulary(path, model).items():
        index = _checked_id(path, token, token_id)
        if index < vocab_size:
            texts[index] = decode(token)
            special[index] = False
    for added in tokenizer.get("added_tokens") or ():
        if not isinstance(added, dict) or not isinstance(added.get("content"), str):
            raise _error(path, "field added_tokens must hold objects with content", added)
        index = _checked_id(path, added["content"], added.get("id"))
        if index < vocab_size:
            texts[index] = added["content"].encode("utf-8", "replace")
            special[index] = added.get("special") is True and added["content"] not in visible
    return texts, special


def _read(path: Path) -> Mapping[str, Any]:
    try:
        tokenizer = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _error(path, "cannot be read", str(error)) from error
    if not isinstance(tokenizer, dict):
        raise _error(path, "must hold a JSON object", type(tokenizer).__name__)
    return tokenizer


def _vocabulary(path: Path, model: Mapping[str, Any]) -> Mapping[str, Any]:
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        return vocab
    if isinstance(vocab, list):  # Unigram: [token, score] in id order
        pairs = all(
            isinstance(entry, list) and entry and isinstance(entry[0], str) for entry in vocab
        )
        if pairs:
            return {entry[0]: token_id for token_id, entry in enumerate(vocab)}
    raise _error(
        path, "field model.vocab must be an object or a list of pairs", type(vocab).__name__
    )


def _checked_id(path: Path, token: str, token_id: object) -> int:
    if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
        raise _error(path, f"the id of token {token[:40]!r} must be an integer from 0", token_id)
    return token_id


def _uses_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a ByteLevel step stands anywhere among its decoders or pre-tokenizers."""
    steps = [tokenizer.get("decoder"), tokenizer.get("pre_tokenizer")]
    while steps:
        step = steps.pop()
        if not isinstance(step, dict):
            continue
        if step.get("type") == "ByteLevel":
            return True
        for key in ("decoders", "pretokenizers"):
            nested = step.get(key)
            steps.extend(nested if isinstance(nested, list) else [])
    return False


def _byte_level_decoder() -> Callable[[str], bytes]:
    alphabet = byte_level_alphabet()
    table = {ord(char): byte for char, byte in alphabet.items()}
    # Characters outside the alphabet must not pass for bytes.
    table.update({code: 0xFFFF for code in range(256) if chr(code) not in alphabet})

    def decode(token: str) -> bytes:
        try:
            return token.translate(table).encode("latin-1")
        except UnicodeEncodeError:  # a token that never went through the alphabet
            return token.encode("utf-8", "replace")

    return decode


def _decode_sentencepiece(token: str) -> bytes:
    match = _BYTE_TOKEN.fullmatch(token)
    if match:
        return bytes([int(match[1], 16)])
    return token.replace(_SPACE_MARK, " ").encode("utf-8", "replace")


def _error(path: Path, problem: str, value: object) -> FormatError:
    return FormatError(
        f"{path.name}: {problem}",
        seen=repr(value)[:120],
        hint="copy tokenizer.json from the original model again",
    )
