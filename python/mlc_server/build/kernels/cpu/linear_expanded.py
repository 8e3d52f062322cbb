"""Tasks of many rows: quantised weights are spelt out as bytes once for all of them.

Contents:
    ExpandedUnit   all outputs of a unit for up to ROW_BLOCK rows.

A register block works on a few rows, and splits nibbles and widens scales again for each. Here a
panel is unpacked, MAX_GROUPS groups at a time so that they stay in L1, and all rows pass over it;
their sums wait in memory of the task between parts of K. The numbers are those of `linear_blocks`,
bit for bit: a dot product's int32 starts at the bit pattern of 1.5 * 2**23, so that read as f32 it
is 1.5 * 2**23 + idot, and

    fma(1.5 * 2**23 + idot, scale, -1.5 * 2**23 * scale)

is idot * scale rounded once, like the product of the converted integer. Exact while |idot| < 2**22
(61 thousand at most here) and the second product is exact: f16 scales have 11 bits, f32 scales do
not qualify and are converted and multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import scratch
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.linear_blocks import CACHE_LINE, QuantizedBlock
from mlc_server.build.kernels.cpu.linear_epilogues import Epilogue
from mlc_server.build.kernels.cpu.packed_matrix import PANEL_ROWS, PackedMatrix
from mlc_server.build.kernels.cpu.vector_ops import (
    GROUP,
    ROUND_MAGIC,
    ROUND_MAGIC_BITS,
    fma,
    let,
    splat,
)

Expr = Any  # a TIR expression (tvm ships no types)
Buffer = Any

# Groups unpacked at a time, 1408 bytes each with f16 scales and minima: half of a 48 KiB L1.
MAX_GROUPS = 18
_GROUP_BYTES = PANEL_ROWS * GROUP  # unpacked weights of a panel's group


class ExpandedUnit(QuantizedBlock):
    """Register blocks over unpacked weights.

    Memory of a task: quants u8 [groups][8 quads][32 rows][4 columns] and factors f32
    [groups][k][32] of one part of K: the scales, the products -ROUND_MAGIC * scale where
    `_has_magic`, the minima if any; sums f32 [rows][panels of the unit][32].
    """

    def __init__(
        self,
        matrix: PackedMatrix,
        isa: VectorIsa,
        activations: list[Buffer],
        arena: Buffer,
        offset: Expr,
    ) -> None:
        super().__init__(matrix, isa, activations, arena, offset)
        self._splits_nibbles = matrix.bits == 4
        self._has_magic = matrix.scale_dtype == "float16"
        self._factors_per_group = 1 + self._has_magic + matrix.has_minimum
        self._parts = -(-matrix.groups // MAX_GROUPS)
        self._part_groups = -(-matrix.groups // self._parts)
        self._first_group: Expr = None
        self._base: Expr = None  # first byte of the panel's part of K
        self._quants: Buffer = None
        self._factors: Buffer = None
        self._sums: Buffer = None
        self._next_line: Expr = None
        self._lines: Expr = None  # prefetched by each step

    def emit_unit(
        self, unit: Expr, first: Expr, count: Expr, max_rows: int, epilogue: Epilogue
    ) -> None:
        """Rows first .. first + count - 1 of unit `unit`, count <= max_rows, and their epilogue."""
        panels = epilogue.panels_per_unit
        if self._splits_nibbles:
            self._quants = scratch((self._part_groups * _GROUP_BYTES,), "uint8")
        size = self._part_groups * self._factors_per_group * PANEL_ROWS
        self._factors = scratch((size,), "float32")
        self._sums = scratch((max_rows * panels * PANEL_ROWS,), "float32")
        self._clear_sums(count, panels)
        with builder.serial(0, panels) as panel, builder.serial(0, self._parts) as part:
            self._first_group = let(part * self._part_groups)
            groups = let(tirx.min(self._matrix.groups - self._first_group, self._part_groups))
            start = let(tirx.Cast("int64", unit * panels + panel) * self._matrix.panel_bytes)
            begin = tirx.Cast("int64", self._first_group) * self._matrix.block_bytes
            self._base = let(self._offset + start + begin)
            self._unpack(groups)
            self._multiply(groups, first, count, panel=panel, panels=panels)
        self._finish(unit, first, count, epilogue)

    def _unpack(self, groups: Expr) -> None:
        """Unpacks `groups` groups of the panel."""
        isa = self._isa
        vectors, size = PANEL_ROWS // isa.lanes, 4 * isa.lanes
        self._first = 0
        with builder.serial(0, groups) as group:
            block = let(self._base + tirx.Cast("int64", group) * self._matrix.block_bytes)
            for passed in range(4 if self._splits_nibbles else 0):
                for quad, weights in self._packed_weights(block, vectors, passed):
                    for v, weight in enumerate(weights):
                        start = group * _GROUP_BYTES + quad * 4 * PANEL_ROWS + v * size
                        builder.buffer_store(self._quants, weight, [tirx.Ramp(start, 1, size)])
            for v in range(vectors):
                for kind, factor in enumerate(self._unpacked_factors(block, v)):
                    at = self._factor_index(group, v, kind)
                    builder.buffer_store(self._factors, factor, [at])

    def _unpacked_factors(self, block: Expr, vector: int) -> list[Expr]:
        scale, minimum = self._scale_and_minimum(block, vector)
        factors = [scale]
        if self._has_magic:
            factors.append(scale * splat(-ROUND_MAGIC, self._isa.lanes))
        return factors if minimum is None else [*factors, minimum]

    def _factor_index(self, group: Expr, vector: int, kind: int) -> Expr:
        start = (group * self._factors_per_group + kind) * PANEL_ROWS
        return tirx.Ramp(start + self._first + vector * self._isa.lanes, 1, self._isa.lanes)

    def _multiply(
        self, groups: Expr, first: Expr, count: Expr, *, panel: Expr, panels: int
    ) -> None:
        """Adds the unpacked part of K to the sums of panel `panel` of the unit."""
        ahead = let(self._base + tirx.Cast("int64", groups) * self._matrix.block_bytes)
        most = self._isa.expanded_tokens
        blocks = let((count + (most - 1)) // most)
        share, longer = let(count // blocks), let(count % blocks)
        # What the next part needs comes from memory while all blocks of this one are multiplied.
        lines = self._matrix.block_bytes // CACHE_LINE
        self._lines = let((lines + (blocks - 1)) // blocks)
        with builder.serial(0, blocks) as block:
            begin = let(block * share + tirx.min(block, longer))
            tokens = let(share + tirx.Cast("int32", block < longer))
            self._row = let(first + begin)
            done = block * groups * self._lines * CACHE_LINE
            self._next_line = let(ahead + tirx.Cast("int64", done))
            for size in range(most, (most + 1) // 2 - 1, -1):
                with builder.If(tokens == size), builder.Then():
                    self._add_to_sums(begin, size, groups, panel=panel, panels=panels)

    def _add_to_sums(
        self, begin: Expr, tokens: int, groups: Expr, *, panel: Expr, panels: int
    ) -> None:
        """The rows begin .. begin + tokens - 1 of the task."""
        lanes, vectors = self._isa.lanes, self.vectors_for(tokens)
        with builder.serial(0, PANEL_ROWS // (vectors * lanes)) as column:
            self._first = let(column * (vectors * lanes))
            slots = []
            for token in range(tokens):
                start = let(((begin + token) * panels + panel) * PANEL_ROWS + self._first)
                slots.append([tirx.Ramp(start + v * lanes, 1, lanes) for v in range(vectors)])
            initial = [[let(self._sums[slot]) for slot in row] for row in slots]
            sums = self._accumulate(initial, self._base, groups)
            for row, values in zip(slots, sums, strict=True):
                for slot, value in zip(row, values, strict=True):
                    builder.buffer_store(self._sums, value, [slot])

    def _clear_sums(self, count: Expr, panels: int) -> None:
        lanes = self._isa.lanes
        with builder.serial(0, count * (panels * PANEL_ROWS // lanes)) as i:
            builder.buffer_store(self._sums, splat(0.0, lanes), [tirx.Ramp(i * lanes, 1, lanes)])

    def _finish(self, unit: Expr, first: Expr, count: Expr, epilogue: Epilogue) -> None:
        lanes, width = self._isa.lanes, epilogue.panels_per_unit * PANEL_ROWS
        with builder.serial(0, count) as row:
            epilogue.begin(unit, let(first + row), 1)
            for output in range(0, width, lanes):
                value = let(self._sums[tirx.Ramp(row * width + output, 1, lanes)])
                epilogue.put(0, output, lanes, value)
            epilogue.end()

    def _prefetch(self, block: Expr, step: Expr, outputs: int) -> None:
        del block, outputs
        with builder.serial(0, self._lines) as line:
            self._ask_for(self._next_line + (step * self._lines + line) * CACHE_LINE)

    def _prefetch_pass(self, block: Expr, passed: Expr, outputs: int) -> None:
        """Nothing: weights are in the cache, and `_prefetch` asks for what comes next."""

    @property
    def _passes(self) -> int:
        return 8

    def _weights(
        self, block: Expr, step: Expr, vectors: int, passed: Expr
    ) -> Iterator[tuple[Expr, list[Expr]]]:
        if not self._splits_nibbles:
            yield from self._packed_weights(block, vectors, passed)
            return
        size = 4 * self._isa.lanes
        start = let(step * _GROUP_BYTES + self._first * 4) + passed * (4 * PANEL_ROWS)
        yield (
            passed,
            [let(self._quants[tirx.Ramp(start + v * size, 1, size)]) for v in range(vectors)],
        )

    def _activation_group(self, step: Expr) -> Expr:
        return self._first_group + step

    def _dot_start(self, token: int, step: Expr) -> Expr:
        if not self._has_magic:
            return super()._dot_start(token, step)
        total = self._zero_point_total(token, step)
        magic = tirx.const(ROUND_MAGIC_BITS, "int32")
        return let(splat(magic if total is None else total + magic, self._isa.lanes, "int32"))

    def _rescale_factors(
        self, block: Expr, step: Expr, vector: int
    ) -> tuple[Callable[[Expr], Expr], Expr | None]:
        del block
        isa = self._isa

        def factor(kind: int) -> Expr:
            return let(self._factors[self._factor_index(step, vector, kind)])

        scale, minimum = factor(0), None
        if self._matrix.has_minimum:
            minimum = factor(self._factors_per_group - 1)
        if not self._has_magic:
            return lambda dot: tirx.Cast(isa.f32, dot) * scale, minimum
        offset = factor(1)
        return lambda dot: fma(tirx.reinterpret(isa.f32, dot), scale, offset, isa.lanes), minimum
