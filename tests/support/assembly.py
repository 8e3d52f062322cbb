"""Kernels compiled for processors that need not be at hand, and the loops of their assembly."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from tvm.target import Target

from mlc_server.build.kernels.cpu.isa import VectorIsa, select_isa
from mlc_server.build.kernels.cpu.pipeline import build_functions

_X86 = "x86_64-unknown-linux-gnu"
TARGETS = {
    "avx512vnni": {"mtriple": _X86, "mcpu": "znver5"},
    "avxvnni": {"mtriple": _X86, "mcpu": "alderlake"},
    "avx2": {"mtriple": _X86, "mcpu": "haswell"},
    "neon": {"mtriple": "aarch64-unknown-linux-gnu", "mcpu": "neoverse-n1"},
}
LEVELS = list(TARGETS)
# Without dot products avxvnni is avx2.
FLOAT_LEVELS = [level for level in LEVELS if level != "avxvnni"]

# A whole vector at a fixed place of the stack. An array of the kernel there is read at an index or
# through a pointer, and a value that is broadcast, or a lane, is no vector.
_SPILL = {
    "x86": re.compile(
        r"(?:{vex}\s+)?(?!\w*(?:broadcast|insr|extr)|vmov[dq]\s|v\w+s[sd]\s)"
        r"(?=.*[xyz]mm\d)v.*?[\s,]-?\d*\(%rsp\)"
    ),
    "neon": re.compile(r"(?:ld|st)[ru]*p?\s+q\d.*\[sp(?:, #\d+)?\]"),
}
_WIDTH = {"avx512vnni": r"%zmm\d+", "avxvnni": r"%ymm\d+", "avx2": r"%ymm\d+", "neon": r"v\d+\.4s"}
_JUMP = re.compile(r"(?:j\w+|b\.?\w*|cbn?z|tbn?z)\s.*?(\.L\w+)$")
_SCALAR_FLOAT = {
    "x86": re.compile(r"v(?:add|sub|mul|fn?m(?:add|sub)\d+)ss\s"),
    "neon": re.compile(r"f(?:add|sub|mul|n?madd|n?msub)\s+s\d"),
}
# What LLVM calls where it has no instruction.
_MATHS = re.compile(r"(?:callq?|bl)\s+(?:__\w*hf\w*|expf?|sqrtf?|fmaf?|roundf?|rintf?)\b")


def target_of(level: str) -> Target:
    return Target({"kind": "llvm", **TARGETS[level]})


@cache
def isa_of(level: str) -> VectorIsa:
    isa = select_isa(target_of(level))
    assert isa.name == level
    return isa


@dataclass(frozen=True)
class Code:
    """Instructions of a level, labels among them."""

    level: str
    lines: list[str]

    @property
    def family(self) -> str:
        return "neon" if self.level == "neon" else "x86"

    def matching(self, pattern: str) -> list[str]:
        """Instructions that begin with `pattern`, prefixes apart."""
        return [line for line in self.lines if re.match(rf"(?:{{\w+}}\s+)?(?:{pattern})", line)]

    def full(self, pattern: str) -> list[str]:
        """Those of them that work on whole registers of f32 or i32."""
        width = re.compile(_WIDTH[self.level])
        return [line for line in self.matching(pattern) if width.search(line)]

    @property
    def spills(self) -> list[str]:
        """Instructions that move or use a vector that waits on the stack."""
        return [line for line in self.lines if _SPILL[self.family].match(line)]

    @property
    def scalar_floats(self) -> list[str]:
        return [line for line in self.lines if _SCALAR_FLOAT[self.family].match(line)]

    @property
    def maths_calls(self) -> list[str]:
        return [line for line in self.lines if _MATHS.match(line)]

    @property
    def size(self) -> int:
        """Number of instructions."""
        return sum(not line.startswith(".") for line in self.lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Assembly(Code):
    """All code of a module."""

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """From a label to the last jump back to it."""
        places = enumerate(self.lines)
        labels = {line.split(":")[0]: i for i, line in places if re.match(r"\.L\w+:", line)}
        ends: dict[int, int] = {}
        for end, line in enumerate(self.lines):
            jump = _JUMP.match(line)
            if jump and labels.get(jump[1], end) < end:
                ends[labels[jump[1]]] = end
        return sorted(ends.items())

    def innermost_loops(self, holds: str) -> list[Code]:
        """Loops that hold instructions `holds` and no other loop that does."""
        found = set(self.matching(holds))
        places = [i for i, line in enumerate(self.lines) if line in found]
        spans = [
            (first, last) for first, last in self._spans if any(first < i < last for i in places)
        ]
        return [
            Code(self.level, self.lines[first : last + 1])
            for first, last in spans
            if not any(first < a and b <= last for a, b in spans)
        ]


def assemble(level: str, function: Callable[[VectorIsa], Any]) -> Assembly:
    """What LLVM makes of the PrimFunc `function(isa)` for the processor of `level`."""
    module = build_functions({"kernel": function(isa_of(level))}, target_of(level))
    lines = [line.strip() for line in module.mod.inspect_source("s").splitlines()]
    return Assembly(level, [line for line in lines if not line.startswith(("#", "//"))])
