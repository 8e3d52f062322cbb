"""Levels are chosen by the target's features, and every level's dot product is exact."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx
from tvm.target import Target
from tvm.tirx.script.builder import ir as builder

from mlc_server.build.kernels.cpu.frame import kernel, tensor
from mlc_server.build.kernels.cpu.isa import LEVELS, VectorIsa, restrict_target, select_isa
from mlc_server.build.kernels.cpu.pipeline import build_functions
from mlc_server.build.kernels.cpu.vector_ops import let
from mlc_server.errors import CompileError
from support.cpu_levels import HOST, RUNNABLE_LEVELS, target_and_isa, tensors

X86 = "x86_64-unknown-linux-gnu"
ARM = "aarch64-unknown-linux-gnu"


def cpu(name: str, triple: str) -> Target:
    return Target({"kind": "llvm", "mtriple": triple, "mcpu": name})


@pytest.mark.parametrize(
    ("name", "triple", "level"),
    [
        ("znver5", X86, "avx512vnni"),
        ("icelake-server", X86, "avx512vnni"),
        ("alderlake", X86, "avxvnni"),
        ("skylake-avx512", X86, "avx2"),
        ("haswell", X86, "avx2"),
        ("x86-64", X86, "portable"),
        ("apple-m1", ARM, "neon"),
        ("neoverse-n1", ARM, "neon"),
        ("cortex-a53", ARM, "portable"),
    ],
)
def test_the_best_level_of_a_cpu_is_selected(name: str, triple: str, level: str) -> None:
    assert select_isa(cpu(name, triple)).name == level


@pytest.mark.parametrize("level", ["avx512vnni", "avxvnni", "avx2", "portable"])
def test_a_restricted_target_selects_the_level_it_is_restricted_to(level: str) -> None:
    assert select_isa(restrict_target(cpu("znver5", X86), level)).name == level


def test_a_restricted_arm_target_falls_back_to_portable() -> None:
    assert select_isa(restrict_target(cpu("apple-m1", ARM), "portable")).name == "portable"


def test_a_level_the_target_lacks_is_refused_with_the_missing_features() -> None:
    with pytest.raises(CompileError) as error:
        select_isa(cpu("haswell", X86), "avx512vnni")
    assert "avx512vnni" in error.value.seen
    assert "avx512f" in error.value.seen


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(CompileError) as error:
        select_isa(HOST, "sse9")
    assert error.value.seen == "sse9"
    for level in LEVELS:
        assert level in error.value.hint


def dot_function(isa: VectorIsa, bits: int) -> object:
    """out[l] = start[l] + a group's dot product of 8 quads, for every row."""
    lanes = isa.lanes
    with kernel("dot") as ir:
        rows = tirx.Var("rows", "int32")
        weights = tensor("weights", (rows, 8, 4 * lanes), "uint8")
        quads = tensor("quads", (rows, 8, 4), "int8")
        start = tensor("start", (rows, lanes), "int32")
        out = tensor("out", (rows, lanes), "int32")
        with builder.serial(0, rows) as row:
            first = let(start[row, tirx.Ramp(0, 1, lanes)])
            acc = isa.dot_begin(first, bits)
            for i in range(8):
                quad = let(tirx.reinterpret("int32", quads[row, i, tirx.Ramp(0, 1, 4)]))
                vector = let(weights[row, i, tirx.Ramp(0, 1, 4 * lanes)])
                acc = isa.dot4(acc, isa.dot_operands(vector, bits), quad)
            total = isa.dot_end(acc, first, bits)
            builder.buffer_store(out, total, [row, tirx.Ramp(0, 1, lanes)])
    return ir.get()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("level", RUNNABLE_LEVELS)
def test_dots_are_exact_at_the_extremes_and_at_random(level: str, bits: int) -> None:
    target, isa = target_and_isa(level)
    rng = np.random.default_rng(bits)
    rows, lanes, top = 64, isa.lanes, 2**bits
    weights = rng.integers(0, top, (rows, 8, 4 * lanes), dtype=np.uint8)
    quads = rng.integers(-127, 128, (rows, 8, 4), dtype=np.int8)
    weights[:2] = top - 1  # saturates 16-bit sums where a level uses them carelessly
    quads[0], quads[1] = 127, -127
    start = rng.integers(-(2**24), 2**24, (rows, lanes), dtype=np.int32)
    out = np.zeros((rows, lanes), np.int32)
    arguments = tensors(weights, quads, start, out)
    build_functions({"dot": dot_function(isa, bits)}, target)["dot"](*arguments)

    signed = weights.astype(np.int64).reshape(rows, 8, lanes, 4) - isa.dot_bias(bits)
    expected = start + (signed * quads[:, :, None, :]).sum((1, 3))
    np.testing.assert_array_equal(arguments[3].numpy(), expected)
