"""The storage schemes of a matrix: float32 to stored tensors and back.

| scheme | tensors | w |
| --- | --- | --- |
| q4_z7 | q_weight u32 [N, K/8], q_scale [N, K/32] | (q - 7) * scale, MLC's q4*_1 |
| q4_z8 | the same two | (q - 8) * scale, GGUF Q4_0 |
| q4_min | the same two and q_min [N, K/32] | q * scale + min, GGUF Q4_1 |
| q8 | q_weight i8 [N, K], q_scale [N, K/32] | q * scale, GGUF Q8_0 |
| f16, f32 | weight [N, K] | weight |

Groups are 32 along K; a K that is no multiple of 32 is padded, and the padding is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlc_server.build.manifest import GROUP_SIZE
from mlc_server.build.quantize.packing import pack_nibbles, to_groups, unpack_nibbles

AnyArray = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
# The stored tensors of one matrix, by suffix: weight | q_weight, q_scale[, q_min].
Parts = dict[str, AnyArray]

_ROWS_AT_ONCE = 8192  # bounds the temporaries of a large embedding to a few hundred MB


def quantize_matrix(
    weights: AnyArray, scheme: str, scale_dtype: type[np.floating[Any]] = np.float16
) -> Parts:
    """Float [N, K] to the stored tensors of `scheme`. Scales are rounded to `scale_dtype`."""
    if scheme in {"f16", "f32"}:
        dtype = np.float16 if scheme == "f16" else np.float32
        return {"weight": to_dtype(weights, dtype)}
    quantize = _QUANTIZERS[scheme]
    blocks = [
        quantize(np.asarray(weights[row : row + _ROWS_AT_ONCE], np.float32), scale_dtype)
        for row in range(0, len(weights), _ROWS_AT_ONCE)
    ]
    return {suffix: np.concatenate([b[suffix] for b in blocks]) for suffix in blocks[0]}


def dequantize_matrix(parts: Mapping[str, AnyArray], scheme: str, columns: int) -> Floats:
    """The stored tensors of a matrix with K = `columns` back to float32 [N, K]."""
    if scheme in {"f16", "f32"}:
        return parts["weight"].astype(np.float32)
    packed = parts["q_weight"]
    scale = parts["q_scale"].astype(np.float32)[..., None]
    if scheme == "q8":
        values = to_groups(packed, GROUP_SIZE).astype(np.float32)
    else:
        values = to_groups(unpack_nibbles(packed), GROUP_SIZE).astype(np.float32)
    if scheme == "q4_min":
        values = values * scale + parts["q_min"].astype(np.float32)[..., None]
    else:
        values = (values - np.float32(_ZERO_POINTS[scheme])) * scale
    return np.ascontiguousarray(values.reshape(len(packed), -1)[:, :columns])


def to_dtype(array: AnyArray, dtype: type[np.floating[Any]]) -> AnyArray:
    """Rounded to `dtype`; values beyond float16 saturate instead of becoming infinite."""
    if dtype is not np.float16:
        return array.astype(dtype, copy=False)
    limit = float(np.finfo(np.float16).max)
    return np.clip(array, -limit, limit).astype(np.float16)


_ZERO_POINTS = {"q4_z7": 7, "q4_z8": 8, "q8": 0}


def _divide(values: Floats, scale: Floats) -> Floats:
    """values / scale with 0 where the scale is 0 (a group of zeros)."""
    safe: Floats = np.where(scale == 0, np.float32(1), scale)
    return np.divide(values, safe[..., None])


def _multiply_reciprocal(values: Floats, scale: Floats) -> Floats:
    """As _divide, but through 1 / scale, which is how ggml rounds."""
    safe: Floats = np.where(scale == 0, np.float32(1), scale)
    return np.multiply(values, np.reciprocal(safe)[..., None])


def _quantize_z7(weights: Floats, scale_dtype: type[np.floating[Any]]) -> Parts:
    """MLC's group quantization: scale = max|w| / 7, q = clamp(round(w / scale + 7), 0, 14).

    The scale is rounded to its dtype first, as MLC computes it in that dtype.
    """
    groups = to_groups(weights, GROUP_SIZE)
    scale = to_dtype(np.max(np.abs(groups), axis=-1) / np.float32(7), scale_dtype)
    steps = _divide(groups, scale.astype(np.float32)) + np.float32(7)
    q = np.clip(np.rint(steps), 0, 14).astype(np.uint8)
    return _four_bit(q, scale, scale_dtype)


def _quantize_z8(weights: Floats, scale_dtype: type[np.floating[Any]]) -> Parts:
    """ggml's Q4_0, bit for bit: the value of largest magnitude maps to -8."""
    groups = to_groups(weights, GROUP_SIZE)
    where = np.argmax(np.abs(groups), axis=-1)[..., None]
    scale = np.take_along_axis(groups, where, axis=-1)[..., 0] / np.float32(-8)
    steps = _multiply_reciprocal(groups, scale) + np.float32(8.5)
    q = np.clip(np.trunc(steps), 0, 15).astype(np.uint8)
    return _four_bit(q, scale, scale_dtype)


def _quantize_min(weights: Floats, scale_dtype: type[np.floating[Any]]) -> Parts:
    """Asymmetric, 16 codes from the group's minimum to its maximum (ggml's Q4_1).

    Codes are chosen for the scale and minimum as stored, so the error stays at most half a
    stored step plus the rounding of the minimum.
    """
    groups = to_groups(weights, GROUP_SIZE)
    columns = weights.shape[1]
    if columns % GROUP_SIZE:  # padding must not widen the last group's range
        groups[:, -1, columns % GROUP_SIZE :] = groups[:, -1, :1]
    minimum = to_dtype(groups.min(axis=-1), scale_dtype)
    base = minimum.astype(np.float32)
    scale = to_dtype((groups.max(axis=-1) - base) / np.float32(15), scale_dtype)
    steps = _divide(groups - base[..., None], scale.astype(np.float32))
    q = np.clip(np.rint(steps), 0, 15).astype(np.uint8)
    return {**_four_bit(q, scale, scale_dtype), "q_min": minimum}


def _quantize_q8(weights: Floats, scale_dtype: type[np.floating[Any]]) -> Parts:
    """ggml's Q8_0, bit for bit: scale = max|w| / 127, q rounded half away from zero."""
    groups = to_groups(weights, GROUP_SIZE)
    scale = np.max(np.abs(groups), axis=-1) / np.float32(127)
    steps = _multiply_reciprocal(groups, scale)
    q = np.trunc(steps + np.copysign(np.float32(0.5), steps)).astype(np.int8)
    return {"q_weight": q.reshape(len(q), -1), "q_scale": to_dtype(scale, scale_dtype)}


def _four_bit(
    q: npt.NDArray[np.uint8], scale: AnyArray, scale_dtype: type[np.floating[Any]]
) -> Parts:
    return {
        "q_weight": pack_nibbles(q.reshape(len(q), -1)),
        "q_scale": to_dtype(scale, scale_dtype),
    }


_QUANTIZERS: dict[str, Callable[[Floats, type[np.floating[Any]]], Parts]] = {
    "q4_z7": _quantize_z7,
    "q4_z8": _quantize_z8,
    "q4_min": _quantize_min,
    "q8": _quantize_q8,
}
