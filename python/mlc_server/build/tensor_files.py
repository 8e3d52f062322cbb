"""The tensors of `params_shard_*.bin` files: see tensor_cache, which is about their index."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mlc_server.build.tensor_cache import (
    BF16_ON_DISK,
    CACHE_NAMES,
    ITEM_BYTES,
    RAW,
    SHARD_BYTES_MAX,
    TensorRecord,
)

AnyArray = npt.NDArray[Any]


class TensorReader:
    """Maps the shards of a folder and returns tensors without copying, where it can.

    Use as a context manager; arrays of `read` keep their mapping alive by themselves.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, TensorRecord]) -> None:
        self._folder = folder
        self._tensors = tensors
        self._maps: dict[str, mmap.mmap] = {}

    def read(self, name: str) -> AnyArray:
        """Tensor `name` in its loaded dtype and shape; read-only. Raises KeyError."""
        record = self._tensors[name]
        dtype = np.dtype("<u2") if record.is_bf16_on_disk else np.dtype(record.dtype)
        count = math.prod(record.shape)
        raw = np.frombuffer(self._map(record.shard), dtype, count, record.byte_offset)
        if record.is_bf16_on_disk:
            return (raw.astype(np.uint32) << 16).view(np.float32).reshape(record.shape)
        return raw.reshape(record.shape)

    def _map(self, shard: str) -> mmap.mmap:
        if shard not in self._maps:
            with (self._folder / shard).open("rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[shard]


def to_bf16_bits(values: AnyArray) -> npt.NDArray[np.uint16]:
    """float32 rounded to nearest-even bfloat16, as u16 bits (NaN stays NaN)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


class TensorCacheWriter:
    """Writes shards of at most 32 MiB (larger tensors alone) and, on `finish`, the index.

    The index comes last, so a folder without one is a conversion that did not end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: list[dict[str, Any]] = []
        self._records: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._offset = 0
        self._elements = 0

    def add(self, name: str, array: AnyArray, *, stored: str = RAW) -> None:
        """Appends one tensor; `stored` = BF16_ON_DISK narrows a float32 to bfloat16."""
        dtype = str(array.dtype)
        if dtype not in ITEM_BYTES:
            msg = f"tensor {name} has dtype {dtype}, which the format does not hold"
            raise TypeError(msg)
        data: AnyArray = np.ascontiguousarray(array)
        if stored == BF16_ON_DISK and dtype == "float32":
            data = to_bf16_bits(data)
        data = data.astype(data.dtype.newbyteorder("<"), copy=False)
        if self._offset and self._offset + data.nbytes > SHARD_BYTES_MAX:
            self._close_shard()
        if self._file is None:
            self._file = (self._folder / self._shard_name()).open("wb")
        view = data.reshape(-1).view(np.uint8).data
        self._file.write(view)
        self._md5.update(view)
        self._records.append(
            {
                "name": name,
                "shape": list(array.shape),
                "dtype": dtype,
                "format": stored,
                "nbytes": data.nbytes,
                "byteOffset": self._offset,
            }
        )
        self._offset += data.nbytes
        self._elements += array.size

    def finish(self, num_parameters: int) -> None:
        """Writes the index. `num_parameters` counts the model's weights before packing."""
        self._close_shard()
        total = sum(shard["nbytes"] for shard in self._shards)
        index = {
            "metadata": {
                "ParamSize": sum(len(shard["records"]) for shard in self._shards),
                "ParamBytes": total,
                "BitsPerParam": round(total * 8.0 / max(num_parameters, 1), 4),
            },
            "records": self._shards,
        }
        (self._folder / CACHE_NAMES[0]).write_text(json.dumps(index, indent=1))

    def abort(self) -> None:
        """Closes the open file; the folder stays without an index."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _shard_name(self) -> str:
        return f"params_shard_{len(self._shards)}.bin"

    def _close_shard(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._shards.append(
            {
                "dataPath": self._shard_name(),
                "format": "raw-shard",
                "nbytes": self._offset,
                "records": self._records,
                "md5sum": self._md5.hexdigest(),
            }
        )
        self._file = None
        self._records = []
        self._offset = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
