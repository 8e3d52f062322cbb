"""Attention kernel: right against float64 NumPy, and bit-identical whatever the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tvm

from mlc_server.build.kernels.cpu.attention import attention_kernel
from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE, SPLIT, AttentionShape
from mlc_server.build.kernels.cpu.isa import restrict_target, select_isa
from mlc_server.build.kernels.cpu.pipeline import build_functions
from mlc_server.build.targets import resolve_target

LAYER, NUM_LAYERS = 1, 2


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


class Runner:
    def __init__(self, shape: AttentionShape, level: str | None, *, quantize: bool) -> None:
        target = resolve_target("auto").target
        isa = select_isa(target)
        if level is not None:
            target = restrict_target(target, level)
            isa = select_isa(target, level)
        self.quantize = quantize
        kernel = attention_kernel(shape, isa, quantize=quantize)
        self.module = build_functions({"attention": kernel}, target)

    def __call__(self, batch: Batch, plan: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        items, combine = plan
        shape, rows = batch.shape, len(batch.positions)
        groups = shape.width // 32
        outputs = [np.full((rows, shape.width), np.nan, "float32")]
        if self.quantize:
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
        inputs = [batch.q, batch.positions, batch.page_offsets, batch.page_table]
        tensors = [tvm.runtime.tensor(a) for a in [*inputs, items, combine, batch.kv]]
        results = [tvm.runtime.tensor(a) for a in [*outputs, *work]]
        self.module["attention"](*tensors, LAYER, *results)
        return [r.numpy() for r in results[: len(outputs)]]


SHAPES = [
    AttentionShape(NUM_LAYERS, 3, 1, 64),
    AttentionShape(NUM_LAYERS, 4, 2, 32),
    AttentionShape(NUM_LAYERS, 2, 2, 80),
    AttentionShape(NUM_LAYERS, 4, 1, 96),
    AttentionShape(NUM_LAYERS, 5, 1, 16),
    AttentionShape(NUM_LAYERS, 6, 1, 32),
    AttentionShape(NUM_LAYERS, 7, 1, 64),
    AttentionShape(NUM_LAYERS, 8, 1, 128),
]


CHUNKS = [(0, 20), (250, 13), (3, 1), (530, 1), (511, 2), (0, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"g{s.group_size}d{s.head_dim}")
def test_matches_float64_and_ignores_the_plan(shape: AttentionShape) -> None:
    runner = Runner(shape, None, quantize=False)
    batch = Batch(shape, CHUNKS)
    (base,) = runner(batch, batch.plan_blocks(16))
    np.testing.assert_allclose(base, batch.reference(), rtol=1e-5, atol=4e-6)
    for block in (1, 2, 3, 7):
        (other,) = runner(batch, batch.plan_blocks(block))
        np.testing.assert_array_equal(base, other, err_msg=f"blocks of {block} rows")
    (split,) = runner(batch, batch.plan_splits())
    np.testing.assert_array_equal(base, split, err_msg="one item a split")


def test_a_row_ignores_the_rest_of_the_batch() -> None:
    shape = SHAPES[0]
    runner = Runner(shape, None, quantize=False)
    batch = Batch(shape, CHUNKS)
    (together,) = runner(batch, batch.plan_blocks(16))
    items, combine = batch.plan_blocks(16)
    for item in items:
        (alone,) = runner(batch, (item[None], combine))
        rows = slice(item[1], item[1] + item[2])
        np.testing.assert_array_equal(alone[rows], together[rows], err_msg=str(item))
        assert np.isnan(np.delete(alone, np.r_[rows], axis=0)).all(), "wrote rows of others"


def test_quantised_output_is_the_quantised_float_output() -> None:
    shape = SHAPES[0]
    batch = Batch(shape, CHUNKS)
    (plain,) = Runner(shape, None, quantize=False)(batch, batch.plan_blocks(16))
    runner = Runner(shape, None, quantize=True)
    outputs = runner(batch, batch.plan_blocks(16))
    quants, scales, totals, scaled_totals = outputs
    grouped = plain.reshape(len(plain), -1, 32)
    np.testing.assert_array_equal(scales, np.abs(grouped).max(-1) / np.float32(127))
    values = quants.reshape(grouped.shape).astype("int32")
    assert np.abs(values * scales[..., None] - grouped).max() <= 0.501 * scales.max()
    np.testing.assert_array_equal(totals, values.sum(-1))
    np.testing.assert_array_equal(scaled_totals, scales * totals.astype("float32"))
    for first, second in zip(outputs, runner(batch, batch.plan_splits()), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("level", ["avx2", "portable"])
def test_every_level_gives_the_same_bits(level: str) -> None:
    shape = AttentionShape(NUM_LAYERS, 3, 1, 64)
    batch = Batch(shape, [(250, 9), (30, 1)])
    (best,) = Runner(shape, None, quantize=False)(batch, batch.plan_blocks(16))
    (other,) = Runner(shape, level, quantize=False)(batch, batch.plan_blocks(16))
    np.testing.assert_array_equal(best, other)
