"""What becomes of a linear layer's accumulators.

Contents:
    Epilogue        called by the kernel for each register block, in task order.
    make_epilogue   the epilogue of a `LinearSpec`.

A unit is 32 outputs of the layer: one panel, or two where SiLU(gate) * up makes one output of two
rows (each panel: 16 gate, 16 up). Every unit owns whole groups of 32, so it can quantise them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import scratch, tensor
from mlc_server.build.kernels.cpu.packed_matrix import PANEL_ROWS, PackedMatrix
from mlc_server.build.kernels.cpu.vector_ops import let, quantize_group, silu, vector_type

Expr = Any  # a TIR expression (tvm ships no types)
Buffer = Any

_HALF = PANEL_ROWS // 2
_STAGED_VALUES = 2 * PANEL_ROWS  # f32 values of one row that wait for SiLU: gate, up, gate, up
# Rows per staging buffer: TVM keeps buffers below 1024 bytes on the stack, others on the heap.
_STAGED_TOKENS = 3


class Epilogue(ABC):
    """Receives the accumulators of one unit and some rows: begin, put (each vector), end."""

    panels_per_unit = 1

    def __init__(self, matrix: PackedMatrix) -> None:
        self._matrix = matrix
        self._arena: Buffer = None
        self._bias_offset: Expr = None
        self._unit: Expr = None
        self._row: Expr = None
        self._tokens = 0

    def set_bias(self, arena: Buffer, bias_offset: Expr | None) -> None:
        """Names the bias, f32 [N] at `bias_offset` in the arena; None: no bias."""
        self._arena = arena
        self._bias_offset = bias_offset

    def begin(self, unit: Expr, row: Expr, tokens: int) -> None:
        """Starts `tokens` rows from `row` of unit `unit`."""
        self._unit, self._row, self._tokens = unit, row, tokens

    @abstractmethod
    def put(self, token: int, output: Expr, lanes: int, value: Expr) -> None:
        """`value`: f32 x lanes, outputs from `output` of the unit (0..31, gate_up 0..63)."""

    @abstractmethod
    def end(self) -> None:
        """All vectors of the rows have been put."""


class _Store(Epilogue):
    """out = acc + bias (+ residual), straight from registers; N is a multiple of 32."""

    def __init__(self, matrix: PackedMatrix, rows: Expr, residual: str | None) -> None:
        super().__init__(matrix)
        shape = (rows, matrix.rows)
        self._residual = tensor("residual", shape, "float32") if residual == "separate" else None
        self._out = tensor("out", shape, "float32")
        if residual == "inplace":
            self._residual = self._out

    def put(self, token: int, output: Expr, lanes: int, value: Expr) -> None:
        column = let(self._unit * PANEL_ROWS + output)
        self._store(self._row + token, column, lanes, value)

    def end(self) -> None:
        """Nothing is left to do: every vector was stored when it was put."""

    def _store(self, row: Expr, column: Expr, lanes: int, value: Expr) -> None:
        index = column if lanes == 1 else tirx.Ramp(column, 1, lanes)
        if self._bias_offset is not None:
            start = self._bias_offset + tirx.Cast("int64", column) * 4
            raw = self._arena[tirx.Ramp(start, 1, 4 * lanes)]
            value = value + tirx.reinterpret(vector_type("float32", lanes), raw)
        if self._residual is not None:
            value = self._residual[row, index] + value
        builder.buffer_store(self._out, value, [row, index])


class _RaggedStore(_Store):
    """The same for any N: the last unit hangs over, so rows wait in L1 and leave value by value."""

    def begin(self, unit: Expr, row: Expr, tokens: int) -> None:
        super().begin(unit, row, tokens)
        self._staged = scratch((tokens * PANEL_ROWS,))

    def put(self, token: int, output: Expr, lanes: int, value: Expr) -> None:
        start = output + token * PANEL_ROWS
        builder.buffer_store(self._staged, value, [tirx.Ramp(start, 1, lanes)])

    def end(self) -> None:
        first = let(self._unit * PANEL_ROWS)
        count = let(tirx.min(self._matrix.rows - first, PANEL_ROWS))
        with builder.serial(0, self._tokens) as token, builder.serial(0, count) as i:
            self._store(self._row + token, first + i, 1, self._staged[token * PANEL_ROWS + i])


class _GateUp(Epilogue):
    """h = silu(gate) * up for the 32 outputs of a unit, by way of a buffer in L1."""

    panels_per_unit = 2

    def begin(self, unit: Expr, row: Expr, tokens: int) -> None:
        super().begin(unit, row, tokens)
        sizes = [min(_STAGED_TOKENS, tokens - first) for first in range(0, tokens, _STAGED_TOKENS)]
        self._staged = [(size, scratch((size * _STAGED_VALUES,))) for size in sizes]

    def put(self, token: int, output: Expr, lanes: int, value: Expr) -> None:
        _, buffer = self._staged[token // _STAGED_TOKENS]
        start = output + token % _STAGED_TOKENS * _STAGED_VALUES
        builder.buffer_store(buffer, value, [tirx.Ramp(start, 1, lanes)])

    def end(self) -> None:
        for i, (size, buffer) in enumerate(self._staged):
            with builder.serial(0, size) as token:
                outputs = []
                for half in range(2):
                    start = token * _STAGED_VALUES + half * PANEL_ROWS
                    gate = buffer[tirx.Ramp(start, 1, _HALF)]
                    up = buffer[tirx.Ramp(start + _HALF, 1, _HALF)]
                    outputs.append(let(silu(gate, _HALF) * up))
                self._finish(let(self._row + i * _STAGED_TOKENS + token), *outputs)

    @abstractmethod
    def _finish(self, row: Expr, low: Expr, high: Expr) -> None:
        """Writes outputs 0..15 and 16..31 of the unit."""


class _GateUpQuantized(_GateUp):
    def __init__(self, matrix: PackedMatrix, rows: Expr) -> None:
        super().__init__(matrix)
        groups = matrix.panels // 2
        self._quants = tensor("out_xq", (rows, groups * PANEL_ROWS), "int8")
        self._scale = tensor("out_xs", (rows, groups), "float32")
        self._total = tensor("out_xi", (rows, groups), "int32")
        self._scaled_total = tensor("out_xss", (rows, groups), "float32")

    def _finish(self, row: Expr, low: Expr, high: Expr) -> None:
        group = quantize_group(low, high)
        for start, quants in ((0, group.low), (_HALF, group.high)):
            column = self._unit * PANEL_ROWS + start
            builder.buffer_store(self._quants, quants, [row, tirx.Ramp(column, 1, _HALF)])
        builder.buffer_store(self._scale, group.scale, [row, self._unit])
        builder.buffer_store(self._total, group.total, [row, self._unit])
        builder.buffer_store(self._scaled_total, group.scaled_total, [row, self._unit])


class _GateUpFloat(_GateUp):
    def __init__(self, matrix: PackedMatrix, rows: Expr) -> None:
        super().__init__(matrix)
        self._out = tensor("out", (rows, matrix.part_rows), "float32")

    def _finish(self, row: Expr, low: Expr, high: Expr) -> None:
        size = self._matrix.part_rows
        column = let(self._unit * PANEL_ROWS)
        if size % PANEL_ROWS == 0:
            builder.buffer_store(self._out, low, [row, tirx.Ramp(column, 1, _HALF)])
            start = column + _HALF
            builder.buffer_store(self._out, high, [row, tirx.Ramp(start, 1, _HALF)])
            return
        spill = scratch((PANEL_ROWS,))
        builder.buffer_store(spill, low, [tirx.Ramp(0, 1, _HALF)])
        builder.buffer_store(spill, high, [tirx.Ramp(_HALF, 1, _HALF)])
        with builder.serial(0, tirx.min(size - column, PANEL_ROWS)) as lane:
            builder.buffer_store(self._out, spill[lane], [row, column + lane])


def make_epilogue(kind: str, matrix: PackedMatrix, rows: Expr) -> Epilogue:
    """The epilogue `kind` of `LinearSpec`; declares its tensor parameters, in order."""
    if kind == "gate_up_quantized":
        return _GateUpQuantized(matrix, rows)
    if kind == "gate_up_float":
        return _GateUpFloat(matrix, rows)
    residual = {"store": None, "residual": "separate", "residual_inplace": "inplace"}[kind]
    ragged = matrix.rows % PANEL_ROWS != 0
    return (_RaggedStore if ragged else _Store)(matrix, rows, residual)
