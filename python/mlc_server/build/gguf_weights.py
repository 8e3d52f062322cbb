"""The weights of a GGUF Llama under MLC's fused names, rows in Hugging Face's order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlc_server.build.fields import shown
from mlc_server.build.gguf_file import GgufFile, GgufTensor
from mlc_server.build.manifest import ModelConfig
from mlc_server.build.quantize.ggml import (
    common_scheme,
    convert_blocks,
    is_lossless,
    nearest_scheme,
    to_float,
)
from mlc_server.build.quantize.schemes import Floats, Parts
from mlc_server.errors import FormatError


@dataclass(frozen=True)
class _Piece:
    """One GGUF tensor of a fused parameter; `heads` > 0: its rows are interleaved for RoPE."""

    name: str
    rows: int
    heads: int = 0


class GgufWeights:
    """A WeightSource over a mapped GGUF file; raises FormatError if parts are missing."""

    def __init__(self, gguf: GgufFile, config: ModelConfig) -> None:
        self.config = config
        self._gguf = gguf
        self._pieces = _name_map(config)
        self._check()
        self._schemes = {
            base: common_scheme([self._tensor(piece).kind for piece in self._pieces[base]])
            for base in config.parameters.matrices
        }

    @property
    def notes(self) -> list[str]:
        """One line for each lossy change of type, with the number of tensors it touches."""
        losses: dict[tuple[str, str], int] = {}
        for base, scheme in self._schemes.items():
            for piece in self._pieces[base]:
                kind = self._tensor(piece).kind
                if not is_lossless(kind, scheme):
                    losses[kind.name, scheme] = losses.get((kind.name, scheme), 0) + 1
        return [
            f"{count} tensors of type {kind} are requantised to {scheme}, with some loss"
            for (kind, scheme), count in sorted(losses.items())
        ]

    def native_scheme(self, base: str) -> str | None:
        return self._schemes[base]

    def native_parts(self, base: str) -> Parts:
        scheme = self._schemes[base]
        pieces = [
            convert_blocks(self._rows(piece), self._tensor(piece).kind, scheme)
            for piece in self._pieces[base]
        ]
        return {suffix: np.concatenate([p[suffix] for p in pieces]) for suffix in pieces[0]}

    def floats(self, base: str) -> Floats:
        pieces = self._pieces[base]
        return np.concatenate([to_float(self._rows(p), self._tensor(p).kind) for p in pieces])

    def vector(self, name: str) -> Floats:
        pieces = []
        for piece in self._pieces[name]:
            values = to_float(self._tensor(piece).blocks, self._tensor(piece).kind).reshape(-1)
            order = self._row_order(piece)
            pieces.append(values if order is None else values[order])
        return np.concatenate(pieces)

    def _tensor(self, piece: _Piece) -> GgufTensor:
        return self._gguf.tensors[piece.name]

    def _rows(self, piece: _Piece) -> npt.NDArray[np.uint8]:
        blocks = self._tensor(piece).blocks
        order = self._row_order(piece)
        return blocks if order is None else blocks[order]

    def _row_order(self, piece: _Piece) -> npt.NDArray[np.intp] | None:
        """GGUF's Llama pairs rows (2i, 2i + 1) of a head for RoPE; back to (i, i + D / 2)."""
        if piece.heads == 0:
            return None
        half = self.config.head_dim // 2
        pairs = np.arange(piece.heads * half * 2).reshape(piece.heads, half, 2)
        order: npt.NDArray[np.intp] = pairs.swapaxes(1, 2).reshape(-1)
        return order

    def _check(self) -> None:
        """Every tensor is there, readable and of the right shape, and none is left over."""
        used = {"rope_freqs.weight"}
        for base, (_, columns) in self.config.parameters.matrices.items():
            for piece in self._pieces[base]:
                self._check_tensor(piece, (piece.rows, columns))
                used.add(piece.name)
        for name in self.config.parameters.vectors:
            for piece in self._pieces[name]:
                self._check_tensor(piece, (piece.rows,))
                used.add(piece.name)
        for name in sorted(self._gguf.tensors.keys() - used):
            raise self._error(name, "is no part of a Llama that is supported", name)

    def _check_tensor(self, piece: _Piece, shape: tuple[int, ...]) -> None:
        tensor = self._gguf.tensors.get(piece.name)
        if tensor is None:
            raise self._error(piece.name, "is missing", f"{len(self._gguf.tensors)} tensors")
        if tensor.shape != shape:
            raise self._error(piece.name, f"must have shape {list(shape)}", list(tensor.shape))
        if nearest_scheme(tensor.kind) is None:
            raise self._error(piece.name, "has a type that cannot be read", tensor.kind.name)

    def _error(self, name: str, problem: str, value: object) -> FormatError:
        return FormatError(
            f"{self._gguf.path.name}: tensor {name} {problem}",
            seen=shown(value),
            hint="use a GGUF of a Llama model written by llama.cpp's convert_hf_to_gguf.py",
        )


def _name_map(config: ModelConfig) -> dict[str, list[_Piece]]:
    """MLC parameter -> the GGUF tensors whose rows make it up, in order."""
    pieces = {
        "model.embed_tokens": [_Piece("token_embd.weight", config.vocab_size)],
        "lm_head": [_Piece("output.weight", config.vocab_size)],
        "model.norm.weight": [_Piece("output_norm.weight", config.hidden_size)],
    }
    for layer in range(config.num_layers):
        pieces.update(_layer_names(config, layer))
    return pieces


def _layer_names(config: ModelConfig, layer: int) -> Iterator[tuple[str, list[_Piece]]]:
    target, source = f"model.layers.{layer}", f"blk.{layer}"
    hidden, middle = config.hidden_size, config.intermediate_size

    def qkv(suffix: str) -> list[_Piece]:
        heads = {"q": config.num_q_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
        return [
            _Piece(
                f"{source}.attn_{part}.{suffix}",
                count * config.head_dim,
                0 if part == "v" else count,
            )
            for part, count in heads.items()
        ]

    yield f"{target}.self_attn.qkv_proj", qkv("weight")
    yield f"{target}.self_attn.qkv_proj.bias", qkv("bias")
    yield f"{target}.self_attn.o_proj", [_Piece(f"{source}.attn_output.weight", hidden)]
    gate_up = [_Piece(f"{source}.ffn_{part}.weight", middle) for part in ("gate", "up")]
    yield f"{target}.mlp.gate_up_proj", gate_up
    yield f"{target}.mlp.down_proj", [_Piece(f"{source}.ffn_down.weight", hidden)]
    yield f"{target}.input_layernorm.weight", [_Piece(f"{source}.attn_norm.weight", hidden)]
    yield f"{target}.post_attention_layernorm.weight", [_Piece(f"{source}.ffn_norm.weight", hidden)]
