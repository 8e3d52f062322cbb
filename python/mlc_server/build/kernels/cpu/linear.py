"""Linear layers on the CPU: `out[m, n] = sum_k W[n, k] x[m, k]` with W in the packed arena.

Contents:
    LinearSpec       which matrix, what follows the product, bias or not.
    linear_function  the PrimFunc of a spec; `LinearSpec.name` is its symbol.

One formula for every row m and output n, whatever M, the thread count or the vector level, so a
row's result never depends on what else is in the batch. Quantised schemes, groups g ascending:

    idot = sum_k q[n, k] * xq[m, k]             exact, int32 (k in group g)
    acc  = fma(f32(idot - z * xi[m, g]) * scale[n, g], xs[m, g], acc)
    acc  = fma(min[n, g], xss[m, g], acc)       q4_min only (z = 0)

Float schemes: `acc = fma(W[n, k], x[m, k], acc)`, k ascending. acc starts at 0; then bias (acc +
bias[n]) and the epilogue.

Work is cut into units of 32 outputs x up to ROW_BLOCK rows, one task each; a unit's weights stay in
L1 (L2 when K is large) while the rows stream through register blocks (`linear_blocks`).

Floors, for linear weights of B bytes (4.5 or 5 bits a weight, 8.5 for q8): M = 1 reads B bytes, so
B / DRAM bandwidth; large M makes N K M multiply-adds, on avx512vnni 64 an instruction and two
instructions a cycle. A group, 16 outputs and a row take 8 dot instructions and 2 (q4_min 3) of
rescaling for the same two pipes, so GEMM ends at 80 % (73 %) of a peak of pure dot products.
Measured on one Zen 5 core, where such a loop reached 890 GOPS: q4_min 670-700 GOPS, q4_z7 730-770,
M = 1 and 2 at the core's read bandwidth, M = 4 at 500 GOPS from DRAM. On avx2 a byte of nibbles
takes a multiplication and an addition of half as many lanes, bytes two multiplications.

On a small core M = 1 is a matter of order: memory asked for evenly, as much as the core can have on
its way, between dot products that a short scheduler can tell apart from the rescaling. Two Zen 1
cores that read 12 GB/s each stream q4_min at 10.2 and q8 at 11.4; with a group's prefetches in one
place and straight code 9.8 and 8.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import evenly_parallel, kernel, scalar, tensor
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.linear_blocks import FloatBlock, QuantizedBlock, RegisterBlock
from mlc_server.build.kernels.cpu.linear_epilogues import Epilogue, make_epilogue
from mlc_server.build.kernels.cpu.linear_expanded import ExpandedUnit
from mlc_server.build.kernels.cpu.packed_matrix import PANEL_ROWS, PackedMatrix
from mlc_server.build.kernels.cpu.vector_ops import GROUP, let

Expr = Any  # a TIR expression (tvm ships no types)
Buffer = Any
PrimFunc = Any

# Rows of one task: enough that reading a unit's weights from L2 is a small part of the work, few
# enough that a unit's activations stay there too. Fewer, down to MIN_ROW_BLOCK, where the outputs
# alone make too few tasks to share out.
ROW_BLOCK = 120
MIN_ROW_BLOCK = 32
MIN_TASKS = 64


@dataclass(frozen=True)
class LinearSpec:
    """A linear layer.

    epilogue: what becomes of acc [M, N]
        "store"     out f32 [M, N] = acc
        "residual"  out f32 [M, N] = residual f32 [M, N] + acc
        "residual_inplace"  hidden f32 [M, N] += acc
        "gate_up_quantized" h = silu(gate) * up, quantised: xq i8 [M, I], xs f32, xi i32, xss f32
                    [M, I / 32], with I = N / 2 rounded up to a multiple of 32
        "gate_up_float"     out f32 [M, I] = silu(gate) * up, I = N / 2
    bias: adds bias f32 [N], which lies in the arena.
    """

    matrix: PackedMatrix
    epilogue: str = "store"
    bias: bool = False

    def __post_init__(self) -> None:
        assert self.epilogue.startswith("gate_up") == self.matrix.gate_up, self
        assert not (self.bias and self.matrix.gate_up), self

    @property
    def name(self) -> str:
        """Symbol of the PrimFunc, distinct for distinct specs."""
        return f"linear_{self.matrix.name}_{self.epilogue}{'_bias' if self.bias else ''}"


def linear_function(spec: LinearSpec, isa: VectorIsa) -> PrimFunc:
    """The PrimFunc `spec.name`, for any M >= 1.

    Arguments, in this order:
        activations   quantised: xq i8 [M, Kp], xs f32 [M, Kp/32], xi i32, xss f32 likewise, Kp = K
                      rounded up to a multiple of 32; float schemes: x f32 [M, K]
        weights       u8 [any], the arena
        residual      f32 [M, N]            epilogue "residual"
        outputs       as `LinearSpec.epilogue`
        offset        int64, first byte of the matrix in the arena
        bias_offset   int64, first byte of the bias        when `spec.bias`
    """
    with kernel(spec.name) as ir:
        _Kernel(spec, isa).emit()
    return ir.get()


class _Kernel:
    """Arguments of the PrimFunc being built, and its loops over tasks and register blocks."""

    def __init__(self, spec: LinearSpec, isa: VectorIsa) -> None:
        self._matrix = spec.matrix
        self._isa = isa
        self._rows = tirx.Var("num_rows", "int32")
        activations = self._match_activations()
        arena_bytes = tirx.Var("arena_bytes", "int64")
        arena = tensor("weights", (arena_bytes,), "uint8")
        self._epilogue: Epilogue = make_epilogue(spec.epilogue, spec.matrix, self._rows)
        offset = scalar("offset")
        bias_offset = None
        if spec.bias:
            bias_offset = scalar("bias_offset")
        self._epilogue.set_bias(arena, bias_offset)
        block_class = QuantizedBlock if spec.matrix.is_quantized else FloatBlock
        self._block: RegisterBlock = block_class(spec.matrix, isa, activations, arena, offset)
        self._expanded: ExpandedUnit | None = None
        if spec.matrix.is_quantized:
            self._expanded = ExpandedUnit(spec.matrix, isa, activations, arena, offset)

    def _match_activations(self) -> list[Buffer]:
        if not self._matrix.is_quantized:
            return [tensor("x", (self._rows, self._matrix.cols), "float32")]
        groups = self._matrix.groups
        return [
            tensor("xq", (self._rows, groups * GROUP), "int8"),
            tensor("xs", (self._rows, groups), "float32"),
            tensor("xi", (self._rows, groups), "int32"),
            tensor("xss", (self._rows, groups), "float32"),
        ]

    def emit(self) -> None:
        """One row is a case of its own: dividing up the rows takes as long as a group's work."""
        units = self._matrix.panels // self._epilogue.panels_per_unit
        with builder.If(self._rows == 1):
            with builder.Then(), evenly_parallel(units) as unit:
                self._emit_block(unit, tirx.const(0, "int32"), 1)
            with builder.Else():
                self._emit_tasks(units)

    def _emit_tasks(self, units: int) -> None:
        most = (self._rows + (MIN_ROW_BLOCK - 1)) // MIN_ROW_BLOCK
        fewest = (self._rows + (ROW_BLOCK - 1)) // ROW_BLOCK
        row_blocks = let(tirx.max(fewest, tirx.min(most, -(-MIN_TASKS // units))))
        with evenly_parallel(units * row_blocks) as task:
            unit = let(task // row_blocks)
            index = let(task % row_blocks)
            share = let(self._rows // row_blocks)
            longer = let(self._rows % row_blocks)
            first = let(index * share + tirx.min(index, longer))
            count = let(share + tirx.Cast("int32", index < longer))
            self._emit_rows(unit, first, count)

    def _emit_rows(self, unit: Expr, first: Expr, count: Expr) -> None:
        """Rows first .. first + count - 1 of a unit, whose weights are unpacked for many."""
        if self._expanded is None:
            self._emit_blocks(unit, first, count)
            return
        with builder.If(count < self._isa.min_expanded_rows):
            with builder.Then():
                self._emit_blocks(unit, first, count)
            with builder.Else():
                self._expanded.emit_unit(unit, first, count, ROW_BLOCK, self._epilogue)

    def _emit_blocks(self, unit: Expr, first: Expr, count: Expr) -> None:
        """Cuts `count` rows into blocks of nearly equal size, at most max_tokens each."""
        limit = self._isa.max_tokens
        blocks = let((count + (limit - 1)) // limit)
        share = let(count // blocks)
        longer = let(count % blocks)
        with builder.serial(0, blocks) as block:
            row = let(first + block * share + tirx.min(block, longer))
            tokens = let(share + tirx.Cast("int32", block < longer))
            for size in range(limit, 0, -1):
                with builder.If(tokens == size), builder.Then():
                    self._emit_block(unit, row, size)

    def _emit_block(self, unit: Expr, row: Expr, tokens: int) -> None:
        """All outputs of one unit for `tokens` rows."""
        lanes, vectors = self._isa.lanes, self._block.vectors_for(tokens)
        panels = self._epilogue.panels_per_unit
        parts = PANEL_ROWS // (vectors * lanes)
        self._epilogue.begin(unit, row, tokens)
        with builder.serial(0, panels) as panel, builder.serial(0, parts) as part:
            first = let(part * (vectors * lanes))
            values = self._block.emit(let(unit * panels + panel), first, row, tokens)
            for token in range(tokens):
                for vector, value in enumerate(values[token]):
                    output = panel * PANEL_ROWS + first + vector * lanes
                    self._epilogue.put(token, output, lanes, value)
        self._epilogue.end()
