"""Brings weights from the disk's layout into the kernels' own, at load time.

Contents:
    pack_function         disk tensors of a matrix -> its bytes in the arena.
    pack_vector_function  a norm weight or a bias, widened to f32.

Cost: one pass over source and destination, bound by memory; parallel over panels of 32 rows.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import kernel, scratch, tensor
from mlc_server.build.kernels.cpu.packed_matrix import PANEL_ROWS, PackedMatrix
from mlc_server.build.kernels.cpu.vector_ops import GROUP, let

__all__ = ["PackedMatrix", "pack_function", "pack_vector_function"]

Expr = Any  # a TIR expression (tvm ships no types)
Buffer = Any
PrimFunc = Any


def pack_function(matrix: PackedMatrix) -> PrimFunc:
    """`pack_<matrix.name>(sources..., dst u8[nbytes])`, sources as `matrix.source_types`."""
    with kernel(f"pack_{matrix.name}") as ir:
        suffixes_and_types = zip(matrix.source_suffixes, matrix.source_types, strict=True)
        sources = [
            tensor(suffix[1:], shape, dtype) for suffix, (shape, dtype) in suffixes_and_types
        ]
        dst = tensor("dst", (matrix.nbytes,), "uint8")
        with builder.parallel(0, matrix.panels) as panel:
            packer = _PanelPacker(matrix, panel, dst)
            if matrix.is_quantized:
                packer.pack_quantized(sources[0], sources[1:])
            else:
                packer.pack_float(sources[0])
    return ir.get()


def pack_vector_function(length: int, dtype: str) -> PrimFunc:
    """`pack_vector_<dtype>_<length>(src dtype[length], dst u8[4 * length])`: values as f32."""
    with kernel(f"pack_vector_{dtype}_{length}") as ir:
        source = tensor("src", (length,), dtype)
        dst = tensor("dst", (4 * length,), "uint8")
        with builder.serial(0, length) as i:
            value = tirx.reinterpret("uint8x4", tirx.Cast("float32", source[i]))
            builder.buffer_store(dst, value, [tirx.Ramp(i * 4, 1, 4)])
    return ir.get()


class _PanelPacker:
    """Emits the packing of one panel, 32 rows."""

    def __init__(self, matrix: PackedMatrix, panel: Expr, dst: Buffer) -> None:
        self._matrix = matrix
        self._dst = dst
        self._start = let(tirx.Cast("int64", panel) * matrix.panel_bytes)
        self._first_row = let(panel * (PANEL_ROWS // 2 if matrix.gate_up else PANEL_ROWS))

    def pack_quantized(self, weights: Buffer, scales: list[Buffer]) -> None:
        """Blocks of 32 columns: weights, then scales (and minima)."""
        matrix = self._matrix
        with builder.serial(0, matrix.groups) as group:
            base = let(self._start + group * matrix.block_bytes)
            if matrix.scheme == "q8":
                self._pack_bytes(weights, group, base)
            else:
                self._pack_nibbles(weights, group, base)
            for i, source in enumerate(scales):
                # Padding rows get zero scales, so whatever weights they hold they compute zero.
                values = self._gather(matrix.scale_dtype, source, group, zero_padding=True)
                offset = base + matrix.quant_bytes + i * matrix.scales_bytes
                self._store(offset, values, matrix.scales_bytes)

    def pack_float(self, weights: Buffer) -> None:
        """[K][32] values."""
        matrix = self._matrix
        with builder.serial(0, matrix.cols) as k:
            values = self._gather(matrix.float_dtype, weights, k, zero_padding=True)
            self._store(self._start + k * matrix.block_bytes, values, matrix.block_bytes)

    def _pack_nibbles(self, source: Buffer, group: Expr, base: Expr) -> None:
        """u32 words of 8 nibbles -> vectors of (column, column + 16) nibble pairs."""

        def constant(value: int) -> Expr:
            return tirx.Broadcast(tirx.const(value, "uint32"), PANEL_ROWS)

        def spread(halfword: Expr) -> Expr:
            # Four nibbles of 16 bits -> the low halves of four bytes.
            x = let((halfword | (halfword << constant(8))) & constant(0x00FF00FF))
            return let((x | (x << constant(4))) & constant(0x0F0F0F0F))

        words = [self._gather("uint32", source, group * 4 + w) for w in range(4)]
        for j in range(4):
            low, high = words[j // 2], words[j // 2 + 2]
            if j % 2:
                low, high = low >> constant(16), high >> constant(16)
            low = spread(let(low & constant(0xFFFF)))
            high = spread(let(high & constant(0xFFFF)))
            self._store(base + 128 * j, low | (high << constant(4)), 128)

    def _pack_bytes(self, source: Buffer, group: Expr, base: Expr) -> None:
        """int8 weights -> vectors of 4 columns per row, offset to unsigned."""
        sign_bits = tirx.Broadcast(tirx.const(0x80808080, "uint32"), PANEL_ROWS)
        for j in range(8):
            columns = tirx.Ramp(group * GROUP + 4 * j, 1, 4)
            words = self._gather("uint32", source, columns)
            self._store(base + 128 * j, words ^ sign_bits, 128)

    def _gather(
        self, dtype: str, source: Buffer, column: Expr, *, zero_padding: bool = False
    ) -> Expr:
        """`source[row, column]` of the panel's rows as a vector of `dtype`.

        `column` may be a ramp whose elements together have the size of `dtype`. Rows that do not
        exist repeat the last one, or are zero with `zero_padding`.
        """
        matrix = self._matrix
        lanes = scratch((PANEL_ROWS,), dtype)
        for r in range(PANEL_ROWS):
            part, row = divmod(r, PANEL_ROWS // 2) if matrix.gate_up else (0, r)
            row = self._first_row + row
            existing = part * matrix.part_rows + tirx.min(row, matrix.part_rows - 1)
            value = tirx.reinterpret(dtype, source[existing, column])
            if zero_padding:
                exists = row < matrix.part_rows
                value = tirx.Select(exists, value, tirx.const(0, dtype))
            builder.buffer_store(lanes, value, [r])
        return let(lanes[tirx.Ramp(0, 1, PANEL_ROWS)])

    def _store(self, index: Expr, value: Expr, nbytes: int) -> None:
        as_bytes = tirx.reinterpret(f"uint8x{nbytes}", value)
        builder.buffer_store(self._dst, as_bytes, [tirx.Ramp(index, 1, nbytes)])
