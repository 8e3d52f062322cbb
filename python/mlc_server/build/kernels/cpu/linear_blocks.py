"""Register blocks: the inner loops of the linear kernels.

Contents:
    RegisterBlock     what a block computes.
    quantized_block   integer dot products per group of 32 columns, then one rescale.
    float_block       f32 fma over columns, for f16 and f32 weights.

A block holds `row_vectors` vectors of outputs x `tokens` rows of f32 accumulators in registers.
Weights are loaded (and nibbles split) once for all its tokens; activations are broadcast from
memory, four int8 or one f32 at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import scratch
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.packed_matrix import TILE_ROWS, PackedMatrix
from mlc_server.build.kernels.cpu.vector_ops import GROUP, f16_to_f32, fma, let, splat

Expr = Any  # a TIR expression (tvm ships no types)
Buffer = Any


class RegisterBlock(ABC):
    """Computes row_vectors * lanes consecutive outputs, starting with a tile, for a few tokens."""

    def __init__(
        self,
        matrix: PackedMatrix,
        isa: VectorIsa,
        activations: list[Buffer],
        arena: Buffer,
        offset: Expr,
    ) -> None:
        self._matrix = matrix
        self._isa = isa
        self._activations = activations
        self._arena = arena
        self._offset = offset

    def emit(self, tile: Expr, row: Expr, tokens: int) -> list[list[Expr]]:
        """Emits the loop over K; returns acc[token][vector], f32 x lanes, bound.

        tile: i32, first tile; row: i32, first row of the activations.
        """
        lanes, vectors = self._isa.lanes, self._isa.row_vectors
        # Indexed by constants only, so LLVM keeps it in registers.
        acc = scratch((tokens * vectors * lanes,))

        def slot(token: int, vector: int) -> Expr:
            return tirx.Ramp((token * vectors + vector) * lanes, 1, lanes)

        for token in range(tokens):
            for vector in range(vectors):
                builder.buffer_store(acc, splat(0.0, lanes), [slot(token, vector)])
        tile_start = tirx.Cast("int64", tile) * self._matrix.tile_bytes
        base = let(self._offset + tile_start)
        with builder.serial(0, self._steps()) as step:
            values = [[acc[slot(t, v)] for v in range(vectors)] for t in range(tokens)]
            values = self._emit_step(base, row, step, values)
            for token in range(tokens):
                for vector in range(vectors):
                    builder.buffer_store(acc, values[token][vector], [slot(token, vector)])
        return [[let(acc[slot(t, v)]) for v in range(vectors)] for t in range(tokens)]

    @abstractmethod
    def _steps(self) -> int:
        """Iterations of the loop over K."""

    @abstractmethod
    def _emit_step(
        self, base: Expr, row: Expr, step: Expr, acc: list[list[Expr]]
    ) -> list[list[Expr]]:
        """One iteration; `base` is the first byte of the first tile. Returns the new acc."""

    def _vector_start(self, vector: int) -> tuple[int, int]:
        """(byte offset of the tile, row in the tile) where output vector `vector` starts."""
        tile, row = divmod(vector * self._isa.lanes, TILE_ROWS)
        return tile * self._matrix.tile_bytes, row

    def _load_bytes(self, index: Expr, nbytes: int) -> Expr:
        return let(self._arena[tirx.Ramp(index, 1, nbytes)])

    def _load_floats(self, index: Expr, dtype: str) -> Expr:
        """`lanes` f16 or f32 values of the arena as f32."""
        lanes = self._isa.lanes
        if dtype == "float32":
            raw = self._arena[tirx.Ramp(index, 1, 4 * lanes)]
            return let(tirx.reinterpret(self._isa.f32, raw))
        raw = self._arena[tirx.Ramp(index, 1, 2 * lanes)]
        halves = let(tirx.reinterpret(f"float16x{lanes}", raw))
        return f16_to_f32(halves, lanes, native=self._isa.has_f16)


class _QuantizedBlock(RegisterBlock):
    def _steps(self) -> int:
        return self._matrix.groups

    def _emit_step(
        self, base: Expr, row: Expr, step: Expr, acc: list[list[Expr]]
    ) -> list[list[Expr]]:
        tokens, vectors = len(acc), self._isa.row_vectors
        block = let(base + step * self._matrix.block_bytes)
        dots = self._initial_dots(row, step, tokens)
        for quad, weights in self._weights(block):
            for token in range(tokens):
                # Four activations of one row: the same bytes for every output.
                column = step * GROUP + 4 * quad
                raw = self._activations[0][row + token, tirx.Ramp(column, 1, 4)]
                bytes4 = let(tirx.reinterpret("int32", raw))
                for vector in range(vectors):
                    dots[token][vector] = let(
                        self._isa.dot4(
                            dots[token][vector], weights[vector], bytes4, self._matrix.bits
                        )
                    )
        return self._rescale(block, row, step, dots, acc)

    def _initial_dots(self, row: Expr, step: Expr, tokens: int) -> list[list[Expr]]:
        """Integer accumulators: the zero point's share, exact, before the first product."""
        zero_point = self._matrix.zero_point - self._isa.dot_bias(self._matrix.bits)
        lanes, vectors = self._isa.lanes, self._isa.row_vectors
        dots = []
        for token in range(tokens):
            start = splat(0, lanes, "int32")
            if zero_point:
                total = self._activations[2][row + token, step] * -zero_point
                start = let(tirx.Broadcast(let(total), lanes))
            dots.append([start] * vectors)
        return dots

    def _weights(self, block: Expr) -> list[tuple[int, list[Expr]]]:
        """(quad of columns, weights of each vector as u8 x 4 lanes) in order of use."""
        size = 4 * self._isa.lanes
        starts = [self._vector_start(v) for v in range(self._isa.row_vectors)]

        def load(j: int) -> list[Expr]:
            return [
                self._load_bytes(block + (tile + 64 * j + 4 * row), size) for tile, row in starts
            ]

        if self._matrix.bits == 8:
            return [(j, load(j)) for j in range(8)]
        operands = []
        for j in range(4):
            packed = load(j)
            low = [let(p & splat(0x0F, size, "uint8")) for p in packed]
            high = [let(p >> splat(4, size, "uint8")) for p in packed]
            operands += [(j, low), (j + 4, high)]
        return operands

    def _rescale(
        self,
        block: Expr,
        row: Expr,
        step: Expr,
        dots: list[list[Expr]],
        acc: list[list[Expr]],
    ) -> list[list[Expr]]:
        """acc + scale * xs * dot (+ min * xss), in the order of the formula."""
        matrix, lanes = self._matrix, self._isa.lanes
        _, xs, _, xss = self._activations
        item_bytes = matrix.scales_bytes // TILE_ROWS
        result: list[list[Expr]] = [[] for _ in acc]
        for vector in range(self._isa.row_vectors):
            tile, first = self._vector_start(vector)
            start = block + (tile + matrix.quant_bytes + item_bytes * first)
            scale = self._load_floats(start, matrix.scale_dtype)
            if matrix.has_minimum:
                minimum = self._load_floats(start + matrix.scales_bytes, matrix.scale_dtype)
            for token, token_dots in enumerate(dots):
                dot = let(tirx.Cast(self._isa.f32, token_dots[vector]) * scale)
                factor = tirx.Broadcast(xs[row + token, step], lanes)
                total = let(fma(dot, factor, acc[token][vector], lanes))
                if matrix.has_minimum:
                    factor = tirx.Broadcast(xss[row + token, step], lanes)
                    total = let(fma(minimum, factor, total, lanes))
                result[token].append(total)
        return result


