"""Linear layers: bit for bit the documented formula, for every level and any number of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from mlc_server.build.kernels.cpu.linear import LinearSpec, linear_function
from mlc_server.build.kernels.cpu.pack import pack_function
from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix
from mlc_server.build.kernels.cpu.pipeline import build_functions
from support.cpu_levels import HOST, RUNNABLE_LEVELS, target_and_isa, tensors
from support.quantized_linear import (
    Activations,
    dequantize_activations,
    dequantized_weights,
    linear_float,
    linear_quantized,
    quantize_activations,
    random_sources,
)

ROW_COUNTS = (1, 2, 3, 5, 8, 9, 17, 64, 513)
OFFSET = 192  # of the matrix in the arena


@dataclass(frozen=True)
class Layer:
    """A compiled layer, its disk tensors and the arena that holds it, bias first."""

    spec: LinearSpec
    function: Any
    sources: list[np.ndarray]
    bias: np.ndarray
    arena: Any

    def run(self, activations: list[np.ndarray], *outputs: np.ndarray) -> list[np.ndarray]:
        """Outputs (and residual) are passed in order and returned after the call."""
        results = tensors(*outputs)
        offsets = [OFFSET, 0] if self.spec.bias else [OFFSET]
        self.function(*tensors(*activations), self.arena, *results, *offsets)
        return [result.numpy() for result in results]

    def store(self, activations: list[np.ndarray]) -> np.ndarray:
        rows = len(activations[0])
        return self.run(activations, np.full((rows, self.spec.matrix.rows), np.nan, "float32"))[0]


@cache
def packed(matrix: PackedMatrix) -> tuple[list[np.ndarray], np.ndarray]:
    sources = random_sources(matrix)
    name = f"pack_{matrix.name}"
    arguments = tensors(*sources, np.zeros(matrix.nbytes, np.uint8))
    build_functions({name: pack_function(matrix)}, HOST)[name](*arguments)
    return sources, arguments[-1].numpy()


@cache
def layer(spec: LinearSpec, level: str) -> Layer:
    target, isa = target_and_isa(level)
    sources, image = packed(spec.matrix)
    bias = np.random.default_rng(3).standard_normal(OFFSET // 4).astype(np.float32)
    arena = np.concatenate([bias.view(np.uint8), image])
    function = build_functions({spec.name: linear_function(spec, isa)}, target)[spec.name]
    return Layer(spec, function, sources, bias, tensors(arena)[0])


@cache
def activations(cols: int) -> Activations:
    rng = np.random.default_rng(cols)
    padded = -(-cols // 32) * 32
    x = rng.standard_normal((max(ROW_COUNTS), padded)).astype(np.float32)
    x *= np.exp2(rng.integers(-4, 5, (len(x), 1)))
    x[:, cols:] = 0
    x[0, :32] = 0  # a group without a scale
    return quantize_activations(x)


SQUARE = [
    PackedMatrix("q4_z7", 64, 96),
    PackedMatrix("q4_z8", 96, 64),
    PackedMatrix("q4_min", 64, 160),
    PackedMatrix("q8", 64, 96),
    PackedMatrix("q4_min", 50, 70),
    PackedMatrix("q4_z7", 32, 64, scale_dtype="float32"),
]
# Every scheme at the best level; at the others one of each way to treat the zero point.
SQUARE_AND_LEVEL = [(matrix, RUNNABLE_LEVELS[0]) for matrix in SQUARE]
SQUARE_AND_LEVEL += [(matrix, level) for matrix in SQUARE[2:5] for level in RUNNABLE_LEVELS[1:]]


@pytest.mark.parametrize(
    ("matrix", "level"), SQUARE_AND_LEVEL, ids=[f"{m.name}-{v}" for m, v in SQUARE_AND_LEVEL]
)
def test_every_row_count_gives_the_bits_of_the_formula(matrix: PackedMatrix, level: str) -> None:
    compiled = layer(LinearSpec(matrix), level)
    x = activations(matrix.cols)
    expected = linear_quantized(matrix, compiled.sources, x)
    for rows in ROW_COUNTS:
        np.testing.assert_array_equal(compiled.store(x.rows(rows)), expected[:rows])


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
@pytest.mark.parametrize(
    "matrix",
    [PackedMatrix("f16", 64, 48), PackedMatrix("f32", 33, 35)],
    ids=lambda m: m.name,
)
def test_float_weights_give_the_bits_of_the_formula(matrix: PackedMatrix, level: str) -> None:
    compiled = layer(LinearSpec(matrix), level)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((max(ROW_COUNTS), matrix.cols)).astype(np.float32)
    expected = linear_float(compiled.sources, x)
    for rows in ROW_COUNTS:
        np.testing.assert_array_equal(compiled.store([x[:rows]]), expected[:rows])


@pytest.mark.parametrize("matrix", SQUARE, ids=lambda m: m.name)
def test_the_formula_is_the_product_of_the_dequantised_operands(matrix: PackedMatrix) -> None:
    """Error of f32 accumulation only: a few ulp per group of the sum of magnitudes."""
    compiled = layer(LinearSpec(matrix), RUNNABLE_LEVELS[0])
    x = activations(matrix.cols)
    weights = dequantized_weights(matrix, compiled.sources)
    wide = dequantize_activations(x)
    true = wide @ weights.T
    magnitude = np.abs(wide) @ np.abs(weights).T
    if matrix.has_minimum:  # q * scale and min nearly cancel, each is rounded on its own
        minimum = np.repeat(np.abs(compiled.sources[2].astype(np.float64)), 32, axis=1)
        magnitude = magnitude + 2 * np.abs(wide) @ minimum.T
    error = np.abs(compiled.store(x.tensors()) - true)
    assert np.max(error / np.maximum(magnitude, 1e-30)) < 2.0**-22 * matrix.groups


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
def test_residual_is_added_to_the_accumulator(level: str) -> None:
    matrix = PackedMatrix("q4_min", 50, 70)
    x = activations(matrix.cols)
    residual = np.random.default_rng(9).standard_normal((513, 50)).astype(np.float32)
    for rows in (1, 7, 100):
        acc = layer(LinearSpec(matrix), level).store(x.rows(rows))
        expected = residual[:rows] + acc
        separate = layer(LinearSpec(matrix, "residual"), level)
        output = np.full((rows, 50), np.nan, np.float32)
        kept, out = separate.run(x.rows(rows), residual[:rows], output)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(kept, residual[:rows])
        in_place = layer(LinearSpec(matrix, "residual_inplace"), level)
        np.testing.assert_array_equal(in_place.run(x.rows(rows), residual[:rows])[0], expected)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("outputs", [32, 45])
def test_bias_is_added_to_the_accumulator(rows: int, outputs: int) -> None:
    matrix = PackedMatrix("q4_z7", outputs, 64)
    x = activations(matrix.cols).rows(rows)
    level = RUNNABLE_LEVELS[0]
    plain = layer(LinearSpec(matrix), level).store(x)
    biased = layer(LinearSpec(matrix, bias=True), level)
    np.testing.assert_array_equal(biased.store(x), plain + biased.bias[:outputs])


def silu(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    return wide / (1 + np.exp(np.minimum(-wide, 700)))


GATE_UP = [
    PackedMatrix("q4_min", 128, 96, gate_up=True),
    PackedMatrix("q8", 192, 64, gate_up=True),
    PackedMatrix("q4_z8", 100, 64, gate_up=True),
]


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
@pytest.mark.parametrize("matrix", GATE_UP, ids=lambda m: m.name)
def test_gate_up_is_silu_of_gate_times_up(matrix: PackedMatrix, level: str) -> None:
    compiled = layer(LinearSpec(matrix, "gate_up_float"), level)
    x = activations(matrix.cols)
    both = linear_quantized(matrix, compiled.sources, x).astype(np.float64)
    size = matrix.part_rows
    expected = silu(both[:, :size]) * both[:, size:]
    full = None
    for rows in reversed(ROW_COUNTS):
        (out,) = compiled.run(x.rows(rows), np.full((rows, size), np.nan, np.float32))
        full = out if full is None else full
        np.testing.assert_allclose(out, expected[:rows], rtol=1e-6, atol=1e-30)
        np.testing.assert_array_equal(out, full[:rows])


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
@pytest.mark.parametrize("matrix", GATE_UP, ids=lambda m: m.name)
def test_quantised_gate_up_quantises_the_float_one(matrix: PackedMatrix, level: str) -> None:
    x = activations(matrix.cols)
    size, groups = matrix.part_rows, matrix.panels // 2
    for rows in ROW_COUNTS:
        floats = layer(LinearSpec(matrix, "gate_up_float"), level)
        (h,) = floats.run(x.rows(rows), np.zeros((rows, size), np.float32))
        padded = np.pad(h, ((0, 0), (0, 32 * groups - size)))
        expected = quantize_activations(padded).tensors()
        outputs = [np.full(t.shape, 77, t.dtype) for t in expected]
        actual = layer(LinearSpec(matrix, "gate_up_quantized"), level).run(x.rows(rows), *outputs)
        for got, wanted in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_all_levels_give_the_same_bits_through_silu() -> None:
    matrix = GATE_UP[0]
    x = activations(matrix.cols).rows(17)
    results = []
    for level in RUNNABLE_LEVELS:
        out = np.zeros((17, matrix.part_rows), np.float32)
        results += layer(LinearSpec(matrix, "gate_up_float"), level).run(x, out)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_float_gate_up_reads_float_activations() -> None:
    matrix = PackedMatrix("f16", 64, 48, gate_up=True)
    compiled = layer(LinearSpec(matrix, "gate_up_float"), RUNNABLE_LEVELS[0])
    x = np.random.default_rng(2).standard_normal((9, 48)).astype(np.float32)
    both = linear_float(compiled.sources, x).astype(np.float64)
    (out,) = compiled.run([x], np.zeros((9, 32), np.float32))
    np.testing.assert_allclose(out, silu(both[:, :32]) * both[:, 32:], rtol=1e-6, atol=1e-30)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    matrix = SQUARE[2]
    compiled = layer(LinearSpec(matrix), RUNNABLE_LEVELS[0])
    x = activations(matrix.cols)
    full = compiled.store(x.tensors())
    order = np.random.default_rng(4).permutation(len(full))[:200]
    shuffled = [np.ascontiguousarray(t[order]) for t in x.tensors()]
    np.testing.assert_array_equal(compiled.store(shuffled), full[order])
