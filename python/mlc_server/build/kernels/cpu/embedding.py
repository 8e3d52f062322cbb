"""Embedding lookup on the CPU, from the packed weights that the output layer shares when tied.

Contents:
    embedding_name      symbol of the function for a matrix.
    embedding_function  token ids -> rows of the matrix as f32.

Element k of row n is `f32(q - z) * scale` (zero-point schemes), `fma(f32(q), scale, min)` (q4_min)
or the stored float. One row is 4 bytes of every 128 of its panel; a row costs
a few microseconds, nothing beside the layers.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import kernel, rows_loop, scalar, scratch, tensor
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.packed_matrix import PANEL_ROWS, PackedMatrix
from mlc_server.build.kernels.cpu.vector_ops import GROUP, f16_to_f32, fma, let, splat

Expr = Any  # a TIR expression (tvm ships no types)
Buffer = Any
PrimFunc = Any


def embedding_name(matrix: PackedMatrix) -> str:
    return f"embedding_{matrix.name}"


def embedding_function(matrix: PackedMatrix, isa: VectorIsa) -> PrimFunc:
    """`embedding_name(matrix)`, for any M >= 1.

    Arguments: token_ids i32 [M]; weights u8 [any], the arena; out f32 [M, K]; offset int64, first
    byte of the matrix in the arena. Ids outside [0, N) read the nearest row, never other memory.
    """
    assert not matrix.gate_up, matrix
    with kernel(embedding_name(matrix)) as ir:
        rows = tirx.Var("num_rows", "int32")
        token_ids = tensor("token_ids", (rows,), "int32")
        arena = tensor("weights", (tirx.Var("arena_bytes", "int64"),), "uint8")
        out = tensor("out", (rows, matrix.cols), "float32")
        offset = scalar("offset")

        lookup = _Lookup(matrix, isa, arena, out)

        def emit(row: Expr) -> None:
            token = let(tirx.max(tirx.min(token_ids[row], matrix.rows - 1), 0))
            panel = tirx.Cast("int64", token // PANEL_ROWS)
            base = let(offset + panel * matrix.panel_bytes)
            lookup.emit(base, let(token % PANEL_ROWS), row)

        rows_loop(rows, emit)
    return ir.get()


class _Lookup:
    """Emits the reading of one row of the matrix: row `lane` of the panel that starts at `base`."""

    def __init__(self, matrix: PackedMatrix, isa: VectorIsa, arena: Buffer, out: Buffer) -> None:
        self._matrix = matrix
        self._isa = isa
        self._arena = arena
        self._out = out

    def emit(self, base: Expr, lane: Expr, row: Expr) -> None:
        """Writes the matrix row to row `row` of the output."""
        if self._matrix.is_quantized:
            self._quantized(base, lane, row)
        else:
            self._float(base, lane, row)

    def _load_float(self, index: Expr, dtype: str) -> Expr:
        size = 4 if dtype == "float32" else 2
        value = let(tirx.reinterpret(dtype, self._arena[tirx.Ramp(index, 1, size)]))
        if dtype == "float32":
            return value
        return f16_to_f32(value, 1, native=self._isa.has_f16)

    def _quantized(self, base: Expr, lane: Expr, row: Expr) -> None:
        matrix = self._matrix
        with builder.serial(0, matrix.groups) as group:
            block = let(base + group * matrix.block_bytes)
            scales = block + matrix.quant_bytes + lane * matrix.scale_bytes
            scale = self._load_float(scales, matrix.scale_dtype)
            minimum = None
            if matrix.has_minimum:
                minimum = self._load_float(scales + matrix.scales_bytes, matrix.scale_dtype)
            for start, quants in zip((0, 16), self._quants(block, lane), strict=True):
                steps = tirx.Cast("int32x16", quants) - splat(matrix.zero_point, 16, "int32")
                value = let(tirx.Cast("float32x16", steps))
                factor = tirx.Broadcast(scale, 16)
                if minimum is None:
                    value = let(value * factor)
                else:
                    value = let(fma(value, factor, tirx.Broadcast(minimum, 16), 16))
                self._store(row, let(group * GROUP + start), value)

    def _quants(self, block: Expr, lane: Expr) -> list[Expr]:
        """Stored weights of columns 0..15 and 16..31 of one row of a block, u8 x 16 each."""
        count = 4 * (self._matrix.bits // 4)
        quads = scratch((count,), "uint32")
        for j in range(count):
            raw = self._arena[tirx.Ramp(block + 128 * j + lane * 4, 1, 4)]
            builder.buffer_store(quads, tirx.reinterpret("uint32", raw), [j])
        halves = [
            let(tirx.reinterpret("uint8x16", quads[tirx.Ramp(start, 1, 4)]))
            for start in range(0, count, 4)
        ]
        if self._matrix.bits == 8:
            return halves
        nibbles = halves[0]
        return [nibbles & splat(0x0F, 16, "uint8"), nibbles >> splat(4, 16, "uint8")]

    def _store(self, row: Expr, column: Expr, value: Expr) -> None:
        """Writes 16 columns, fewer where the last group reaches beyond K."""
        cols = self._matrix.cols
        if cols % GROUP == 0:
            builder.buffer_store(self._out, value, [row, tirx.Ramp(column, 1, 16)])
            return
        spill = scratch((16,))
        builder.buffer_store(spill, value, [tirx.Ramp(0, 1, 16)])
        with builder.serial(0, tirx.max(tirx.min(cols - column, 16), 0)) as i:
            builder.buffer_store(self._out, spill[i], [row, column + i])

    def _float(self, base: Expr, lane: Expr, row: Expr) -> None:
        dtype = self._matrix.float_dtype
        with builder.serial(0, self._matrix.cols) as k:
            index = base + (k * self._matrix.block_bytes + lane * self._matrix.float_bytes)
            builder.buffer_store(self._out, self._load_float(index, dtype), [row, k])
