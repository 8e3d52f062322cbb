"""4-bit packing: element k of a row is bits 4 * (k % 8) and up of its word k / 8."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def pack_nibbles(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """u8 [..., K] with values 0..15 and K a multiple of 8 -> u32 [..., K / 8]."""
    pairs = values[..., 0::2] | (values[..., 1::2] << np.uint8(4))
    return np.ascontiguousarray(pairs).view("<u4").astype(np.uint32, copy=False)


def unpack_nibbles(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """u32 [..., W] -> u8 [..., 8 * W]; the inverse of pack_nibbles."""
    pairs = np.ascontiguousarray(words, "<u4").view(np.uint8)
    values = np.empty((*words.shape[:-1], words.shape[-1] * 8), np.uint8)
    np.bitwise_and(pairs, 15, out=values[..., 0::2])
    np.right_shift(pairs, 4, out=values[..., 1::2])
    return values


def to_groups(matrix: npt.NDArray[Any], group_size: int) -> npt.NDArray[Any]:
    """[N, K] -> [N, ceil(K / group_size), group_size], the last group padded with zeros."""
    rows, columns = matrix.shape
    groups = -(-columns // group_size)
    padding = groups * group_size - columns
    if padding:
        matrix = np.pad(matrix, ((0, 0), (0, padding)))
    return matrix.reshape(rows, groups, group_size)
