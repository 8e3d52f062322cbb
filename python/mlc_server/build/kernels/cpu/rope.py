"""Rotary position embedding, and the write of K and V into their pages.

Contents:
    rotary_table_kernel  cosines and sines of a step's positions, once per step.
    rotary_kernel        rotates q and k of fused qkv rows; writes K and V into pages.

RoPE is half-split (Su et al., 2021, arXiv:2104.09864, in Hugging Face's order of components):

    y[d]         = x[d] cos(p f[d]) - x[d + D/2] sin(p f[d])        d < D / 2
    y[d + D / 2] = x[d + D/2] cos(p f[d]) + x[d] sin(p f[d])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE, AttentionShape
from mlc_server.build.kernels.cpu.frame import (
    kernel,
    load,
    rows_loop,
    scalar,
    store,
    tensor,
)
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.vector_ops import f32_to_f16, fma, let, splat

Expr = Any  # a TIR expression (tvm ships no types)


def turns_per_token(inverse_frequencies: Sequence[float]) -> np.ndarray:
    """Revolutions per position, f64 [D / 2], from radians per position."""
    return np.asarray(inverse_frequencies, dtype="float64") / (2.0 * math.pi)


def _half_lanes(half: int) -> int:
    """Widest vector, at most 16 lanes, that divides half a head."""
    return math.gcd(half, 16)


def rotary_table_kernel(head_dim: int) -> tirx.PrimFunc:
    """Parameters: positions i32 [M]; turns f64 [D / 2]; table f32 [M, D]: cosines, then sines.

    Angles are reduced in f64, so the error is below 2**-22 at every position.
    """
    half = head_dim // 2
    lanes = _half_lanes(half)
    with kernel("rotary_table") as built:
        rows = builder.int32()
        positions = tensor("positions", (rows,), "int32")
        turns = tensor("turns", (half,), "float64")
        table = tensor("table", (rows, head_dim), "float32")

        def emit(row: Expr) -> None:
            position = let(tirx.Broadcast(tirx.Cast("float64", positions[row]), lanes))
            with builder.serial(0, half // lanes) as i:
                step = load(turns, i * lanes, lanes=lanes)
                cosine, sine = _cos_sin(position, step, lanes)
                store(table, cosine, row, i * lanes, lanes=lanes)
                store(table, sine, row, half + i * lanes, lanes=lanes)

        rows_loop(rows, emit)
    return built.get()


def _cos_sin(position: Expr, step: Expr, lanes: int) -> tuple[Expr, Expr]:
    """cos and sin of 2 pi position step: quarter turns split off, then Cephes' polynomials."""

    def wide(value: float) -> Expr:
        return splat(value, lanes, "float64")

    def fma64(a: Expr, b: Expr, c: Expr) -> Expr:
        return let(tirx.call_llvm_pure_intrin(f"float64x{lanes}", "llvm.fma", a, b, c))

    # 1.5 * 2**52: adding it rounds to the nearest integer, which the low bits then hold.
    magic = wide(6755399441055744.0)
    shifted = let(fma64(position, let(step * wide(4.0)), magic))
    quarters = let(shifted - magic)
    quadrant = let(
        tirx.Cast(
            f"int32x{lanes}", tirx.reinterpret(f"int64x{lanes}", shifted) & splat(3, lanes, "int64")
        )
    )
    rest = fma64(position, step, let(quarters * wide(-0.25)))
    angle = let(tirx.Cast(f"float32x{lanes}", rest * wide(2.0 * math.pi)))
    square = let(angle * angle)

    def polynomial(coefficients: Sequence[float]) -> Expr:
        value = splat(coefficients[0], lanes)
        for coefficient in coefficients[1:]:
            value = let(fma(value, square, splat(coefficient, lanes), lanes))
        return value

    cube = let(angle * square)
    sine_tail = polynomial((-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1))
    sine = let(fma(sine_tail, cube, angle, lanes))
    cosine_tail = polynomial((2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2))
    cosine_head = let(fma(square, splat(-0.5, lanes), splat(1.0, lanes), lanes))
    cosine = let(fma(cosine_tail, let(square * square), cosine_head, lanes))

    def bit(mask: int, of: Expr) -> Expr:
        return (of & splat(mask, lanes, "int32")) == splat(mask, lanes, "int32")

    zero = splat(0.0, lanes)
    swap = bit(1, quadrant)
    plain_cosine = let(tirx.Select(swap, sine, cosine))
    plain_sine = let(tirx.Select(swap, cosine, sine))
    next_quadrant = let(quadrant + splat(1, lanes, "int32"))
    result_cosine = tirx.Select(bit(2, next_quadrant), zero - plain_cosine, plain_cosine)
    result_sine = tirx.Select(bit(2, quadrant), zero - plain_sine, plain_sine)
    return let(result_cosine), let(result_sine)


