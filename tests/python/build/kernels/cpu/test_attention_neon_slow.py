"""Attention on the neon level gives the bits of the host's level, run under an emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlc_server.build.kernels.cpu.attention import attention_kernel
from mlc_server.build.kernels.cpu.attention_task import AttentionShape
from mlc_server.build.kernels.cpu.isa import select_isa
from mlc_server.build.kernels.cpu.pipeline import build_functions
from support import cross_run
from support.attention_batch import CHUNKS, LAYER, NUM_LAYERS, Batch
from support.cpu_levels import HOST, tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not cross_run.AVAILABLE, reason=f"needs {cross_run.COMPILER} and {cross_run.EMULATOR}"
    ),
]


@pytest.mark.parametrize("quantize", [False, True], ids=["f32", "quantized"])
def test_neon_gives_the_bits_of_the_host(quantize: bool, tmp_path: Path) -> None:
    """Items of blocks of rows, and of single rows and splits."""
    shape = AttentionShape(NUM_LAYERS, 3, 1, 64)
    batch = Batch(shape, CHUNKS)
    kernels = [
        attention_kernel(shape, select_isa(target), quantize=quantize)
        for target in (HOST, cross_run.TARGET)
    ]
    host = build_functions({"attention": kernels[0]}, HOST)["attention"]
    neon = cross_run.CrossFunction("attention", kernels[1], tmp_path)
    for plan in (batch.plan_blocks(7), batch.plan_splits()):
        inputs, outputs, work = batch.arguments(plan, quantize=quantize)
        results = tensors(*outputs)
        host(*tensors(*inputs), LAYER, *results, *tensors(*work))
        emulated = neon(*inputs, LAYER, *outputs, *work)[len(inputs) :]
        for wanted, got in zip(results, emulated, strict=False):
            np.testing.assert_array_equal(got, wanted.numpy())
