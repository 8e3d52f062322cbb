"""Quantization names: which scheme each kind of parameter gets, and how floats are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlc_server.build.tensor_cache import BF16_ON_DISK, RAW

EMBEDDINGS = frozenset({"model.embed_tokens", "lm_head"})


@dataclass(frozen=True)
class Recipe:
    """`dtype` is that of scales and vectors; `stored` is the tensor cache's format for them."""

    name: str
    body: str
    embedding: str
    scale_dtype: type[np.floating[Any]] = np.float16
    vector_dtype: type[np.floating[Any]] = np.float16
    stored: str = BF16_ON_DISK
    # MLC's layouts need no `tensor_schemes`: names and dtypes tell all.
    is_mlc: bool = True

    def scheme(self, base: str) -> str:
        return self.embedding if base in EMBEDDINGS else self.body


def _own(name: str, body: str) -> Recipe:
    """A recipe in ggml's block formats. Embeddings keep eight bits, as the logits come of them."""
    return Recipe(name, body, "q8", vector_dtype=np.float32, stored=RAW, is_mlc=False)


_RECIPES = (
    Recipe("q4f16_1", "q4_z7", "q4_z7"),
    Recipe("q4f32_1", "q4_z7", "q4_z7", np.float32, np.float32),
    Recipe("q4f16_2", "q4_z7", "f16"),
    Recipe("q0f16", "f16", "f16"),
    Recipe("q0f32", "f32", "f32", np.float32, np.float32),
    _own("q4_0", "q4_z8"),
    _own("q4_1", "q4_min"),
    _own("q8_0", "q8"),
)
RECIPES = {recipe.name: recipe for recipe in _RECIPES}
