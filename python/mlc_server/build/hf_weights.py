"""The weights of a Hugging Face Llama under MLC's fused names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlc_server.build.fields import shown
from mlc_server.build.manifest import ModelConfig
from mlc_server.build.quantize.schemes import Floats, Parts
from mlc_server.build.safetensors_file import SafeTensor
from mlc_server.errors import FormatError

# Buffers old exporters wrote; they follow from the config.
_IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)


class HfWeights:
    """A WeightSource over mapped safetensors; raises FormatError if parts are missing."""

    def __init__(self, tensors: Mapping[str, SafeTensor], config: ModelConfig) -> None:
        self.config = config
        self._tensors = tensors
        self._sources = {
            name: _sources(name)
            for name in (*config.parameters.matrices, *config.parameters.vectors)
        }
        self._check()

    @property
    def notes(self) -> list[str]:
        """None: quantisation is what was asked for."""
        return []

    def native_scheme(self, base: str) -> str | None:
        """None: the tensors are floats."""
        return None

    def native_parts(self, base: str) -> Parts:
        msg = f"{base} has no stored scheme"
        raise NotImplementedError(msg)

    def floats(self, base: str) -> Floats:
        return np.concatenate([self._tensors[name].to_float() for name in self._sources[base]])

    def vector(self, name: str) -> Floats:
        return self.floats(name)

    def _check(self) -> None:
        used: set[str] = set()
        if self.config.tie_word_embeddings:
            used.add("lm_head.weight")  # a copy of the embedding
        for base, shape in self.config.parameters.matrices.items():
            self._check_shapes(base, shape)
            used.update(self._sources[base])
        for name, length in self.config.parameters.vectors.items():
            self._check_shapes(name, (length,))
            used.update(self._sources[name])
        for name in sorted(self._tensors.keys() - used):
            if not name.endswith(_IGNORED_SUFFIXES):
                raise _error(name, f"is no part of architecture {self.config.model_type}", name)

    def _check_shapes(self, name: str, shape: tuple[int, ...]) -> None:
        for source, rows in zip(self._sources[name], self._part_rows(name, shape[0]), strict=True):
            tensor = self._tensors.get(source)
            if tensor is None:
                raise _error(source, "is missing", f"{len(self._tensors)} tensors")
            expected = (rows, *shape[1:])
            if tensor.shape != expected:
                raise _error(source, f"must have shape {list(expected)}", list(tensor.shape))

    def _part_rows(self, name: str, rows: int) -> list[int]:
        if ".qkv_proj" in name:
            kv_rows = self.config.num_kv_heads * self.config.head_dim
            return [rows - 2 * kv_rows, kv_rows, kv_rows]
        parts = len(self._sources[name])
        return [rows // parts] * parts


def _sources(name: str) -> list[str]:
    """MLC parameter -> the Hugging Face tensors whose rows make it up, in order."""
    base, suffix = name, "weight"
    for ending in (".weight", ".bias"):
        if name.endswith(ending):
            base, suffix = name.removesuffix(ending), ending[1:]
    parent, _, leaf = base.rpartition(".")
    parts = {
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }.get(leaf, (leaf,))
    prefix = f"{parent}." if parent else ""
    return [f"{prefix}{part}.{suffix}" for part in parts]


def _error(name: str, problem: str, value: object) -> FormatError:
    return FormatError(
        f"safetensors: tensor {name} {problem}",
        seen=shown(value),
        hint="check that config.json and the weights belong to the same model",
    )