class _FloatBlock(RegisterBlock):
    def _steps(self) -> int:
        return self._matrix.cols

    def _emit_step(
        self, base: Expr, row: Expr, step: Expr, acc: list[list[Expr]]
    ) -> list[list[Expr]]:
        matrix, lanes = self._matrix, self._isa.lanes
        item_bytes = 2 if matrix.float_dtype == "float16" else 4
        column = let(base + step * (item_bytes * TILE_ROWS))
        weights = []
        for vector in range(self._isa.row_vectors):
            tile, first = self._vector_start(vector)
            start = column + (tile + first * item_bytes)
            weights.append(self._load_floats(start, matrix.float_dtype))
        result = []
        for token, sums in enumerate(acc):
            x = let(tirx.Broadcast(self._activations[0][row + token, step], lanes))
            result.append(
                [
                    let(fma(weight, x, total, lanes))
                    for weight, total in zip(weights, sums, strict=True)
                ]
            )
        return result


def quantized_block(*args: Any) -> RegisterBlock:
    """Block over q4_* and q8 weights; activations are (xq, xs, xi, xss)."""
    return _QuantizedBlock(*args)


def float_block(*args: Any) -> RegisterBlock:
    """Block over f16 and f32 weights; activations are (x,)."""
    return _FloatBlock(*args)
