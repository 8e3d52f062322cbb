"""Rotary embedding against float64 NumPy, and where K and V land in the pages."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from mlc_server.build.kernels.cpu.attention_task import PAGE_SIZE, AttentionShape
from mlc_server.build.kernels.cpu.isa import restrict_target, select_isa
from mlc_server.build.kernels.cpu.pipeline import build_functions
from mlc_server.build.kernels.cpu.rope import rotary_kernel, rotary_table_kernel, turns_per_token
from mlc_server.build.targets import resolve_target

LAYERS, LAYER = 3, 2


def frequencies(head_dim: int, theta: float = 10000.0) -> np.ndarray:
    return theta ** (-np.arange(0, head_dim, 2) / head_dim)


@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_table_is_exact_at_every_position(head_dim: int) -> None:
    rng = np.random.default_rng(0)
    far = rng.integers(0, 1 << 20, 200)
    positions = np.concatenate([np.arange(64), far]).astype("int32")
    module = build_functions(
        {"table": rotary_table_kernel(head_dim)}, resolve_target("auto").target
    )
    table = tvm.runtime.tensor(np.full((len(positions), head_dim), np.nan, "float32"))
    turns = turns_per_token(frequencies(head_dim))
    module["table"](tvm.runtime.tensor(positions), tvm.runtime.tensor(turns), table)
    angles = positions[:, None] * frequencies(head_dim)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(table.numpy(), expected, rtol=0, atol=2.5e-7)


def rotate(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    first, second = np.split(x.astype("float64"), 2, axis=-1)
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


@pytest.mark.parametrize("level", [None, "portable"])
@pytest.mark.parametrize(
    "shape", [AttentionShape(LAYERS, 4, 2, 64), AttentionShape(LAYERS, 2, 1, 80)]
)
@pytest.mark.parametrize("rows", [1, 21])
def test_rotates_and_writes_pages(level: str | None, shape: AttentionShape, rows: int) -> None:
    dim, kv_heads = shape.head_dim, shape.num_kv_heads
    target = resolve_target("auto").target
    if level is not None:
        target = restrict_target(target, level)
    isa = select_isa(target, level)
    module = build_functions(
        {"table": rotary_table_kernel(dim), "rotary": rotary_kernel(shape, isa)}, target
    )
    rng = np.random.default_rng(rows)
    positions = np.arange(100, 100 + rows, dtype="int32")
    qkv = rng.normal(size=(rows, shape.width + 2 * kv_heads * dim)).astype("float32")
    qkv[0, -1] = 1e-6  # subnormal as f16
    slots = rng.permutation(5 * PAGE_SIZE)[:rows].astype("int32")
    before = rng.normal(size=(LAYERS, 5, kv_heads, 2, PAGE_SIZE * dim)).astype("float16")
    kv = tvm.runtime.tensor(before)
    table = tvm.runtime.tensor(np.zeros((rows, dim), "float32"))
    q = tvm.runtime.tensor(np.full((rows, shape.width), np.nan, "float32"))
    turns = tvm.runtime.tensor(turns_per_token(frequencies(dim)))
    module["table"](tvm.runtime.tensor(positions), turns, table)
    module["rotary"](tvm.runtime.tensor(qkv), table, tvm.runtime.tensor(slots), kv, LAYER, q)

    angles = positions[:, None, None] * frequencies(dim)
    heads = qkv.reshape(rows, -1, dim)
    queries = rotate(heads[:, : shape.num_q_heads], angles) / np.sqrt(dim)
    np.testing.assert_allclose(q.numpy().reshape(queries.shape), queries, rtol=1e-5, atol=1e-6)
    keys = rotate(heads[:, shape.num_q_heads : -kv_heads], angles)
    expected, written = before.copy(), kv.numpy()
    for row, slot in enumerate(slots):
        page, token = divmod(int(slot), PAGE_SIZE)
        key_page = expected[LAYER, page, :, 0].reshape(kv_heads, dim, PAGE_SIZE)
        key_page[:, :, token] = keys[row]
        value_page = expected[LAYER, page, :, 1].reshape(kv_heads, PAGE_SIZE, dim)
        value_page[:, token] = heads[row, -kv_heads:]
    # V is rounded once from its f32; K may differ by one f16 step where f64 rounds otherwise.
    np.testing.assert_array_equal(written[:, :, :, 1], expected[:, :, :, 1])
    np.testing.assert_allclose(written[:, :, :, 0], expected[:, :, :, 0], rtol=1e-3, atol=1e-6)
