"""Attention kernel: right against float64 NumPy, and bit-identical whatever the plan."""

from __future__ import annotations

import numpy as np
import pytest

from mlc_server.build.kernels.cpu.attention import attention_kernel
from mlc_server.build.kernels.cpu.attention_task import AttentionShape
from mlc_server.build.kernels.cpu.isa import restrict_target, select_isa
from mlc_server.build.kernels.cpu.pipeline import build_functions
from mlc_server.build.targets import resolve_target
from support.attention_batch import CHUNKS, LAYER, NUM_LAYERS, Batch
from support.cpu_levels import tensors


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
        inputs, outputs, work = batch.arguments(plan, quantize=self.quantize)
        results = tensors(*outputs)
        self.module["attention"](*tensors(*inputs), LAYER, *results, *tensors(*work))
        return [r.numpy() for r in results]


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
