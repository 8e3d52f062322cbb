"""Attention's hot loops widen f16 and multiply by whole vectors, and stay in registers."""

from __future__ import annotations

from functools import cache

import pytest

from mlc_server.build.kernels.cpu.attention import attention_kernel
from mlc_server.build.kernels.cpu.attention_task import AttentionShape
from support.assembly import LEVELS, Assembly, Code, assemble, isa_of

WIDEN = "vcvtph2ps|fcvtl"
FUSED = "vfn?m(?:add|sub)|fml[as]"
GROUP_SIZE = 3
SHAPE = AttentionShape(2, 3 * GROUP_SIZE, 3, 64)


@cache
def assembly(level: str) -> Assembly:
    return assemble(level, lambda isa: attention_kernel(SHAPE, isa, quantize=True))


@pytest.mark.parametrize("level", LEVELS)
def test_scores_and_values_are_whole_vectors_in_registers(level: str) -> None:
    """Scores and values of single rows and of blocks: every vector of K and V meets all pairs."""
    loops = assembly(level).innermost_loops(WIDEN)
    ahead = [loop for loop in loops if not loop.matching(FUSED)]
    tiles = [loop for loop in loops if loop.matching(FUSED)]
    if isa_of(level).widens_ahead:
        tiles += [loop for loop in assembly(level).innermost_loops(FUSED) if is_widened_tile(loop)]
    assert len(tiles) >= 4 + len(ahead)
    for loop in tiles:
        widened, fused = loop.full(WIDEN), loop.full(FUSED)
        assert len(widened) == len(loop.matching(WIDEN)), str(loop)
        assert len(fused) == len(loop.matching(FUSED)), str(loop)
        assert len(fused) % GROUP_SIZE == 0
        assert len(fused) >= GROUP_SIZE * len(widened), str(loop)
        assert not loop.spills, str(loop)
        assert not loop.scalar_floats
    # K, and V by 16 of 64 components.
    assert len(ahead) == (5 if isa_of(level).widens_ahead else 0)
    for loop in ahead:
        assert len(loop.full(WIDEN)) == len(loop.matching(WIDEN)), str(loop)
        assert not loop.spills, str(loop)


def is_widened_tile(loop: Code) -> bool:
    """Six factors, each for two vectors that were widened before."""
    factors, fused = loop.matching("vbroadcastss"), loop.matching(FUSED)
    return not loop.matching(WIDEN) and len(factors) >= 6 and len(fused) == 2 * len(factors)


@pytest.mark.parametrize("level", LEVELS)
def test_the_exponential_is_whole_vectors_in_registers(level: str) -> None:
    """Of single rows and of blocks; 9 fused operations for each 16 tokens.

    Of 16 registers the constants take 11, so what is subtracted may be read from the stack.
    """
    loops = [
        loop
        for loop in assembly(level).innermost_loops(FUSED)
        if not loop.matching(WIDEN) and loop.matching("vpslld|shl")
    ]
    vectors = 16 // isa_of(level).lanes
    exponentials = [loop for loop in loops if len(loop.full(FUSED)) % (9 * vectors) == 0]
    assert len(exponentials) >= 2
    for loop in exponentials:
        assert loop.full(FUSED) == loop.matching(FUSED)
        assert len(loop.spills) <= (isa_of(level).registers == 16), str(loop)


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_left_to_functions_of_a_library(level: str) -> None:
    assert not assembly(level).maths_calls
