"""ggml's blocks to the storage schemes: lossless where a scheme has the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from mlc_server.build.manifest import GROUP_SIZE
from mlc_server.build.quantize.schemes import Floats, Parts, quantize_matrix

Blocks = npt.NDArray[np.uint8]

# Types whose bits a scheme keeps.
LOSSLESS = {
    Kind.Q4_0: "q4_z8",
    Kind.Q4_1: "q4_min",
    Kind.Q8_0: "q8",
    Kind.F16: "f16",
    Kind.F32: "f32",
}
# The nearest scheme of the others: up to five bits, then up to eight, then floating point.
NEAREST = {
    **{kind: "q4_min" for kind in Kind if kind.name.startswith(("Q5_", "Q4_K", "Q3_", "Q2_"))},
    **{kind: "q4_min" for kind in Kind if kind.name.startswith(("IQ", "TQ"))},
    **{kind: "q4_min" for kind in Kind if kind.name in {"MXFP4", "NVFP4"}},
    Kind.Q6_K: "q8",
    Kind.BF16: "f16",
}
# From the smallest to the largest; a scheme holds what those before it hold.
_BY_SIZE = ("q4_z8", "q4_min", "q8", "f16", "f32")


def nearest_scheme(kind: Kind) -> str | None:
    """The scheme a tensor of this type goes to by itself; None if it cannot be read."""
    return LOSSLESS.get(kind) or NEAREST.get(kind)


def common_scheme(kinds: Sequence[Kind]) -> str:
    """The smallest scheme that holds tensors of all these (readable) types."""
    schemes = [scheme for scheme in map(nearest_scheme, kinds) if scheme is not None]
    return max(schemes, key=_BY_SIZE.index)


def is_lossless(kind: Kind, scheme: str) -> bool:
    """Whether every weight of a tensor of this type is the same float in `scheme`."""
    if LOSSLESS.get(kind) == scheme:
        return True
    if kind is Kind.Q4_0:
        return scheme in {"q4_min", "q8"}
    return kind in {Kind.F16, Kind.BF16} and scheme == "f32"


def convert_blocks(blocks: Blocks, kind: Kind, scheme: str) -> Parts:
    """Raw rows u8 [N, row_bytes] to the stored tensors of `scheme`."""
    if kind is Kind.F16 and scheme == "f16":
        return {"weight": blocks.view("<f2")}
    if kind is Kind.F32 and scheme == "f32":
        return {"weight": blocks.view("<f4")}
    if kind is Kind.Q8_0 and scheme == "q8":
        return _copy_q8_0(blocks)
    if kind is Kind.Q4_1 and scheme == "q4_min":
        return _copy_q4_1(blocks)
    if kind is Kind.Q4_0 and scheme in {"q4_z8", "q4_min", "q8"}:
        return _copy_q4_0(blocks, scheme)
    return quantize_matrix(to_float(blocks, kind), scheme)


def to_float(blocks: Blocks, kind: Kind) -> Floats:
    """Dequantised float32 [N, K]."""
    if kind is Kind.F32:
        return blocks.view("<f4").astype(np.float32)
    if kind is Kind.F16:
        return blocks.view("<f2").astype(np.float32)
    values: Floats = dequantize(np.ascontiguousarray(blocks), kind)
    return values


def _split(blocks: Blocks, block_bytes: int) -> Blocks:
    return blocks.reshape(len(blocks), -1, block_bytes)


def _half(groups: Blocks, first: int) -> npt.NDArray[np.float16]:
    """The float16 at byte `first` of every block: [N, K / 32]."""
    return np.ascontiguousarray(groups[..., first : first + 2]).view("<f2")[..., 0]


def _copy_q8_0(blocks: Blocks) -> Parts:
    """Block: scale f16, 32 x i8."""
    groups = _split(blocks, 2 + GROUP_SIZE)
    codes = np.ascontiguousarray(groups[..., 2:]).view(np.int8)
    return {"q_weight": codes.reshape(len(blocks), -1), "q_scale": _half(groups, 0)}


def _copy_q4_1(blocks: Blocks) -> Parts:
    """Block: scale f16, min f16, 16 bytes of nibbles."""
    groups = _split(blocks, 4 + GROUP_SIZE // 2)
    words = _reorder_nibbles(groups[..., 4:])
    return {"q_weight": words, "q_scale": _half(groups, 0), "q_min": _half(groups, 2)}


def _copy_q4_0(blocks: Blocks, scheme: str) -> Parts:
    """Block: scale f16, 16 bytes of nibbles. For q4_min, (q - 8) * s = q * s + (-8 * s) exactly."""
    groups = _split(blocks, 2 + GROUP_SIZE // 2)
    scale = _half(groups, 0)
    if scheme == "q8":
        nibbles = groups[..., 2:]
        codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).view(np.int8) - np.int8(8)
        return {"q_weight": codes.reshape(len(blocks), -1), "q_scale": scale}
    parts: Parts = {"q_weight": _reorder_nibbles(groups[..., 2:]), "q_scale": scale}
    if scheme == "q4_min":
        with np.errstate(over="ignore"):  # the converter refuses infinities, naming the tensor
            parts["q_min"] = np.float16(-8) * scale
    return parts


def _reorder_nibbles(packed: Blocks) -> npt.NDArray[np.uint32]:
    """ggml's order (byte i: elements i and i + 16) to consecutive ones: u32 [N, K / 8]."""
    low, high = packed & np.uint8(15), packed >> np.uint8(4)
    halves = [half[..., 0::2] | (half[..., 1::2] << np.uint8(4)) for half in (low, high)]
    return np.concatenate(halves, axis=-1).reshape(len(packed), -1).view("<u4")