@dataclass(frozen=True)
class _Rotation:
    """Rotates parts of heads of fused qkv rows by the table's angles."""

    qkv: Any
    table: Any
    half: int
    lanes: int

    def __call__(self, row: Expr, column: Expr, i: Expr) -> tuple[Expr, Expr]:
        """Components i * lanes .. and half + i * lanes .. of the head that begins at `column`."""
        lanes, half = self.lanes, self.half
        cosine = load(self.table, row, i * lanes, lanes=lanes)
        sine = load(self.table, row, half + i * lanes, lanes=lanes)
        first = load(self.qkv, row, column + i * lanes, lanes=lanes)
        second = load(self.qkv, row, column + half + i * lanes, lanes=lanes)
        minus = let(splat(0.0, lanes) - second * sine)
        plus = let(first * sine)
        return let(fma(first, cosine, minus, lanes)), let(fma(second, cosine, plus, lanes))


def rotary_kernel(shape: AttentionShape, isa: VectorIsa) -> tirx.PrimFunc:
    """Rotates q and k; scales q by 1 / sqrt(D); writes k (transposed) and v into their pages.

    Parameters, in order: qkv f32 [M, (Hq + 2 Hkv) * D]; table f32 [M, D] of `rotary_table`;
    write_slots i32 [M], page * 16 + token in page; kv_pages f16 [layers, pages, Hkv, 2, 16 * D],
    written in place; layer i64; q f32 [M, Hq * D].
    """
    dim, half = shape.head_dim, shape.head_dim // 2
    lanes = _half_lanes(half)
    q_width = shape.width
    kv_width = shape.num_kv_heads * dim
    with kernel("rotary") as built:
        rows, pages = builder.int32(), builder.int64()
        qkv = tensor("qkv", (rows, q_width + 2 * kv_width), "float32")
        table = tensor("table", (rows, dim), "float32")
        write_slots = tensor("write_slots", (rows,), "int32")
        kv_shape = (shape.num_layers, pages, shape.num_kv_heads, 2, PAGE_SIZE * dim)
        kv = tensor("kv_pages", kv_shape, "float16")
        layer = scalar("layer")
        q = tensor("q", (rows, q_width), "float32")

        rotate = _Rotation(qkv, table, half, lanes)
        scale = splat(1.0 / math.sqrt(dim), lanes)

        def emit_query(row: Expr, head: Expr, i: Expr) -> None:
            first, second = rotate(row, head * dim, i)
            store(q, first * scale, row, head * dim + i * lanes, lanes=lanes)
            store(q, second * scale, row, head * dim + half + i * lanes, lanes=lanes)

        def emit_key_value(row: Expr, page: Expr, token: Expr, head: Expr, *, i: Expr) -> None:
            place = (layer, page, tirx.Cast("int64", head))
            values_at = let(q_width + kv_width + head * dim)
            for part, key in enumerate(rotate(row, q_width + head * dim, i)):
                column = let(part * half + i * lanes)
                index = builder.ramp(column * PAGE_SIZE + token, PAGE_SIZE, lanes)
                half_key = f32_to_f16(key, lanes, native=isa.has_f16)
                builder.buffer_store(kv, half_key, [*place, 0, index])
                value = load(qkv, row, values_at + column, lanes=lanes)
                half_value = f32_to_f16(value, lanes, native=isa.has_f16)
                store(kv, half_value, *place, 1, token * dim + column, lanes=lanes)

        def emit(row: Expr) -> None:
            parts = half // lanes
            with builder.serial(0, shape.num_q_heads) as head, builder.serial(0, parts) as i:
                emit_query(row, head, i)
            slot = let(write_slots[row])
            page = let(tirx.Cast("int64", slot // PAGE_SIZE))
            token = let(slot % PAGE_SIZE)
            with builder.serial(0, shape.num_kv_heads) as head, builder.serial(0, parts) as i:
                emit_key_value(row, page, token, head, i=i)

        rows_loop(rows, emit)
    return built.get()
