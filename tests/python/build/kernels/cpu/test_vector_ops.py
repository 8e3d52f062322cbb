"""Shared vector arithmetic: accuracy against float64, and the same bits on every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu import vector_ops
from mlc_server.build.kernels.cpu.frame import kernel, store_group, tensor
from mlc_server.build.kernels.cpu.pipeline import build_functions
from support.cpu_levels import RUNNABLE_LEVELS, target_and_isa, tensors
from support.quantized_linear import quantize_activations

LANES = 16


def apply(
    level: str, x: np.ndarray, emit: Callable[[Any], Any], out_type: str = "float32"
) -> np.ndarray:
    """`emit` applied to vectors of 16 elements of x (whose size is a multiple of 16)."""
    target, _ = target_and_isa(level)
    with kernel("apply") as ir:
        rows = tirx.Var("rows", "int32")
        source = tensor("source", (rows, LANES), str(x.dtype))
        out = tensor("out", (rows, LANES), out_type)
        with builder.serial(0, rows) as row:
            lanes = tirx.Ramp(0, 1, LANES)
            builder.buffer_store(out, emit(source[row, lanes]), [row, lanes])
    table = x.reshape(-1, LANES)
    arguments = tensors(table, np.zeros(table.shape, out_type))
    build_functions({"apply": ir.get()}, target)["apply"](*arguments)
    return arguments[1].numpy().reshape(x.shape)


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
def test_exp_is_within_one_ulp_of_the_true_value(level: str) -> None:
    x = np.linspace(-87.3, 88.3, 160000, dtype=np.float32)
    y = apply(level, x, lambda v: vector_ops.exp(v, LANES))
    true = np.exp(x.astype(np.float64))
    assert np.max(np.abs(y - true) / true) < 2.0**-23


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
def test_exp_underflows_to_zero_stays_finite_and_passes_nan(level: str) -> None:
    x = np.zeros(LANES, np.float32)
    x[:5] = [-200.0, -np.inf, 200.0, np.inf, np.nan]
    y = apply(level, x, lambda v: vector_ops.exp(v, LANES))
    assert list(y[:2]) == [0.0, 0.0]
    assert np.all(np.isfinite(y[2:4]))
    assert np.all(y[2:4] > 2e38)
    assert np.isnan(y[4])
    assert np.all(y[5:] == 1.0)


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
def test_silu_is_accurate_and_silent_at_the_ends(level: str) -> None:
    x = np.linspace(-80, 80, 160000, dtype=np.float32)
    y = apply(level, x, lambda v: vector_ops.silu(v, LANES))
    wide = x.astype(np.float64)
    true = wide / (1 + np.exp(-wide))
    assert np.max(np.abs(y - true) / np.maximum(np.abs(true), 1e-30)) < 2.0**-21
    ends = np.full(LANES, 1e30, np.float32)
    ends[::2] = -1e30
    y = apply(level, ends, lambda v: vector_ops.silu(v, LANES))
    np.testing.assert_array_equal(y[1::2], ends[1::2])
    assert np.all(np.isfinite(y))


@pytest.mark.parametrize("native", [True, False])
def test_every_f16_widens_exactly(native: bool) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    y = apply(RUNNABLE_LEVELS[0], halves, lambda v: vector_ops.f16_to_f32(v, LANES, native=native))
    true = halves.astype(np.float32)
    numbers = ~np.isnan(true)
    np.testing.assert_array_equal(y[numbers], true[numbers])
    assert np.all(np.isnan(y[~numbers]))


def quantize(level: str, x: np.ndarray) -> list[np.ndarray]:
    """(xq, xs, xi, xss) of x [rows, 32]."""
    target, _ = target_and_isa(level)
    with kernel("quantize") as ir:
        rows = tirx.Var("rows", "int32")
        source = tensor("source", (rows, 32), "float32")
        types = [(32, "int8"), (1, "float32"), (1, "int32"), (1, "float32")]
        outputs = [tensor(f"out{i}", (rows, n), t) for i, (n, t) in enumerate(types)]
        with builder.serial(0, rows) as row:
            low, high = (source[row, tirx.Ramp(start, 1, LANES)] for start in (0, LANES))
            store_group(outputs, row, 0, vector_ops.quantize_group(low, high))
    arguments = tensors(x, *(np.zeros((len(x), n), t) for n, t in types))
    build_functions({"quantize": ir.get()}, target)["quantize"](*arguments)
    return [argument.numpy() for argument in arguments[1:]]


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
def test_quantised_groups_are_bit_identical_to_the_formula(level: str) -> None:
    rng = np.random.default_rng(5)
    magnitudes = 10.0 ** rng.integers(-28, 30, (2000, 1))
    x = (rng.standard_normal((2000, 32)) * magnitudes).astype(np.float32)
    x[0] = np.arange(32) - 15.5  # ties
    expected = quantize_activations(x)
    for actual, wanted in zip(quantize(level, x), expected.tensors(), strict=True):
        np.testing.assert_array_equal(actual, wanted.reshape(actual.shape))


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
def test_zero_groups_are_zero_and_nan_stays_visible(level: str) -> None:
    x = np.zeros((4, 32), np.float32)
    x[1] = 1e-40
    x[2, 7] = np.nan
    x[3, 7] = np.inf
    xq, xs, xi, xss = quantize(level, x)
    for row in range(2):
        assert not xq[row].any()
        assert (xs[row, 0], xi[row, 0], xss[row, 0]) == (0, 0, 0)
    assert np.isnan(xs[2, 0])
    assert np.isinf(xs[3, 0])
