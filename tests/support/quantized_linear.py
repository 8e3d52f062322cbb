"""NumPy twin of the linear layers' arithmetic: random weights as on disk, and the exact formula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix

GROUP = 32


@dataclass(frozen=True)
class Activations:
    """A quantised activation: the four tensors of the kernels."""

    xq: np.ndarray
    xs: np.ndarray
    xi: np.ndarray
    xss: np.ndarray

    def tensors(self) -> list[np.ndarray]:
        return [self.xq, self.xs, self.xi, self.xss]

    def rows(self, count: int) -> list[np.ndarray]:
        return [np.ascontiguousarray(t[:count]) for t in self.tensors()]


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """f32 a * b + c rounded once.

    The f64 product of two f32 is exact; the f64 sum is rounded to odd, so that the last rounding
    is the only one that counts (Boldo & Melquiond, 2008).
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = np.broadcast_to(c.astype(np.float64), product.shape)
    total = product + addend
    # Error of the sum, exact (Knuth's two-sum).
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(np.int64)
    is_even = (bits & 1) == 0
    away = (error > 0) == (total > 0)
    adjusted = np.where(away, bits + 1, bits - 1)
    fixed = np.where((error != 0) & is_even, adjusted, bits)
    return fixed.view(np.float64).astype(np.float32)


def quantize_activations(x: np.ndarray) -> Activations:
    """int8 per group of 32, as `vector_ops.quantize_group`; x f32 [M, multiple of 32]."""
    groups = x.reshape(x.shape[0], -1, GROUP)
    amax = np.abs(groups).max(-1)
    is_zero = amax < np.float32(2.0**-100)
    xs = np.where(is_zero, np.float32(0), amax / np.float32(127)).astype(np.float32)
    safe = np.where(is_zero, np.float32(1), amax)
    inverse = np.where(is_zero, np.float32(0), np.float32(127) / safe).astype(np.float32)
    product = groups.astype(np.float64) * inverse.astype(np.float64)[..., None]
    xq = np.rint(product).astype(np.int8)
    xi = xq.sum(-1, dtype=np.int32)
    xss = (xs * xi.astype(np.float32)).astype(np.float32)
    return Activations(xq.reshape(x.shape), xs, xi, xss)


def dequantize_activations(x: Activations) -> np.ndarray:
    """float64 [M, K]."""
    groups = x.xq.reshape(*x.xs.shape, GROUP).astype(np.float64)
    return (groups * x.xs[..., None]).reshape(x.xq.shape)


def random_sources(matrix: PackedMatrix, seed: int = 0) -> list[np.ndarray]:
    """Disk tensors of a matrix with random contents over the whole range of each type."""
    rng = np.random.default_rng(seed)
    sources = []
    for shape, dtype in matrix.source_types:
        if dtype == "uint32":
            sources.append(rng.integers(0, 2**32, shape, dtype=np.uint32))
        elif dtype == "int8":
            sources.append(rng.integers(-128, 128, shape, dtype=np.int8))
        else:
            sources.append((rng.standard_normal(shape) * 0.05).astype(dtype))
    return sources


def stored_weights(matrix: PackedMatrix, sources: list[np.ndarray]) -> np.ndarray:
    """Unsigned stored integers, int32 [N, 32 * groups]; q8 as byte + 128."""
    if matrix.scheme == "q8":
        return sources[0].astype(np.int32) + 128
    shifts = 4 * np.arange(8, dtype=np.uint32)
    return ((sources[0][..., None] >> shifts) & 15).astype(np.int32).reshape(matrix.rows, -1)


def dequantized_weights(matrix: PackedMatrix, sources: list[np.ndarray]) -> np.ndarray:
    """float64 [N, K] (K rounded up to whole groups for quantised schemes)."""
    if not matrix.is_quantized:
        return sources[0].astype(np.float64)
    stored = stored_weights(matrix, sources) - matrix.zero_point
    weights = stored * np.repeat(sources[1].astype(np.float64), GROUP, axis=1)
    if matrix.has_minimum:
        weights = weights + np.repeat(sources[2].astype(np.float64), GROUP, axis=1)
    return weights


def linear_quantized(matrix: PackedMatrix, sources: list[np.ndarray], x: Activations) -> np.ndarray:
    """f32 [M, N], bit for bit what the kernels of quantised schemes compute."""
    stored = stored_weights(matrix, sources)
    scale = sources[1].astype(np.float32)
    acc = np.zeros((x.xq.shape[0], matrix.rows), np.float32)
    for g in range(matrix.groups):
        columns = slice(GROUP * g, GROUP * (g + 1))
        dot = x.xq[:, columns].astype(np.int32) @ stored[:, columns].T
        dot = dot - matrix.zero_point * x.xi[:, g, None]
        scaled = dot.astype(np.float32) * scale[None, :, g]
        acc = fma(scaled, x.xs[:, g, None], acc)
        if matrix.has_minimum:
            minimum = sources[2].astype(np.float32)
            acc = fma(np.broadcast_to(minimum[None, :, g], acc.shape), x.xss[:, g, None], acc)
    return acc


def linear_float(sources: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """f32 [M, N], bit for bit what the kernels of f16 and f32 weights compute."""
    weights = sources[0].astype(np.float32)
    acc = np.zeros((x.shape[0], weights.shape[0]), np.float32)
    for k in range(weights.shape[1]):
        acc = fma(np.broadcast_to(weights[None, :, k], acc.shape), x[:, k, None], acc)
    return acc
