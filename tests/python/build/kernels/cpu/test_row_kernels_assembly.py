"""The kernels that pass over rows between the matrices work on whole vectors."""

from __future__ import annotations

from functools import cache

import pytest

from mlc_server.build.kernels.cpu.attention_task import AttentionShape
from mlc_server.build.kernels.cpu.embedding import embedding_function
from mlc_server.build.kernels.cpu.norm import RmsNormSpec, quantize_kernel, rms_norm_kernel
from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix
from mlc_server.build.kernels.cpu.rope import rotary_kernel, rotary_table_kernel
from support.assembly import FLOAT_LEVELS, Assembly, Code, assemble, isa_of

FUSED = "vfn?m(?:add|sub)|fml[as]"
LARGEST = "vpmaxsd|smax"
NARROW = "vcvtps2ph|fcvtn"
HEAD_DIM = 64
KERNELS = {
    "norm": lambda isa: rms_norm_kernel(RmsNormSpec(576, 1e-5, True)),
    "quantize": lambda isa: quantize_kernel(576),
    "rotary": lambda isa: rotary_kernel(AttentionShape(2, 9, 3, HEAD_DIM), isa),
    "rotary_table": lambda isa: rotary_table_kernel(HEAD_DIM),
    "embedding": lambda isa: embedding_function(PackedMatrix("q8", 49152, 576), isa),
}


@cache
def assembly(name: str, level: str) -> Assembly:
    return assemble(level, KERNELS[name])


def loops(name: str, level: str, holds: str) -> list[Code]:
    """Innermost loops with instructions `holds`: of few rows, and of a task of many."""
    found = assembly(name, level).innermost_loops(holds)
    assert len(found) >= 2
    for loop in found:
        assert len(loop.full(FUSED)) == len(loop.matching(FUSED)), str(loop)
        assert not loop.maths_calls
    return found


@pytest.mark.parametrize("level", FLOAT_LEVELS)
@pytest.mark.parametrize("name", ["norm", "quantize"])
def test_rows_are_quantised_by_whole_vectors(name: str, level: str) -> None:
    """32 values: their largest magnitude, one fused rounding each; two factors are scalars."""
    vectors = 32 // isa_of(level).lanes
    for loop in loops(name, level, LARGEST):
        assert len(loop.full(FUSED)) % vectors == 0
        assert loop.full(LARGEST)
        assert len(loop.scalar_floats) <= 2 * len(loop.full(FUSED)) // vectors
        assert not loop.spills, str(loop)


@pytest.mark.parametrize("level", FLOAT_LEVELS)
def test_the_sum_of_squares_is_four_chains_of_whole_vectors(level: str) -> None:
    code = assembly("norm", level)
    assert len(code.full(FUSED)) >= 4 * 16 // isa_of(level).lanes
    assert len(code.full(FUSED)) == len(code.matching(FUSED))


@pytest.mark.parametrize("level", FLOAT_LEVELS)
def test_heads_are_rotated_and_stored_by_whole_vectors(level: str) -> None:
    """Two halves of a head, 16 components each, and K and V narrowed to f16."""
    vectors = 32 // isa_of(level).lanes
    for loop in loops("rotary", level, FUSED):
        assert len(loop.full(FUSED)) % vectors == 0
        assert not loop.scalar_floats
        assert not loop.spills, str(loop)
    for loop in loops("rotary", level, NARROW):
        assert len(loop.full(NARROW)) == len(loop.matching(NARROW))


@pytest.mark.parametrize("level", FLOAT_LEVELS)
def test_angles_are_made_by_whole_vectors(level: str) -> None:
    """Once a step; a vector of 16 f64 and its parts do not fit into 16 registers of 4."""
    for loop in assembly("rotary_table", level).innermost_loops("vfmadd|fmla"):
        assert len(loop.full("vfmadd\\d+ps|fmla")) >= 6 * 16 // isa_of(level).lanes
        assert not loop.scalar_floats
        assert not loop.maths_calls


@pytest.mark.parametrize("level", FLOAT_LEVELS)
def test_embeddings_are_scaled_by_whole_vectors(level: str) -> None:
    convert = "vcvtdq2ps|[su]cvtf"
    for loop in loops("embedding", level, convert):
        assert len(loop.full(convert)) == len(loop.matching(convert))
        assert loop.full("vmulps|fmul|vfmadd|fmla")
        assert not loop.scalar_floats
        assert not loop.spills, str(loop)
