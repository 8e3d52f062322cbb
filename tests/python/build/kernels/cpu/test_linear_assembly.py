"""The hot loops are made of the instructions they were written for, and stay in registers."""

from __future__ import annotations

import re
from functools import cache

import pytest
from tvm.target import Target

from mlc_server.build.kernels.cpu.isa import select_isa
from mlc_server.build.kernels.cpu.linear import LinearSpec, linear_function
from mlc_server.build.kernels.cpu.packed_matrix import PackedMatrix
from mlc_server.build.kernels.cpu.pipeline import build_functions

TARGETS = {
    "avx512vnni": {"mtriple": "x86_64-unknown-linux-gnu", "mcpu": "znver5"},
    "avxvnni": {"mtriple": "x86_64-unknown-linux-gnu", "mcpu": "alderlake"},
    "avx2": {"mtriple": "x86_64-unknown-linux-gnu", "mcpu": "haswell"},
    "neon": {"mtriple": "aarch64-unknown-linux-gnu", "mcpu": "neoverse-n1"},
}
DOT = {
    "avx512vnni": re.compile(r"vpdpbusd.*%zmm\d+$"),
    "avxvnni": re.compile(r"vpdpbusd.*%ymm\d+$"),
    "avx2": re.compile(r"vpmaddubsw.*%ymm\d+$"),
    "neon": re.compile(r"sdot\s+v\d+\.4s"),
}
SPECS = [
    LinearSpec(PackedMatrix("q4_min", 960, 576)),
    LinearSpec(PackedMatrix("q4_z7", 576, 1536), "residual_inplace"),
    LinearSpec(PackedMatrix("q4_min", 3072, 576, gate_up=True), "gate_up_quantized"),
    LinearSpec(PackedMatrix("q8", 49152, 576)),
]


@cache
def assembly(spec: LinearSpec, level: str) -> list[str]:
    target = Target({"kind": "llvm", **TARGETS[level]})
    isa = select_isa(target)
    assert isa.name == level
    module = build_functions({spec.name: linear_function(spec, isa)}, target)
    return [line.strip() for line in module.mod.inspect_source("s").splitlines()]


def innermost_loops(lines: list[str]) -> list[list[str]]:
    """Bodies from a label to a jump back to it that contain no other such pair."""
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:", line)}
    spans = []
    for end, line in enumerate(lines):
        jump = re.match(r"(?:j\w+|b\.?\w*|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        if jump and labels.get(jump[1], end) < end:
            spans.append((labels[jump[1]], end))
    inner = [
        (first, last)
        for first, last in spans
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans)
    ]
    return [lines[first : last + 1] for first, last in inner]


def dot_loops(spec: LinearSpec, level: str) -> list[list[str]]:
    """Innermost loops that hold dot products."""
    loops = innermost_loops(assembly(spec, level))
    return [loop for loop in loops if any(DOT[level].search(line) for line in loop)]


@pytest.mark.parametrize("level", list(TARGETS))
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_each_row_count_has_a_loop_of_dot_products(spec: LinearSpec, level: str) -> None:
    """A block of t rows multiplies 8 quads of each output vector: t * vectors * 8 dots.

    Of AVX2 a loop takes 1 quad of bytes, or the 2 of a byte of nibbles, in 2 instructions.
    """
    isa = select_isa(Target({"kind": "llvm", **TARGETS[level]}))
    bits = spec.matrix.bits
    found = {sum(bool(DOT[level].search(line)) for line in loop) for loop in dot_loops(spec, level)}

    def dots(tokens: int) -> int:
        quads = 2 if isa.loops_over_quads(bits, tokens) else 8
        if level == "avx2" and bits == 8:
            quads = 2 * quads if quads == 8 else 2
        return quads * isa.vectors_for(tokens, bits) * tokens

    doubled = {count // 2 for count in found} if level == "avx2" else set()  # short loops
    wanted = {dots(tokens) for tokens in range(1, isa.max_tokens + 1)}
    assert wanted <= found | doubled


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_avx512_loops_keep_every_vector_in_a_register(spec: LinearSpec) -> None:
    for loop in dot_loops(spec, "avx512vnni"):
        assert not vectors_on_the_stack(loop)
        stores = [line for line in loop if re.match(r"vmov\w+\s+%zmm\d+, .*\(", line)]
        assert not stores, "accumulators leave the loop only at its end"


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_avx2_loops_of_several_rows_keep_their_sums_in_registers(spec: LinearSpec) -> None:
    """Two vectors may wait on the stack, of 8 to 16 sums, weights, activations and constants."""
    loops = [loop for loop in dot_loops(spec, "avx2") if len(loop) < 100]
    assert len(loops) >= 4
    for loop in loops:
        assert len(vectors_on_the_stack(loop)) <= 2, "\n".join(loop)


def vectors_on_the_stack(loop: list[str]) -> list[str]:
    """Instructions that move or use a vector in memory of the x86 stack."""
    return [line for line in loop if re.search(r"\(%r[sb]p[,)]", line) and "mm" in line]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_only_tasks_of_many_rows_take_workspaces(spec: LinearSpec) -> None:
    """Unpacked weights, their factors and the sums; decoding a few rows takes none."""
    calls = [line for line in assembly(spec, "avx512vnni") if "AllocWorkspace@" in line]
    assert len(calls) <= (3 if spec.matrix.bits == 4 else 2)
