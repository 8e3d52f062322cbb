"""Instruction set levels that the machine running the tests can execute."""

from __future__ import annotations

from typing import Any

from tvm.target import Target

from mlc_server.build.kernels.cpu.isa import LEVELS, VectorIsa, restrict_target, select_isa
from mlc_server.build.targets import resolve_target
from mlc_server.errors import CompileError

HOST = resolve_target("auto").target


def _runs(level: str) -> bool:
    try:
        select_isa(HOST, level)
    except CompileError:
        return False
    return True


RUNNABLE_LEVELS = [level for level in LEVELS if _runs(level)]


def target_and_isa(level: str) -> tuple[Target, VectorIsa]:
    """The host restricted to `level`, so that no better instruction can slip in."""
    target = restrict_target(HOST, level)
    return target, select_isa(target)


def tensors(*arrays: Any) -> list[Any]:
    """NumPy arrays as tensors a compiled function takes; they are copies."""
    import tvm  # noqa: PLC0415 - only tests that run kernels need it

    return [tvm.runtime.tensor(array) for array in arrays]
