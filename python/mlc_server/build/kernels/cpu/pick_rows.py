"""Copies of listed rows: what the last layer goes on with when few rows' logits are wanted.

Contents:
    Columns            width and type of one tensor's rows.
    pick_rows_kernel   the PrimFunc for several tensors at once; `pick_rows_name` is its symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import kernel, tensor
from mlc_server.build.kernels.cpu.vector_ops import let


class Columns(NamedTuple):
    """Rows of `width` values of `dtype`."""

    width: int
    dtype: str


def pick_rows_name(columns: Sequence[Columns]) -> str:
    """Symbol of the PrimFunc, distinct for distinct columns."""
    return "_".join(["pick_rows", *(f"{width}_{dtype}" for width, dtype in columns)])


def pick_rows_kernel(columns: Sequence[Columns]) -> tirx.PrimFunc:
    """out_i[l] = x_i[rows[l]] for each of `columns`, on the calling thread.

    Parameters, in order: x_i [M, width] of each of `columns`; rows i32 [L], of 0 .. M - 1; out_i
    [L, width] of each.
    """
    with kernel(pick_rows_name(columns)) as built:
        num_rows, num_picked = builder.int32(), builder.int32()
        sources = [tensor(f"x{i}", (num_rows, c.width), c.dtype) for i, c in enumerate(columns)]
        rows = tensor("rows", (num_picked,), "int32")
        copies = [tensor(f"out{i}", (num_picked, c.width), c.dtype) for i, c in enumerate(columns)]
        with builder.serial(0, num_picked) as index:
            row = let(rows[index])
            for source, copy, (width, _) in zip(sources, copies, columns, strict=True):
                with builder.serial(0, width) as k:
                    builder.buffer_store(copy, source[row, k], [index, k])
    return built.get()
