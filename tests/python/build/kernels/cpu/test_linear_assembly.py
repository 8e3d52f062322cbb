"""The hot loops are made of the instructions they were written for, and stay in registers."""

from __future__ import annotations

from functools import cache

import pytest

from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.linear import LinearSpec, linear_function
from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix
from support.assembly import FLOAT_LEVELS, LEVELS, Assembly, Code, assemble, isa_of

DOT = {"avx512vnni": "vpdpbusd", "avxvnni": "vpdpbusd", "avx2": "vpmaddubsw", "neon": "sdot"}
FUSED = "vfmadd|fmla"
GATE_UP = LinearSpec(PackedMatrix("q4_min", 3072, 576, gate_up=True), "gate_up_quantized")
BYTES = LinearSpec(PackedMatrix("q8", 49152, 576))
NIBBLES = LinearSpec(PackedMatrix("q4_z7", 576, 1536), "residual_inplace")
FLOATS = LinearSpec(PackedMatrix("f16", 960, 576))
# Nibbles with a zero point where 16 registers make the difference; bytes have one everywhere.
CASES = [(spec, level) for spec in (GATE_UP, BYTES) for level in LEVELS]
CASES += [(NIBBLES, level) for level in LEVELS if isa_of(level).registers == 16]
each_case = pytest.mark.parametrize(
    ("spec", "level"), CASES, ids=[f"{spec.name}-{level}" for spec, level in CASES]
)


@cache
def assembly(spec: LinearSpec, level: str) -> Assembly:
    return assemble(level, lambda isa: linear_function(spec, isa))


def dot_loops(spec: LinearSpec, level: str) -> list[tuple[int, Code]]:
    """Loops of dot products, with the number of these."""
    loops = assembly(spec, level).innermost_loops(DOT[level])
    return [(len(loop.full(DOT[level])), loop) for loop in loops]


def dots(isa: VectorIsa, bits: int, tokens: int) -> int:
    """Dot instructions of straight code for the group's 8 quads, or of a loop over them.

    A loop takes 1 quad of bytes, or the 2 of a byte of nibbles.
    """
    quads = 8 // bits if isa.loops_over_quads(bits) else 8
    return quads * isa.vectors_for(tokens, bits) * tokens


@each_case
def test_each_row_count_has_a_loop_of_dot_products(spec: LinearSpec, level: str) -> None:
    """Straight code of t rows multiplies 8 quads of each output vector: t * vectors * 8 dots."""
    isa, bits = isa_of(level), spec.matrix.bits
    found = {count for count, _ in dot_loops(spec, level)}
    doubled = {count // 2 for count in found} if level == "avx2" else set()  # short loops
    most = max(isa.max_tokens, isa.expanded_tokens)
    wanted = {dots(isa, bits, tokens) for tokens in range(1, most + 1)}
    assert wanted <= found | doubled


def allowed_spills(level: str, bits: int, count: int) -> int:
    """Vectors that may go to the stack or come back in a loop of `count` dots: none, except

    avxvnni, 3 rows   12 sums and their operands, of 16 registers; 2 rows take no place on the
                      stack and a tenth more instructions a dot
    neon, 5 rows      20 sums and 10 vectors of activations, of 32 registers; 4 rows take as many
                      instructions a dot, but 5, 9 and 10 rows need one block more
    neon, bytes       the constant that sums start from, once a group
    """
    isa = isa_of(level)
    if level == "avxvnni" and bits == 4 and count == dots(isa, bits, 3):
        return 4
    if level == "neon" and count == dots(isa, bits, 5):
        return 6
    return 1 if level == "neon" and bits == 8 else 0


@each_case
def test_loops_of_dot_products_keep_vectors_in_registers(spec: LinearSpec, level: str) -> None:
    for count, loop in dot_loops(spec, level):
        assert len(loop.spills) <= allowed_spills(level, spec.matrix.bits, count), str(loop)


@pytest.mark.parametrize("level", FLOAT_LEVELS)
def test_float_weights_are_widened_and_multiplied_by_whole_vectors(level: str) -> None:
    isa = isa_of(level)
    loops = assembly(FLOATS, level).innermost_loops(FUSED)
    for tokens in range(1, isa.max_tokens + 1):
        vectors = isa.vectors_for(tokens, 16)
        assert any(len(loop.full(FUSED)) % (tokens * vectors) == 0 for loop in loops)
    for loop in loops:
        assert len(loop.full(FUSED)) == len(loop.matching(FUSED))
        assert loop.full("vcvtph2ps|fcvtl")
        assert not loop.spills, str(loop)


@pytest.mark.parametrize("level", LEVELS)
def test_silu_is_whole_vectors(level: str) -> None:
    """The exponential's 9 fused operations for each vector of a unit's gates, and the division."""
    loops = assembly(GATE_UP, level).innermost_loops("vdivps|fdiv\\s+v")
    assert loops
    for loop in loops:
        whole = 32 // isa_of(level).lanes
        assert len(loop.full("vdivps|fdiv")) == whole
        assert len(loop.full("vfn?madd|fml[as]")) >= 9 * whole
        assert not loop.maths_calls
        assert len(loop.scalar_floats) <= 2  # of the quantisation's factors


@pytest.mark.parametrize("spec", [GATE_UP, BYTES], ids=lambda s: s.name)
def test_only_tasks_of_many_rows_take_workspaces(spec: LinearSpec) -> None:
    """Unpacked weights, their factors and the sums; decoding a few rows takes none."""
    calls = [line for line in assembly(spec, "avx512vnni").lines if "AllocWorkspace@" in line]
    assert len(calls) <= (3 if spec.matrix.bits == 4 else 2)
