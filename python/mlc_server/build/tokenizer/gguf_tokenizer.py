"""tokenizer.json and tokenizer_config.json from a GGUF vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mlc_server.build.tokenizer.gguf_vocabulary import FIM_KEYS, GgufVocabulary, TokenType
from mlc_server.build.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from mlc_server.build.tokenizer.sentencepiece import merges_from_scores
from mlc_server.errors import FormatError

SPACE_MARK = "\u2581"
_BYTE_LEVEL_STEP = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def build_tokenizer(vocabulary: GgufVocabulary) -> dict[str, Any]:
    """The content of a tokenizer.json that encodes as the original did; raises FormatError."""
    if vocabulary.model == "gpt2":
        tokenizer = _byte_level_bpe(vocabulary)
    elif vocabulary.model == "llama":
        tokenizer = _sentencepiece_bpe(vocabulary)
    else:
        raise _error("tokenizer.ggml.model", "is not supported (gpt2, llama)", vocabulary.model)
    tokenizer["added_tokens"] = _added_tokens(vocabulary)
    try:
        Tokenizer.from_str(json.dumps(tokenizer))
    except Exception as error:  # tokenizers raises plain Exception for every kind of failure
        raise _error("tokenizer.ggml", "does not make a tokenizer", str(error)[:120]) from error
    return tokenizer


def write_tokenizer(vocabulary: GgufVocabulary, folder: Path, context_window: int) -> list[str]:
    """Writes both files into `folder` and returns their names."""
    tokenizer = build_tokenizer(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    settings: dict[str, Any] = {
        "add_bos_token": tokenizer["post_processor"] is not None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_window,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name in ("bos", "eos", "unk", "pad", *FIM_KEYS):
        if name in vocabulary.special_ids:
            settings[f"{name}_token"] = vocabulary.tokens[vocabulary.special_ids[name]]
    if vocabulary.chat_template is not None:
        settings["chat_template"] = vocabulary.chat_template
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text)
    return ["tokenizer.json", "tokenizer_config.json"]


def _byte_level_bpe(vocabulary: GgufVocabulary) -> dict[str, Any]:
    pre = PRE_TOKENIZERS.get(vocabulary.pre)
    if pre is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise _error("tokenizer.ggml.pre", f"is not supported ({known})", vocabulary.pre)
    add_bos = pre.adds_bos if vocabulary.add_bos is None else vocabulary.add_bos
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "NFC"} if pre.normalizes_nfc else None,
        "pre_tokenizer": pre.to_json(),
        "post_processor": _post_processor(vocabulary, add_bos),
        "decoder": _BYTE_LEVEL_STEP,
        "model": _bpe(
            vocabulary,
            merges=[_split_merge(merge) for merge in vocabulary.merges],
            ignore_merges=pre.ignore_merges,
        ),
    }


def _sentencepiece_bpe(vocabulary: GgufVocabulary) -> dict[str, Any]:
    """Merges in order of score do what sentencepiece's search by score does."""
    if len(vocabulary.scores) != len(vocabulary.tokens):
        raise _error("tokenizer.ggml.scores", "must have one score a token", vocabulary.scores[:4])
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    normalizers = [{"type": "Prepend", "prepend": SPACE_MARK}, mark]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if vocabulary.add_space_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    has_bytes = TokenType.BYTE in vocabulary.types
    unknown = vocabulary.special_ids.get("unk", 0)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": normalizers if vocabulary.add_space_prefix else [mark],
        },
        "pre_tokenizer": None,
        "post_processor": _post_processor(vocabulary, vocabulary.add_bos is not False),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            **_bpe(vocabulary, merges=merges_from_scores(vocabulary), ignore_merges=False),
            "unk_token": vocabulary.tokens[unknown],
            "fuse_unk": True,
            "byte_fallback": has_bytes,
        },
    }


def _bpe(
    vocabulary: GgufVocabulary, *, merges: list[tuple[str, str]], ignore_merges: bool
) -> dict[str, Any]:
    ids: dict[str, int] = {}
    for token_id, token in enumerate(vocabulary.tokens):
        if vocabulary.types[token_id] is not TokenType.UNUSED:
            ids.setdefault(token, token_id)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": ids,
        "merges": merges,
    }


def _split_merge(merge: str) -> tuple[str, str]:
    """At the first space that is not the first character, as llama.cpp does."""
    space = merge.find(" ", 1)
    if space < 0:
        raise _error("tokenizer.ggml.merges", "must hold pairs parted by a space", merge)
    return merge[:space], merge[space + 1 :]


def _added_tokens(vocabulary: GgufVocabulary) -> list[dict[str, Any]]:
    """Tokens found in text before anything else; control tokens are special."""
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    return [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": vocabulary.types[token_id] in special,
        }
        for token_id, token in enumerate(vocabulary.tokens)
        if token and vocabulary.types[token_id] in {*special, TokenType.USER_DEFINED}
    ]


def _post_processor(vocabulary: GgufVocabulary, add_bos: bool) -> dict[str, Any] | None:
    """Adds BOS and EOS when special tokens are asked for."""
    names = ["bos"] if add_bos and "bos" in vocabulary.special_ids else []
    if vocabulary.add_eos and "eos" in vocabulary.special_ids:
        names.append("eos")
    if not names:
        return None
    template: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    tokens: dict[str, Any] = {}
    for name in names:
        token_id = vocabulary.special_ids[name]
        token = vocabulary.tokens[token_id]
        tokens[token] = {"id": token, "ids": [token_id], "tokens": [token]}
        piece = {"SpecialToken": {"id": token, "type_id": 0}}
        template.insert(0 if name == "bos" else len(template), piece)
    pair = [*template, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": template,
        "pair": pair,
        "special_tokens": tokens,
    }


def _error(field: str, problem: str, value: object) -> FormatError:
    return FormatError(
        f"field {field} {problem}",
        seen=str(value)[:120],
        hint="convert the original model again with a recent llama.cpp",
    )
