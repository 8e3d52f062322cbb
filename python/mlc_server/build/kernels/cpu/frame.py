"""Building blocks for writing a PrimFunc with the TIR builder.

Contents:
    kernel      opens a function; its parameters are declared in order inside.
    tensor      a tensor parameter.
    scalar      an int64 parameter.
    scratch     memory private to one task: registers or stack when small.
    Variable    a value that changes from one iteration to the next.
    load, store contiguous vectors of a buffer.
    constant    a scalar literal.
    lane_max, lane_sum  reductions over 16 lanes in one fixed order.
    evenly_parallel  a loop whose iterations the threads share evenly.
    rows_loop   serial for few rows, parallel for many.
    store_group writes a group of quantised activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.vector_ops import GROUP, QuantizedGroup, let

Expr = Any  # a TIR expression (tvm ships no types)

LANES = 16  # f32 values of one vector; narrower targets split it without changing a bit
# A parallel loop is cut into so many stretches, which the thread pool makes into tasks, as many for
# each thread. TVM's own cut rounds the length of a stretch up: 18 iterations in 16 tasks would be 9
# tasks of 2, nearly all of them in the share of the first of two threads.
STRETCHES = 64
SERIAL_ROWS = 4  # at most so many rows are not worth waking other threads


@contextmanager
def kernel(name: str) -> Iterator[IRBuilder]:
    """Opens PrimFunc `name`; after the block, `.get()` of the yielded builder is the function."""
    with IRBuilder() as ir_builder, builder.prim_func(s_tir=True):
        builder.func_name(name)
        builder.func_attr({"global_symbol": name, "tirx.noalias": True, "tirx.is_scheduled": True})
        yield ir_builder


def tensor(name: str, shape: Sequence[Any], dtype: str) -> Any:
    """Declares tensor parameter `name`; free variables in `shape` are taken from its shape."""
    handle = builder.arg(name, builder.handle())
    return builder.match_buffer(handle, tuple(shape), dtype, layout=None)


def scalar(name: str) -> Expr:
    """Declares int64 parameter `name`."""
    return builder.arg(name, builder.int64())


def scratch(shape: Sequence[int], dtype: str = "float32") -> Any:
    """Uninitialised memory of the enclosing task; at most 1023 bytes live on the stack."""
    return builder.alloc_buffer(tuple(shape), dtype, scope="global", layout=None)


class Variable:
    """A scalar or vector in memory that LLVM keeps in a register."""

    def __init__(self, initial: Expr) -> None:
        dtype = tvm_ffi.dtype(str(initial.ty.dtype))
        self._buffer = scratch((dtype.lanes,), str(dtype.with_lanes(1)))
        self._at = tirx.Ramp(0, 1, dtype.lanes) if dtype.lanes > 1 else 0
        self.store(initial)

    def load(self) -> Expr:
        return builder.bind(self._buffer[self._at])

    def store(self, value: Expr) -> None:
        builder.buffer_store(self._buffer, value, [self._at])


def constant(value: float, dtype: str = "float32") -> Expr:
    return tirx.const(value, dtype)


def load(buffer: Any, *index: Expr, lanes: int = LANES) -> Expr:
    """`lanes` consecutive elements from `index`, bound to a variable."""
    place = (*index[:-1], builder.ramp(index[-1], 1, lanes))
    return builder.bind(buffer[place])


def store(buffer: Any, value: Expr, *index: Expr, lanes: int = LANES) -> None:
    """Writes `lanes` consecutive elements from `index`."""
    builder.buffer_store(buffer, value, [*index[:-1], builder.ramp(index[-1], 1, lanes)])


def _tree(value: Expr, combine: Any) -> Expr:
    width = LANES
    current = builder.bind(value)
    while width > 1:
        width //= 2
        low = tirx.Shuffle([current], list(range(width)))
        high = tirx.Shuffle([current], list(range(width, 2 * width)))
        current = builder.bind(combine(low, high))
    return current


def lane_max(value: Expr) -> Expr:
    """Largest of the 16 lanes, a scalar."""
    return _tree(value, tirx.max)


def lane_sum(value: Expr) -> Expr:
    """Sum of the 16 lanes as a tree: lane l with l + 8, then l + 4, l + 2, l + 1."""
    return _tree(value, lambda low, high: low + high)


@contextmanager
def evenly_parallel(count: Expr) -> Iterator[Expr]:
    """The body is run for every index, i32, in [0, count), where count <= 2^31 / STRETCHES.

    Threads get consecutive indices, and equally many of them give or take one.
    """
    with builder.parallel(0, STRETCHES) as stretch:
        number = let(tirx.Cast("int32", stretch))
        total = tirx.Cast("int32", count) if not isinstance(count, int) else count
        begin = let(number * total // STRETCHES)
        end = let((number + 1) * total // STRETCHES)
        with builder.serial(0, end - begin) as place:
            yield let(begin + place)


def rows_loop(rows: Expr, emit: Callable[[Expr], None]) -> None:
    """`emit(row)` for every row: on the calling thread when there are few, else in parallel."""
    with builder.If(rows <= SERIAL_ROWS):
        with builder.Then(), builder.serial(0, rows) as row:
            emit(row)
        with builder.Else(), evenly_parallel(rows) as row:
            emit(row)


def store_group(outputs: Sequence[Any], row: Expr, group: Expr, quantized: QuantizedGroup) -> None:
    """Writes group `group` of a row to quantised activations (xq, xs, xi, xss)."""
    quants, scales, totals, scaled_totals = outputs
    store(quants, quantized.low, row, group * GROUP)
    store(quants, quantized.high, row, group * GROUP + LANES)
    builder.buffer_store(scales, quantized.scale, [row, group])
    builder.buffer_store(totals, quantized.total, [row, group])
    builder.buffer_store(scaled_totals, quantized.scaled_total, [row, group])
