"""Picking rows copies just the listed ones, of every tensor, in the order of the list."""

from __future__ import annotations

import numpy as np
import tvm

from mlc_server.build.kernels.cpu.pick_rows import Columns, pick_rows_kernel, pick_rows_name
from mlc_server.build.kernels.cpu.pipeline import build_functions
from mlc_server.build.targets import resolve_target

COLUMNS = [Columns(96, "float32"), Columns(64, "int8"), Columns(3, "int32"), Columns(1, "float32")]


def test_listed_rows_of_every_tensor_are_copied_in_the_order_of_the_list() -> None:
    rng = np.random.default_rng(5)
    sources = [rng.integers(-100, 100, size=(9, width)).astype(dtype) for width, dtype in COLUMNS]
    target = resolve_target("auto").target
    pick = build_functions({"pick": pick_rows_kernel(COLUMNS)}, target)["pick"]
    for rows in ([8], [0, 5, 1], [3, 3, 8, 0], list(range(9))):
        copies = [
            tvm.runtime.tensor(np.full((len(rows), width), 77, dtype)) for width, dtype in COLUMNS
        ]
        listed = tvm.runtime.tensor(np.array(rows, "int32"))
        pick(*map(tvm.runtime.tensor, sources), listed, *copies)
        for copy, source in zip(copies, sources, strict=True):
            np.testing.assert_array_equal(copy.numpy(), source[rows])


def test_names_tell_kernels_apart() -> None:
    assert pick_rows_name(COLUMNS[:1]) != pick_rows_name(COLUMNS[1:2])
    assert pick_rows_name([Columns(8, "int8")]) != pick_rows_name([Columns(8, "int32")])
