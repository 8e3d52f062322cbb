"""The neon level computes the same bits as the formula, run under an emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlc_server.build.kernels.cpu.isa import select_isa
from mlc_server.build.kernels.cpu.linear import LinearSpec, linear_function
from mlc_server.build.kernels.cpu.pack import pack_function
from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix
from mlc_server.build.kernels.cpu.pipeline import build_functions
from support import cross_run
from support.cpu_levels import HOST, tensors
from support.quantized_linear import linear_quantized, quantize_activations, random_sources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not cross_run.AVAILABLE, reason=f"needs {cross_run.COMPILER} and {cross_run.EMULATOR}"
    ),
]


@pytest.mark.parametrize(
    "matrix",
    [
        PackedMatrix("q4_min", 64, 96),
        PackedMatrix("q4_z7", 45, 64),
        PackedMatrix("q8", 64, 96),
    ],
    ids=lambda m: m.name,
)
def test_neon_gives_the_bits_of_the_formula(matrix: PackedMatrix, tmp_path: Path) -> None:
    sources = random_sources(matrix)
    pack = f"pack_{matrix.name}"
    arguments = tensors(*sources, np.zeros(matrix.nbytes, np.uint8))
    build_functions({pack: pack_function(matrix)}, HOST)[pack](*arguments)
    isa = select_isa(cross_run.TARGET)
    assert isa.name == "neon"
    spec = LinearSpec(matrix)
    function = cross_run.CrossFunction(spec.name, linear_function(spec, isa), tmp_path)

    rng = np.random.default_rng(6)
    x = rng.standard_normal((13, 32 * matrix.groups)).astype(np.float32)
    activations = quantize_activations(x)
    expected = linear_quantized(matrix, sources, activations)
    for rows in (1, 2, 3, 4, 13):
        out = np.full((rows, matrix.rows), np.nan, np.float32)
        results = function(*activations.rows(rows), arguments[-1].numpy(), out, 0)
        np.testing.assert_array_equal(results[-1], expected[:rows])
