"""The --device flag."""

from __future__ import annotations

import difflib

from mlc_server.errors import UserError

AVAILABLE = ("auto", "cpu")
# Devices the flag's documentation names and this release has no kernels for.
KNOWN = ("cuda", "metal", "vulkan", "rocm", "opencl")


def resolve_device(text: str) -> str:
    """ "auto", "cpu" or "cpu:0" -> "cpu". Raises UserError for anything else."""
    name, colon, index = text.partition(":")
    if name in KNOWN:
        raise UserError(
            f"device {name} is not available",
            seen=f"--device {text}",
            hint="--device cpu, the only one this release has kernels for",
        )
    if name not in AVAILABLE:
        close = difflib.get_close_matches(name, [*AVAILABLE, *KNOWN], n=1)
        hint = f"did you mean {close[0]}?" if close else "--device cpu"
        raise UserError(f"device {name} is unknown", seen=f"--device {text}", hint=hint)
    if colon and index != "0":
        raise UserError(
            f"device {text} does not exist",
            seen=f"--device {text}; this machine has cpu:0",
            hint="--device cpu",
        )
    return "cpu"
