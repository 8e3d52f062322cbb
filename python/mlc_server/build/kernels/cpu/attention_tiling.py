"""How attention cuts a block of query rows into register blocks.

Contents:
    most_block_rows   how many rows are worked on together.
    Tiling            sizes of the register blocks for up to so many rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlc_server.build.kernels.cpu.attention_task import SPLIT, AttentionShape
from mlc_server.build.kernels.cpu.frame import LANES
from mlc_server.build.kernels.cpu.isa import VectorIsa
from mlc_server.build.kernels.cpu.vector_ops import let

Expr = Any  # a TIR expression (tvm ships no types)

_MAX_TOGETHER = 7  # pairs of one register block
_MAX_ACCUMULATORS = 16  # of 16 lanes
_MAX_SCORE_WIDTH = 8  # pages
_MAX_BLOCK_PAIRS = 16  # (row, head) pairs worked on together
_MAX_WIDENED_PAIRS = 48  # where K and V are widened once for all of them
_MAX_ROWS = 16  # of an item, as cpp/model/attention_plan.h cuts them


def most_block_rows(shape: AttentionShape, isa: VectorIsa) -> int:
    """Most rows of a block, where an item has several."""
    group = shape.group_size
    if isa.widens_ahead:
        return min(_MAX_ROWS, max(2, _MAX_WIDENED_PAIRS // group))
    return 4 if group <= 4 else max(2, _MAX_BLOCK_PAIRS // group)


@dataclass(frozen=True)
class Tiling:
    """Up to `most_rows` rows x the head group are `pairs`, in register blocks of `together`."""

    shape: AttentionShape
    isa: VectorIsa
    most_rows: int

    @property
    def together(self) -> int:
        """Pairs of one register block: a large divisor of their number, or else nearly one."""
        pairs = self.most_rows * self.shape.group_size
        limit = min(_MAX_TOGETHER, self._accumulators)
        largest = max(d for d in range(1, limit + 1) if pairs % d == 0)
        return largest if 2 * largest > limit else -(-pairs // -(-pairs // limit))

    @property
    def pairs(self) -> int:
        """Of all rows and heads, rounded up to whole register blocks."""
        pairs = self.most_rows * self.shape.group_size
        return -(-pairs // self.together) * self.together

    @property
    def padded_pairs(self) -> int:
        return -(-self.pairs // LANES) * LANES

    def register_blocks(self, num_rows: Expr | int) -> Expr | int:
        """How many of them hold `num_rows` rows."""
        blocks = (num_rows * self.shape.group_size + (self.together - 1)) // self.together
        return blocks if isinstance(blocks, int) else let(blocks)

    @property
    def streams(self) -> bool:
        """Whether pages come from memory: one row (decode) reads them once, blocks from cache."""
        return self.most_rows == 1

    @property
    def widens_ahead(self) -> bool:
        """Whether K and V are widened once for several register blocks."""
        return self.isa.widens_ahead and self.pairs > self.together

    @property
    def score_width(self) -> int:
        """Pages whose scores are made at once: a power of two, so that none is behind the split."""
        width = 1
        while width < _MAX_SCORE_WIDTH and self._fits(2 * width):
            width *= 2
        return width

    @property
    def value_width(self) -> int:
        """Vectors of 16 components whose values are summed at once."""
        width = 1
        while self._fits(width + 1):
            width += 1
        return min(width, self.shape.head_dim // LANES)

    @property
    def widened_vectors(self) -> int:
        """Vectors of 16 lanes that are widened at a time, at most."""
        if not self.widens_ahead:
            return 1
        return max(self.shape.head_dim * self.score_width, SPLIT * self.value_width)

    @property
    def _accumulators(self) -> int:
        """16-lane accumulators that stay in registers beside the operands."""
        isa = self.isa
        return min(_MAX_ACCUMULATORS, isa.registers * 3 // 4 * isa.lanes // LANES)

    def _fits(self, vectors: int) -> bool:
        """Whether LLVM keeps a tile of `together` pairs x `vectors` in registers.

        Beside several vectors it keeps the factors of all pairs, and two operands being widened.
        """
        parts = LANES // self.isa.lanes
        operands = self.together + 2 * parts
        tile = self.together * vectors
        return tile <= _MAX_ACCUMULATORS and tile * parts + operands <= self.isa.registers
