"""Embedding lookup returns the dequantised rows of the packed matrix."""

from __future__ import annotations

import numpy as np
import pytest

from mlc_server.build.kernels.cpu.embedding import embedding_function, embedding_name
from mlc_server.build.kernels.cpu.pack import pack_function
from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix
from mlc_server.build.kernels.cpu.pipeline import build_functions
from support.cpu_levels import HOST, RUNNABLE_LEVELS, target_and_isa, tensors
from support.quantized_linear import dequantized_weights, random_sources

OFFSET = 64

MATRICES = [
    PackedMatrix("q4_z7", 100, 64),
    PackedMatrix("q4_z8", 64, 96),
    PackedMatrix("q4_min", 77, 64),
    PackedMatrix("q4_min", 40, 70),
    PackedMatrix("q8", 100, 64),
    PackedMatrix("q4_z7", 64, 64, scale_dtype="float32"),
    PackedMatrix("f16", 50, 40),
    PackedMatrix("f32", 50, 33),
]


def look_up(matrix: PackedMatrix, level: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows found, the whole matrix in float64)."""
    target, isa = target_and_isa(level)
    sources = random_sources(matrix)
    pack = f"pack_{matrix.name}"
    arguments = tensors(*sources, np.zeros(matrix.nbytes, np.uint8))
    build_functions({pack: pack_function(matrix)}, HOST)[pack](*arguments)
    arena = np.concatenate([np.zeros(OFFSET, np.uint8), arguments[-1].numpy()])
    name = embedding_name(matrix)
    found = tensors(np.full((len(ids), matrix.cols), np.nan, np.float32))[0]
    function = build_functions({name: embedding_function(matrix, isa)}, target)[name]
    function(*tensors(ids, arena), found, OFFSET)
    return found.numpy(), dequantized_weights(matrix, sources)[:, : matrix.cols]


@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
@pytest.mark.parametrize("matrix", MATRICES, ids=lambda m: m.name)
def test_rows_are_the_weights_rounded_once(matrix: PackedMatrix, level: str) -> None:
    """(q - z) * scale, and q * scale + min, are exact in float64 for these scales."""
    ids = np.random.default_rng(0).permutation(matrix.rows).astype(np.int32)
    found, weights = look_up(matrix, level, ids)
    np.testing.assert_array_equal(found, weights[ids].astype(np.float32))


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 300])
def test_any_number_of_tokens_may_repeat_a_row(rows: int) -> None:
    matrix = MATRICES[2]
    ids = (np.arange(rows) % 3).astype(np.int32)
    found, weights = look_up(matrix, RUNNABLE_LEVELS[0], ids)
    np.testing.assert_array_equal(found, weights[ids].astype(np.float32))


def test_ids_out_of_range_read_the_nearest_row() -> None:
    matrix = MATRICES[0]
    ids = np.array([-5, 2**31 - 1, -(2**31)], np.int32)
    found, weights = look_up(matrix, RUNNABLE_LEVELS[0], ids)
    np.testing.assert_array_equal(found, weights[[0, -1, 0]].astype(np.float32))
