"""A model opened for conversion, whatever it came as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlc_server.build.chat_config import SamplingDefaults, TokenizerFacts
from mlc_server.build.weights import WeightSource


@dataclass(frozen=True)
class ImportedModel:
    """`write_tokenizer` puts the tokenizer's files into a folder."""

    weights: WeightSource
    default_quantization: str
    chat_template: str | None
    sampling: SamplingDefaults
    write_tokenizer: Callable[[Path], TokenizerFacts]
