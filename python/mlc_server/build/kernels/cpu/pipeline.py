"""Lowering of the CPU kernels: TVM's pipeline without the passes they have no use for.

Contents:
    PIPELINE         name under which the pipeline is known to `tvm.compile` once registered.
    register         makes it known; any number of times.
    build_functions  PrimFuncs -> callable functions, for tests.

The kernels are written as they shall run: vectors, blocking and private memory are explicit. The
passes left out either schedule (thread binding, software pipelines, shared memory) or re-derive
what is already stated, at seconds a kernel (CompactBufferAllocation alone is 3 of 4 seconds of
attention). StorageRewrite is left out because it lets accumulators share memory with arrays that
are indexed at run time, which keeps them out of registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.target import Target

PIPELINE = "mlc_server_cpu"


def _lowering() -> Any:
    return tvm.transform.Sequential(
        [
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            tirx.transform.VerifyMemory(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
        ]
    )


def _pipeline() -> tuple[Any, Any, Any]:
    default = tirx.get_tir_pipeline("default")
    return (_lowering(), *default[1:])


def register() -> None:
    """Makes `PIPELINE` usable as `tir_pipeline=` of `tvm.compile`."""
    tirx.register_tir_pipeline(PIPELINE, _pipeline)


def build_functions(functions: Mapping[str, Any], target: Target) -> Any:
    """A module whose function `name` is PrimFunc `functions[name]`, callable with tensors."""
    register()
    named = {name: f.with_attr("global_symbol", name) for name, f in functions.items()}
    return tvm.compile(tvm.IRModule(named), target=target, tir_pipeline=PIPELINE)
