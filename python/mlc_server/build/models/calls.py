"""Calls of hand-scheduled kernels from `relax.frontend.nn` modules.

Contents:
    Workspace        the step's intermediate tensors, at most so large, reused by every layer.
    KernelCalls      emits calls of PrimFuncs, one function per distinct kernel.
    inputs_first     the parameter order that calls need.

Kernels write into tensors of the workspace, the same ones in every layer. So a step makes some
twenty tensors, not hundreds (each costs the Relax VM about as much as a call), and asks for blocks
of the same sizes every time, which a pooling allocator serves without growing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
from tvm import ir, relax, tirx
from tvm.relax.frontend.nn import Tensor, wrap_nested

PrimFunc = Any  # tvm ships no types
Dimension = Any  # an int, or a symbolic dimension

_ITEM_BYTES = {"float32": 4, "int32": 4, "int8": 1}


class Workspace:
    """Intermediate tensors by role, shape and dtype; each is allocated when first asked for.

    `bounds`: largest value of each symbolic dimension, by name; memory is taken for it.
    """

    def __init__(self, bounds: Mapping[str, int]) -> None:
        self._bounds = bounds
        self._tensors: dict[tuple[str, ...], Tensor] = {}

    def __call__(self, role: str, shape: Sequence[Dimension], dtype: str) -> Tensor:
        """The tensor of `role`: contents are undefined until a kernel writes them."""
        key = (role, dtype, *map(str, shape))
        if key not in self._tensors:
            self._tensors[key] = self._allocate(role, shape, dtype)
        return self._tensors[key]

    def _allocate(self, role: str, shape: Sequence[Dimension], dtype: str) -> Tensor:
        sizes = [n if isinstance(n, int) else self._bounds[n.name] for n in shape]
        size = relax.ShapeExpr([math.prod(sizes) * _ITEM_BYTES[dtype]])
        builder = relax.BlockBuilder.current()
        # Explicit storage, because the planner would give the step's result one of its exact
        # size: a pool would then keep a block for every number of logit rows ever asked for.
        storage = builder.emit(relax.op.memory.alloc_storage(size, 0, "global", dtype))
        tensor = relax.op.memory.alloc_tensor(storage, 0, relax.ShapeExpr(list(shape)), dtype)
        return Tensor(_expr=builder.emit(tensor, name_hint=role))


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
        written: Sequence[Tensor],
    ) -> list[Tensor]:
        """Emits a call with `inputs` (tensors and int64 scalars) and then `written`.

        Returns `written` as it is after the call: only these results carry the dependence, so use
        them, never the arguments. A tensor of `inputs` that the kernel writes too is listed in
        both and passed once, in its place among the inputs.
        """
        builder = relax.BlockBuilder.current()
        if name not in self._functions:
            self._functions[name] = builder.add_func(make(), name)
        arguments = [*inputs, *(w for w in written if not _contains(inputs, w))]
        places = [_index(arguments, tensor) for tensor in written]
        expressions = [
            tirx.const(value, "int64") if isinstance(value, int) else value._expr
            for value in arguments
        ]
        types = [tensor._expr.ty for tensor in written]
        call = relax.call_tir_inplace(self._functions[name], expressions, places, types)
        results = wrap_nested(builder.emit(call, name_hint=name), name)
        return [results] if isinstance(results, Tensor) else list(results)


def _index(tensors: Sequence[Tensor | int], wanted: Tensor) -> int:
    return next(i for i, tensor in enumerate(tensors) if tensor is wanted)


def _contains(tensors: Sequence[Tensor | int], wanted: Tensor) -> bool:
    return any(tensor is wanted for tensor in tensors)


def inputs_first(function: PrimFunc, num_outputs: int) -> PrimFunc:
    """`function` with scalar parameters moved before its `num_outputs` last tensors."""
    scalars = [p for p in function.params if ir.is_prim_expr(p)]
    tensors = [p for p in function.params if not ir.is_prim_expr(p)]
    inputs, outputs = tensors[:-num_outputs], tensors[-num_outputs:]
    parameters = [*inputs, *scalars, *outputs]
    return tirx.PrimFunc(parameters, function.body, function.ret_type, function.attrs)


def constant(values: npt.NDArray[Any]) -> Tensor:
    """A tensor stored in the library, of the dtype of `values`."""
    return Tensor(_expr=relax.const(values, str(values.dtype)))
