"""RMSNorm and row quantisation against float64 NumPy; rows do not depend on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from mlc_server.build.kernels.cpu.norm import RmsNormSpec, quantize_kernel, rms_norm_kernel
from mlc_server.build.kernels.cpu.pipeline import build_functions
from mlc_server.build.targets import resolve_target
from mlc_server.errors import CompileError

EPS = 1e-5
OFFSET = 128


def quantized_outputs(rows: int, size: int) -> list[tvm.runtime.Tensor]:
    groups = size // 32
    arrays = [
        np.full((rows, size), 99, "int8"),
        np.full((rows, groups), np.nan, "float32"),
        np.full((rows, groups), 99, "int32"),
        np.full((rows, groups), np.nan, "float32"),
    ]
    return [tvm.runtime.tensor(a) for a in arrays]


def reference_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    wide = x.astype("float64")
    return wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + EPS) * weight


def arena_with(weight: np.ndarray) -> np.ndarray:
    arena = np.zeros(OFFSET + 4 * len(weight) + 64, "uint8")
    arena[OFFSET : OFFSET + 4 * len(weight)] = weight.view("uint8")
    return arena


def check_quantized(outputs: list[np.ndarray], y: np.ndarray) -> None:
    """quant = round(y / scale), scale = amax / 127, and the sums fit the quants exactly."""
    quants, scales, totals, scaled_totals = outputs
    grouped = y.reshape(len(y), -1, 32)
    np.testing.assert_allclose(scales, np.abs(grouped).max(-1) / 127, rtol=1e-5)
    values = quants.reshape(grouped.shape)
    restored = values * scales[..., None].astype("float64")
    assert np.all(np.abs(restored - grouped) <= 0.501 * scales[..., None])
    np.testing.assert_array_equal(totals, values.astype("int32").sum(-1))
    np.testing.assert_array_equal(scaled_totals, scales * totals.astype("float32"))


@pytest.mark.parametrize("size", [64, 96, 576])
@pytest.mark.parametrize("rows", [1, 4, 5, 33])
def test_rms_norm_is_right_and_quantised_rows_restore_it(size: int, rows: int) -> None:
    rng = np.random.default_rng(size + rows)
    x = (rng.normal(size=(rows, size)) * 3).astype("float32")
    weight = rng.normal(size=size).astype("float32")
    y = reference_norm(x, weight)
    functions = {
        "plain": rms_norm_kernel(RmsNormSpec(size, EPS, quantize=False)),
        "quantized": rms_norm_kernel(RmsNormSpec(size, EPS, quantize=True)),
    }
    module = build_functions(functions, resolve_target("auto").target)
    inputs = [tvm.runtime.tensor(x), tvm.runtime.tensor(arena_with(weight))]
    out = tvm.runtime.tensor(np.full((rows, size), np.nan, "float32"))
    module["plain"](*inputs, OFFSET, out)
    np.testing.assert_allclose(out.numpy(), y, rtol=2e-6, atol=1e-7)
    outputs = quantized_outputs(rows, size)
    module["quantized"](*inputs, OFFSET, *outputs)
    check_quantized([o.numpy() for o in outputs], y)


def test_a_row_is_the_same_in_every_batch() -> None:
    size = 320
    rng = np.random.default_rng(7)
    x = rng.normal(size=(40, size)).astype("float32")
    arena = tvm.runtime.tensor(arena_with(rng.normal(size=size).astype("float32")))
    functions = {"plain": rms_norm_kernel(RmsNormSpec(size, EPS, quantize=False))}
    module = build_functions(functions, resolve_target("auto").target)
    whole = tvm.runtime.tensor(np.zeros((40, size), "float32"))
    module["plain"](tvm.runtime.tensor(x), arena, OFFSET, whole)
    for rows in ([0], [39, 0, 17], list(range(3, 20))):
        some = tvm.runtime.tensor(np.zeros((len(rows), size), "float32"))
        module["plain"](tvm.runtime.tensor(x[rows]), arena, OFFSET, some)
        np.testing.assert_array_equal(some.numpy(), whole.numpy()[rows])


def test_quantize_rows_covers_zero_and_large_groups() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 128)).astype("float32")
    x[0, 32:64] = 0
    x[1] *= 1e8
    module = build_functions({"q": quantize_kernel(128)}, resolve_target("auto").target)
    outputs = quantized_outputs(6, 128)
    module["q"](tvm.runtime.tensor(x), *outputs)
    arrays = [o.numpy() for o in outputs]
    check_quantized(arrays, x)
    assert not arrays[0][0, 32:64].any()
    assert arrays[1][0, 1] == 0


def test_a_row_of_partial_groups_is_refused_with_its_size() -> None:
    with pytest.raises(CompileError) as error:
        RmsNormSpec(72, EPS, quantize=True)
    assert "72" in error.value.seen
