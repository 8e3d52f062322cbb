"""Register blocks hold every pair of a block, within its memory, at every level."""

from __future__ import annotations

import pytest

from mlc_server.build.kernels.cpu.attention_task import SPLIT, AttentionShape
from mlc_server.build.kernels.cpu.attention_tiling import Tiling, most_block_rows
from mlc_server.build.kernels.cpu.isa import VectorIsa
from support.assembly import LEVELS, isa_of

SHAPES = [
    AttentionShape(1, 2 * group, 2, dim) for group in range(1, 33) for dim in (16, 64, 80, 128, 256)
]


def tilings(isa: VectorIsa) -> list[Tiling]:
    return [
        Tiling(shape, isa, rows)
        for shape in SHAPES
        for rows in sorted({1, most_block_rows(shape, isa)})
    ]


@pytest.mark.parametrize("level", LEVELS)
def test_the_rows_that_there_are_fit_in_whole_register_blocks(level: str) -> None:
    for tiling in tilings(isa_of(level)):
        group = tiling.shape.group_size
        for num_rows in range(1, tiling.most_rows + 1):
            blocks = tiling.register_blocks(num_rows)
            held = blocks * tiling.together
            assert num_rows * group <= held <= tiling.pairs <= tiling.padded_pairs, tiling
            assert held - num_rows * group < tiling.together, tiling


@pytest.mark.parametrize("level", LEVELS)
def test_register_blocks_are_more_than_half_as_large_as_registers_allow(level: str) -> None:
    """Each vector of K and V is widened once a register block: small ones would widen too often."""
    largest = max(tiling.together for tiling in tilings(isa_of(level)))
    for tiling in tilings(isa_of(level)):
        pairs = tiling.most_rows * tiling.shape.group_size
        assert 2 * tiling.together > min(largest, pairs), tiling


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_made_at_once_lies_within_a_split_and_a_head(level: str) -> None:
    for tiling in tilings(isa_of(level)):
        pages = SPLIT // 16
        assert pages % tiling.score_width == 0, tiling
        assert 1 <= tiling.value_width <= tiling.shape.head_dim // 16, tiling
        if tiling.widens_ahead:
            made = max(tiling.score_width * tiling.shape.head_dim, tiling.value_width * SPLIT)
            assert made <= tiling.widened_vectors, tiling
