"""Opens a Hugging Face folder for conversion: config, safetensors and tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mlc_server.build.chat_config import SamplingDefaults, TokenizerFacts
from mlc_server.build.fields import Fields, read_json_object
from mlc_server.build.hf_config import (
    CHAT_TEMPLATE,
    CONFIG,
    COPIED_FILES,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    read_hf_config,
)
from mlc_server.build.hf_weights import HfWeights
from mlc_server.build.imported import ImportedModel
from mlc_server.build.manifest import ModelConfig
from mlc_server.build.safetensors_file import read_safetensors_folder
from mlc_server.errors import FormatError

# Near-lossless, and as fast as the CPU kernels go on eight-bit weights.
DEFAULT_QUANTIZATION = "q8_0"


def open_hf(folder: Path) -> ImportedModel:
    """Reads the small files and maps the tensors; raises FormatError."""
    config = read_hf_config(folder)
    settings = _optional_json(folder / TOKENIZER_CONFIG)
    generation = Fields(_optional_json(folder / GENERATION_CONFIG), GENERATION_CONFIG)
    tokenizer = _load_tokenizer(folder)
    eos_ids = _eos_ids(folder, config, settings, generation, tokenizer)

    def write(target: Path) -> TokenizerFacts:
        files = [name for name in COPIED_FILES if (folder / name).is_file()]
        for name in files:
            shutil.copyfile(folder / name, target / name)
        steps = json.loads(tokenizer.to_str())
        shape = json.dumps([steps["normalizer"], steps["pre_tokenizer"], steps["decoder"]])
        return TokenizerFacts(
            files=files,
            byte_level='"ByteLevel"' in shape,
            prepend_space='"Prepend"' in shape or '"Metaspace"' in shape,
            size=tokenizer.get_vocab_size(with_added_tokens=True),
            bos_id=_token_id(settings, "bos_token", tokenizer),
            eos_ids=eos_ids,
            pad_id=_token_id(settings, "pad_token", tokenizer),
        )

    return ImportedModel(
        weights=HfWeights(read_safetensors_folder(folder), config),
        default_quantization=DEFAULT_QUANTIZATION,
        chat_template=_chat_template(folder, settings),
        sampling=SamplingDefaults.from_generation_config(generation),
        write_tokenizer=write,
    )


def _optional_json(path: Path) -> Mapping[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _load_tokenizer(folder: Path) -> Tokenizer:
    path = folder / TOKENIZER
    if not path.is_file():
        raise FormatError(
            f"{folder} has no {TOKENIZER}",
            seen=", ".join(sorted(p.name for p in folder.iterdir())[:12]),
            hint="save the tokenizer again with a recent transformers, which writes it",
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception for every kind of failure
        raise FormatError(
            f"{TOKENIZER} is not a tokenizer that can be read",
            seen=str(error)[:200],
            hint="copy it from the original model again",
        ) from error


def _eos_ids(
    folder: Path,
    config: ModelConfig,
    settings: Mapping[str, Any],
    generation: Fields,
    tokenizer: Tokenizer,
) -> tuple[int, ...]:
    """The union of what config, generation config and tokenizer call the end."""
    model = Fields(read_json_object(folder / CONFIG), CONFIG)
    ids = set(model.token_ids("eos_token_id", config.vocab_size))
    ids.update(generation.token_ids("eos_token_id", config.vocab_size))
    named = _token_id(settings, "eos_token", tokenizer)
    if named is not None and named < config.vocab_size:
        ids.add(named)
    return tuple(sorted(ids))


def _token_id(settings: Mapping[str, Any], name: str, tokenizer: Tokenizer) -> int | None:
    """The id of a special token, which the file writes as text or as an object."""
    value = settings.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    token_id: int | None = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return token_id


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Only to guess the conv_template; the files themselves are copied."""
    path = folder / CHAT_TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    template = settings.get("chat_template")
    return template if isinstance(template, str) else None
