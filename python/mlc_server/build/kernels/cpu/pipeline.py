"""Lowering of the CPU kernels: TVM's pipelines without the passes they have no use for.

Contents:
    build_library    a module of Relax functions and PrimFuncs -> an executable of the Relax VM.
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
from tvm import relax, s_tir, tirx
from tvm.target import Target

_PIPELINE = "mlc_server_cpu"


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


def _register() -> None:
    tirx.register_tir_pipeline(_PIPELINE, _pipeline)


def _step_lowering() -> Any:
    """Relax passes for functions that only call kernels on tensors they allocate themselves."""
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            passes.ToNonDataflow(),
            passes.CallTIRRewrite(),
            # Results of in-place calls are tuples of their arguments: names for what is at hand.
            passes.CanonicalizeBindings(),
            passes.DeadCodeElimination(),
            passes.RemovePurityChecking(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ]
    )


def build_library(module: tvm.IRModule, target: Target) -> Any:
    """An executable with `export_library`. Relax functions become machine code: interpreted, their
    240 calls of kernels took 2.6 % of a decode step of a small model."""
    _register()
    return relax.build(
        module,
        target=target,
        relax_pipeline=_step_lowering(),
        tir_pipeline=_PIPELINE,
        exec_mode="compiled",
    )


def build_functions(functions: Mapping[str, Any], target: Target) -> Any:
    """A module whose function `name` is PrimFunc `functions[name]`, callable with tensors."""
    _register()
    named = {name: f.with_attr("global_symbol", name) for name, f in functions.items()}
    return tvm.compile(tvm.IRModule(named), target=target, tir_pipeline=_PIPELINE)
