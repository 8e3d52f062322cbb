"""Batches of sequences for the attention kernel, with plans and a float64 reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE, SPLIT, AttentionShape

LAYER, NUM_LAYERS = 1, 2
# (context before the chunk, rows of the chunk) of sequences that meet the borders of splits.
CHUNKS = [(0, 20), (250, 13), (3, 1), (530, 1), (511, 2), (0, 1)]


@dataclass
class Batch:
    """Sequences given as (context before the chunk, rows of the chunk)."""

    shape: AttentionShape
    chunks: list[tuple[int, int]]
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        shape = self.shape
        pages = [-(-(past + rows) // PAGE_SIZE) for past, rows in self.chunks]
        num_pages = sum(pages) + 3
        self.page_table = rng.permutation(num_pages)[: sum(pages)].astype("int32")
        self.page_offsets = np.cumsum([0, *pages]).astype("int32")
        self.positions = np.concatenate(
            [np.arange(past, past + rows) for past, rows in self.chunks]
        ).astype("int32")
        rows = len(self.positions)
        q = rng.normal(size=(rows, shape.width)) * (3 / np.sqrt(shape.head_dim))
        self.q = q.astype("float32")
        # Finite garbage everywhere: tokens behind a row must not change it.
        kv_shape = (NUM_LAYERS, num_pages, shape.num_kv_heads, 2, PAGE_SIZE * shape.head_dim)
        self.kv = rng.normal(size=kv_shape).astype("float16")
        self.first_row = np.cumsum([0, *[rows for _, rows in self.chunks]])

    def context(self, sequence: int, kv_head: int) -> tuple[np.ndarray, np.ndarray]:
        """K and V, f64 [tokens, D], of one sequence."""
        dim = self.shape.head_dim
        begin, end = self.page_offsets[sequence : sequence + 2]
        pages = self.kv[LAYER, self.page_table[begin:end], kv_head].astype("float64")
        keys = pages[:, 0].reshape(-1, dim, PAGE_SIZE).transpose(0, 2, 1).reshape(-1, dim)
        return keys, pages[:, 1].reshape(-1, dim)

    def reference(self) -> np.ndarray:
        shape, dim = self.shape, self.shape.head_dim
        out = np.zeros((len(self.positions), shape.width))
        for sequence in range(len(self.chunks)):
            for head in range(shape.num_q_heads):
                keys, values = self.context(sequence, head // shape.group_size)
                for row in range(self.first_row[sequence], self.first_row[sequence + 1]):
                    seen = self.positions[row] + 1
                    q = self.q[row, head * dim : (head + 1) * dim].astype("float64")
                    scores = keys[:seen] @ q
                    weights = np.exp(scores - scores.max())
                    out[row, head * dim : (head + 1) * dim] = (
                        weights @ values[:seen] / weights.sum()
                    )
        return out

    def plan_blocks(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Items of up to `block` rows, no splits."""
        items = []
        for sequence, (_, rows) in enumerate(self.chunks):
            for begin in range(0, rows, block):
                first = self.first_row[sequence] + begin
                items.append((sequence, first, min(block, rows - begin), -1))
        return np.array(items, "int32"), np.array([(-1, 0, 0)], "int32")

    def plan_splits(self) -> tuple[np.ndarray, np.ndarray]:
        """Every row on its own, every split an item of its own."""
        items, combine = [], []
        for sequence in range(len(self.chunks)):
            for row in range(self.first_row[sequence], self.first_row[sequence + 1]):
                splits = self.positions[row] // SPLIT + 1
                combine.append((row, len(items), splits))
                items += [(sequence, row, 1, split) for split in range(splits)]
        return np.array(items, "int32"), np.array(combine, "int32")

    def arguments(
        self, plan: tuple[np.ndarray, np.ndarray], *, quantize: bool
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """What the kernel takes before the layer; outputs and workspaces, which follow it."""
        items, combine = plan
        shape, rows = self.shape, len(self.positions)
        groups = shape.width // 32
        outputs = [np.full((rows, shape.width), np.nan, "float32")]
        if quantize:
            outputs = [
                np.full((rows, shape.width), 77, "int8"),
                np.full((rows, groups), np.nan, "float32"),
                np.full((rows, groups), 77, "int32"),
                np.full((rows, groups), np.nan, "float32"),
            ]
        work = [
            np.full((len(items), shape.num_q_heads, shape.head_dim), np.nan, "float32"),
            np.full((len(items), shape.num_q_heads, 2), np.nan, "float32"),
        ]
        tables = [self.q, self.positions, self.page_offsets, self.page_table]
        return [*tables, items, combine, self.kv], outputs, work
