"""RMSNorm, and the quantisation of rows, as input of the linear layers.

Contents:
    RmsNormSpec       length, epsilon, output kind.
    rms_norm_kernel   the PrimFunc of a spec.
    quantize_kernel   f32 rows -> quantised rows, without a norm.

    y[k] = x[k] / sqrt(mean(x^2) + eps) * weight[k]

(Zhang and Sennrich, 2019, arXiv:1910.07467.) The sum of squares runs in four chains of 16 lanes
and one tree, so a row's result does not depend on the batch. Few rows run on the calling thread:
waking the others takes longer than the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import (
    LANES,
    constant,
    kernel,
    lane_sum,
    load,
    rows_loop,
    scalar,
    scratch,
    store,
    store_group,
    tensor,
)
from mlc_server.build.kernels.cpu.vector_ops import GROUP, fma, let, quantize_group, splat
from mlc_server.errors import CompileError

Expr = Any  # a TIR expression (tvm ships no types)

_CHAINS = 4


@dataclass(frozen=True)
class RmsNormSpec:
    """`size`: elements of a row, a multiple of 32."""

    size: int
    eps: float
    quantize: bool

    def __post_init__(self) -> None:
        _check_size(self.size)

    @property
    def name(self) -> str:
        """Symbol of the PrimFunc, distinct for distinct specs of one model."""
        kind = "quantized" if self.quantize else "f32"
        return f"rms_norm_{self.size}_{kind}"


def _check_size(size: int) -> None:
    if size % GROUP:
        raise CompileError(
            "rows of activations must be whole groups of 32",
            seen=f"a row of {size}",
            hint="this model's sizes are not supported; use another model",
        )


def rms_norm_kernel(spec: RmsNormSpec) -> tirx.PrimFunc:
    """RMSNorm of rows.

    Parameters, in order: x f32 [M, K]; weights u8 [any], the arena; offset i64, first byte of the
    norm's f32 [K] in the arena; then out f32 [M, K], or xq i8 [M, K], xs f32, xi i32, xss f32
    [M, K / 32].
    """
    size = spec.size
    with kernel(spec.name) as built:
        rows, arena_bytes = builder.int32(), builder.int64()
        x = tensor("x", (rows, size), "float32")
        weights = tensor("weights", (arena_bytes,), "uint8")
        offset = scalar("offset")
        outputs = _declare_outputs(rows, size, spec.quantize)

        def emit(row: Expr) -> None:
            inverse = _inverse_rms(x, row, spec)

            def normalized(column: Expr) -> Expr:
                weight_at = offset + tirx.Cast("int64", column) * 4
                raw = weights[builder.ramp(weight_at, 1, 4 * LANES)]
                weight = tirx.reinterpret(f"float32x{LANES}", raw)
                return let(let(load(x, row, column) * inverse) * weight)

            _emit_row(outputs, row, size, normalized)

        rows_loop(rows, emit)
    return built.get()


def quantize_kernel(size: int) -> tirx.PrimFunc:
    """Parameters, in order: x f32 [M, K]; xq i8 [M, K], xs f32, xi i32, xss f32 [M, K / 32]."""
    _check_size(size)
    with kernel(f"quantize_rows_{size}") as built:
        rows = builder.int32()
        x = tensor("x", (rows, size), "float32")
        outputs = _declare_outputs(rows, size, True)
        rows_loop(rows, lambda row: _emit_row(outputs, row, size, lambda k: load(x, row, k)))
    return built.get()


def _declare_outputs(rows: Expr, size: int, quantize: bool) -> list[Any]:
    if not quantize:
        return [tensor("out", (rows, size), "float32")]
    groups = size // GROUP
    return [
        tensor("xq", (rows, size), "int8"),
        tensor("xs", (rows, groups), "float32"),
        tensor("xi", (rows, groups), "int32"),
        tensor("xss", (rows, groups), "float32"),
    ]


def _emit_row(outputs: list[Any], row: Expr, size: int, value: Callable[[Expr], Expr]) -> None:
    """Writes one row; `value(k)` gives elements k .. k + 15."""
    with builder.serial(0, size // GROUP) as group:
        at = let(group * GROUP)
        low, high = value(at), value(let(at + LANES))
        if len(outputs) == 1:
            store(outputs[0], low, row, at)
            store(outputs[0], high, row, at + LANES)
        else:
            store_group(outputs, row, group, quantize_group(low, high))


def _inverse_rms(x: Any, row: Expr, spec: RmsNormSpec) -> Expr:
    """1 / sqrt(mean(x[row]^2) + eps) in 16 lanes."""
    chains = [scratch((LANES,)) for _ in range(_CHAINS)]
    for chain in chains:
        store(chain, splat(0.0, LANES), 0)

    def accumulate(chain: Any, column: Expr) -> None:
        value = load(x, row, column)
        store(chain, fma(value, value, load(chain, 0), LANES), 0)

    vectors = spec.size // LANES
    with builder.serial(0, vectors // _CHAINS) as step:
        for i, chain in enumerate(chains):
            accumulate(chain, step * (_CHAINS * LANES) + i * LANES)
    for vector in range(vectors // _CHAINS * _CHAINS, vectors):
        accumulate(chains[vector % _CHAINS], constant(vector * LANES, "int32"))
    first, second, third, fourth = (load(chain, 0) for chain in chains)
    total = lane_sum(let(first + second) + let(third + fourth))
    mean = let(total / constant(float(spec.size)))
    root = let(tirx.sqrt(mean + constant(spec.eps)))
    return let(tirx.Broadcast(constant(1.0) / root, LANES))
