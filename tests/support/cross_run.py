"""Runs a kernel compiled for aarch64 under qemu, so that its numbers can be checked anywhere."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi
from tvm.target import Target

from mlc_server.build.kernels.cpu.pipeline import build_functions

COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
SYSROOT = "/usr/aarch64-linux-gnu"
AVAILABLE = bool(shutil.which(COMPILER) and shutil.which(EMULATOR))
TARGET = Target({"kind": "llvm", "mtriple": "aarch64-unknown-linux-gnu", "mcpu": "neoverse-n1"})
_DTYPE_CODES = {"i": 0, "u": 1, "f": 2}


def _encode(argument: np.ndarray | int) -> bytes:
    if isinstance(argument, int):
        return struct.pack("<iq", 0, argument)
    dtype = argument.dtype
    header = struct.pack("<4i", 1, _DTYPE_CODES[dtype.kind], 8 * dtype.itemsize, argument.ndim)
    shape = struct.pack(f"<{argument.ndim}q", *argument.shape)
    return header + shape + struct.pack("<q", argument.nbytes) + argument.tobytes()


class CrossFunction:
    """A PrimFunc as an aarch64 program in `folder`."""

    def __init__(self, name: str, function: Any, folder: Path) -> None:
        module = build_functions({name: function}, TARGET)
        compiled = folder / f"{name}.o"
        module.mod.write_to_file(str(compiled), "o")
        self._program = folder / name
        self._folder = folder
        includes = [f"-I{path}" for path in tvm_ffi.libinfo.include_paths()]
        main = Path(__file__).with_name("cross_main.c")
        command = [COMPILER, "-O1", f"-DKERNEL=__tvm_ffi_{name}", *includes]
        subprocess.run(
            [*command, str(main), str(compiled), "-o", str(self._program)], check=True, timeout=60
        )

    def __call__(self, *arguments: np.ndarray | int) -> list[np.ndarray]:
        """All tensors among the arguments, as they are after the call."""
        source, result = self._folder / "arguments", self._folder / "results"
        source.write_bytes(
            struct.pack("<i", len(arguments)) + b"".join(_encode(a) for a in arguments)
        )
        command = [EMULATOR, "-L", SYSROOT, str(self._program), str(source), str(result)]
        subprocess.run(command, check=True, timeout=60)
        data, tensors, start = result.read_bytes(), list[np.ndarray](), 0
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                raw = data[start : start + argument.nbytes]
                tensors.append(np.frombuffer(raw, argument.dtype).reshape(argument.shape))
                start += argument.nbytes
        return tensors
