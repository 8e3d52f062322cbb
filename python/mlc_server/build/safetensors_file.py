"""Maps the tensors of safetensors files, single or sharded, as NumPy arrays.

The `safetensors` package checks the file (its header's JSON, that tensors neither overlap nor
pass the end); its NumPy reader has no bfloat16, so the bytes are mapped here.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mlc_server.build.fields import Fields, read_json_object, shown
from mlc_server.build.hf_config import INDEX
from mlc_server.build.tensor_cache import resolve_shard
from mlc_server.errors import FormatError

SINGLE = "model.safetensors"
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}


@dataclass(frozen=True)
class SafeTensor:
    """`raw` has the stored type; bfloat16 is u2."""

    shape: tuple[int, ...]
    dtype: str
    raw: npt.NDArray[Any]

    def to_float(self) -> npt.NDArray[np.float32]:
        """float32 of the same shape."""
        if self.dtype == "BF16":
            return (self.raw.astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        return self.raw.astype(np.float32).reshape(self.shape)


def read_safetensors_folder(folder: Path) -> dict[str, SafeTensor]:
    """Every tensor of the folder's index, or of its single file; raises FormatError."""
    tensors: dict[str, SafeTensor] = {}
    for path in _files(folder):
        for name, tensor in read_safetensors(path).items():
            if name in tensors:
                raise _error(path, f"holds tensor {name}, as another file does", path.name)
            tensors[name] = tensor
    return tensors


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        single = folder / SINGLE
        if single.is_file():
            return [single]
        raise FormatError(
            f"{folder} has no {SINGLE}",
            seen=", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "an empty folder",
            hint="give a folder with safetensors; pickled weights (*.bin, *.pth) are never loaded",
        )
    fields = Fields(read_json_object(folder / INDEX), INDEX)
    if not fields.has("weight_map"):
        raise fields.missing("weight_map")
    names = fields.mapping("weight_map").data.values()
    if not all(isinstance(name, str) for name in names):
        raise fields.error("weight_map", "must map names to file names", list(names)[:4])
    return [resolve_shard(folder, name, fields, "weight_map") for name in sorted(set(names))]


def read_safetensors(path: Path) -> Mapping[str, SafeTensor]:
    """The tensors of one file; raises FormatError."""
    try:
        with safe_open(path, framework="numpy"):
            pass  # opening checks the header against the file
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, SafetensorError) as error:
        raise _error(path, "cannot be read", error) from error
    (header_bytes,) = struct.unpack_from("<Q", data)
    start = 8 + header_bytes
    header = json.loads(data[8:start])
    tensors: dict[str, SafeTensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = entry["dtype"]
        if dtype not in _DTYPES:
            raise _error(path, f"tensor {name} must be one of {', '.join(_DTYPES)}", dtype)
        first, last = entry["data_offsets"]
        raw = np.frombuffer(
            data, np.uint8, count=last - first, offset=start + first if last > first else 0
        )
        tensors[name] = SafeTensor(tuple(entry["shape"]), dtype, raw.view(_DTYPES[dtype]))
    return tensors


def _error(path: Path, problem: str, value: object) -> FormatError:
    return FormatError(
        f"{path.name} {problem}", seen=shown(str(value)), hint="download the file again"
    )
