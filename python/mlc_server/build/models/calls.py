"""Calls of hand-scheduled kernels from `relax.frontend.nn` modules.

Contents:
    KernelCalls      emits call_tir of PrimFuncs, one function per distinct kernel.
    inputs_first     the parameter order call_tir needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import tvm
from tvm import relax, tirx
from tvm.relax.frontend.nn import Tensor, wrap_nested

PrimFunc = Any  # tvm ships no types


class KernelCalls:
    """The kernels of one library by name; each is added to the module when first called.

    Layers differ in scalar arguments only (weight offsets, layer index), so they share functions.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}

    def __call__(
        self,
        name: str,
        make: Callable[[], PrimFunc],
        inputs: Sequence[Tensor | int],
        outputs: Sequence[Tensor],
        inplace: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Emits a call and returns its outputs.

        `inputs`: tensors and int64 scalars in the kernel's order. `outputs`: placeholders for
        shape and dtype. `inplace[i]`: index of the input that output i is, or -1 for a new one;
        None when all are new.
        """
        builder = relax.BlockBuilder.current()
        if name not in self._functions:
            self._functions[name] = builder.add_func(make(), name)
        function = self._functions[name]
        arguments = [
            tirx.const(value, "int64") if isinstance(value, int) else value._expr
            for value in inputs
        ]
        types = [output._expr.ty for output in outputs]
        if inplace is None:
            call = relax.call_tir(function, arguments, types)
        else:
            call = relax.call_tir_inplace(function, arguments, list(inplace), types)
        results = wrap_nested(builder.emit(call, name_hint=name), name)
        return [results] if isinstance(results, Tensor) else list(results)


def inputs_first(function: PrimFunc, num_outputs: int) -> PrimFunc:
    """`function` with scalar parameters moved before its `num_outputs` last tensors."""
    scalars = [p for p in function.params if tvm.ir.is_prim_expr(p)]
    tensors = [p for p in function.params if not tvm.ir.is_prim_expr(p)]
    inputs, outputs = tensors[:-num_outputs], tensors[-num_outputs:]
    parameters = [*inputs, *scalars, *outputs]
    return tirx.PrimFunc(parameters, function.body, function.ret_type, function.attrs)


def placeholder(shape: Sequence[Any], dtype: str) -> Tensor:
    """A tensor that stands for an output of `shape`."""
    return Tensor.placeholder(list(shape), dtype, "output")


def constant(values: npt.NDArray[Any]) -> Tensor:
    """A tensor stored in the library, of the dtype of `values`."""
    return Tensor(_expr=relax.const(values, str(values.dtype)))


def bind_upper_bounds(module: tvm.IRModule, name: str, bounds: dict[str, int]) -> tvm.IRModule:
    """States upper bounds of symbolic dimensions of function `name`, for memory planning."""
    function = module[name].with_attr("tir_var_upper_bound", bounds)
    module.update_func(module.get_global_var(name), function)
    return module
