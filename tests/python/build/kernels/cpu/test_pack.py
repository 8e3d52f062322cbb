"""Packed weights: every byte where the layout says, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest

from mlc_server.build.kernels.cpu.pack import pack_function, pack_vector_function
from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix
from mlc_server.build.kernels.cpu.pipeline import build_functions
from mlc_server.errors import CompileError
from support.cpu_levels import HOST, tensors
from support.quantized_linear import GROUP, random_sources, stored_weights


def packed(matrix: PackedMatrix, sources: list[np.ndarray]) -> np.ndarray:
    name = f"pack_{matrix.name}"
    arguments = tensors(*sources, np.full(matrix.nbytes, 0xAA, np.uint8))
    build_functions({name: pack_function(matrix)}, HOST)[name](*arguments)
    return arguments[-1].numpy()


def panel_rows(matrix: PackedMatrix, panel: int) -> list[int]:
    """Source rows of a panel; -1 for padding."""
    parts, size = (2, 16) if matrix.gate_up else (1, 32)
    return [
        part * matrix.part_rows + row if row < matrix.part_rows else -1
        for part in range(parts)
        for row in range(size * panel, size * panel + size)
    ]


def expected_block(
    matrix: PackedMatrix, sources: list[np.ndarray], rows: list[int], group: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(bytes of the weights, scales and minima) of one block; padding rows get zero scales."""
    stored = stored_weights(matrix, sources)[rows][:, GROUP * group : GROUP * (group + 1)]
    if matrix.bits == 8:
        quants = stored.reshape(32, 8, 4).transpose(1, 0, 2)
    else:
        pairs = stored[:, :16] | stored[:, 16:] << 4
        quants = pairs.reshape(32, 4, 4).transpose(1, 0, 2)
    exists = np.array(rows) >= 0
    scales = [np.where(exists, s[rows, group], 0).astype(s.dtype) for s in sources[1:]]
    return quants.astype(np.uint8).reshape(-1), scales


QUANTIZED = [
    PackedMatrix("q4_z7", 32, 64),
    PackedMatrix("q4_z8", 96, 96),
    PackedMatrix("q4_min", 64, 160),
    PackedMatrix("q8", 64, 96),
    PackedMatrix("q4_min", 50, 70),
    PackedMatrix("q8", 17, 32),
    PackedMatrix("q4_z7", 48, 64, scale_dtype="float32"),
    PackedMatrix("q4_min", 128, 64, gate_up=True),
    PackedMatrix("q8", 80, 64, gate_up=True),
]


@pytest.mark.parametrize("matrix", QUANTIZED, ids=lambda m: m.name)
def test_quantised_panels_follow_the_layout(matrix: PackedMatrix) -> None:
    sources = random_sources(matrix)
    panels = packed(matrix, sources).reshape(matrix.panels, matrix.groups, matrix.block_bytes)
    for panel in range(matrix.panels):
        rows = panel_rows(matrix, panel)
        exists = np.array(rows) >= 0
        for group in range(matrix.groups):
            block = panels[panel, group]
            quants, scales = expected_block(matrix, sources, rows, group)
            actual = block[: matrix.quant_bytes].reshape(-1, 32, 4)[:, exists]
            np.testing.assert_array_equal(actual, quants.reshape(-1, 32, 4)[:, exists])
            tail = block[matrix.quant_bytes :].view(matrix.scale_dtype)
            np.testing.assert_array_equal(tail, np.concatenate(scales))


@pytest.mark.parametrize(
    "matrix",
    [
        PackedMatrix("f16", 64, 48),
        PackedMatrix("f32", 33, 7),
        PackedMatrix("f32", 80, 16, gate_up=True),
    ],
    ids=lambda m: m.name,
)
def test_float_panels_are_transposed_and_zero_padded(matrix: PackedMatrix) -> None:
    (weights,) = random_sources(matrix)
    panels = packed(matrix, [weights]).view(matrix.float_dtype)
    panels = panels.reshape(matrix.panels, matrix.cols, 32)
    for panel in range(matrix.panels):
        rows = panel_rows(matrix, panel)
        expected = np.where(np.array(rows)[:, None] >= 0, weights[rows], 0)
        np.testing.assert_array_equal(panels[panel].T, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_are_widened_to_f32(dtype: str) -> None:
    values = np.random.default_rng(1).standard_normal(37).astype(dtype)
    name = f"pack_vector_{dtype}_37"
    arguments = tensors(values, np.zeros(37 * 4, np.uint8))
    build_functions({name: pack_vector_function(37, dtype)}, HOST)[name](*arguments)
    np.testing.assert_array_equal(arguments[1].numpy().view("float32"), values)


@pytest.mark.parametrize("matrix", QUANTIZED, ids=lambda m: m.name)
def test_sizes_are_whole_cache_lines_and_near_the_bits_of_the_weights(
    matrix: PackedMatrix,
) -> None:
    assert matrix.nbytes % 64 == 0
    padded = matrix.panels * 32 * matrix.groups * GROUP
    per_scale = {"float16": 16, "float32": 32}[matrix.scale_dtype]
    scales = per_scale * (2 if matrix.has_minimum else 1)
    assert matrix.nbytes * 8 == padded * matrix.bits + padded // GROUP * scales


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (("q5_k", 32, 32), "q5_k"),
        (("q8", 32, 48), "48"),
        (("f16", 0, 32), "[0, 32]"),
        (("q8", 33, 32, True), "33"),
        (("q8", 32, 32, False, "int32"), "int32"),
    ],
)
def test_impossible_matrices_are_refused_with_what_was_seen(
    arguments: tuple[object, ...], seen: str
) -> None:
    with pytest.raises(CompileError) as error:
        PackedMatrix(*arguments)
    assert seen in error.value.seen
