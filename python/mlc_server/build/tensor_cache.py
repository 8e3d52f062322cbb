"""`tensor-cache.json` and its `params_shard_*.bin` files: reading and writing.

The format is MLC's: raw little-endian C-order tensors without header or alignment, found by
name. A float32 tensor of format `f32-to-bf16` takes two bytes an element on disk and is widened
by a 16-bit left shift.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mlc_server.build.fields import Fields, read_json_object
from mlc_server.errors import FormatError

CACHE_NAMES = ("tensor-cache.json", "ndarray-cache.json")
SHARD_BYTES_MAX = 32 << 20
MAX_RANK = 8
BF16_ON_DISK = "f32-to-bf16"
RAW = "raw"
ITEM_BYTES = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
}

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorRecord:
    """Where one tensor lies. `dtype` is the type once loaded; `nbytes` is its size on disk."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    format: str
    shard: str
    byte_offset: int
    nbytes: int

    @property
    def is_bf16_on_disk(self) -> bool:
        return self.dtype == "float32" and self.format == BF16_ON_DISK


def find_tensor_cache(folder: Path) -> Path:
    """The folder's tensor cache index, newer name first; raises FormatError."""
    for name in CACHE_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise FormatError(
        f"{folder} has no {CACHE_NAMES[0]}",
        seen=", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "an empty folder",
        hint="convert the weights again, or give the folder that holds params_shard_*.bin",
    )


def read_tensor_cache(folder: Path) -> dict[str, TensorRecord]:
    """Every record of the index, checked against the files' lengths; raises FormatError."""
    path = find_tensor_cache(folder)
    top = Fields(read_json_object(path), path.name)
    tensors: dict[str, TensorRecord] = {}
    for index, shard in enumerate(top.sequence("records")):
        fields = _object(shard, path.name, f"records[{index}].", top)
        name = fields.text("dataPath")
        shard_bytes = fields.integer("nbytes", 0, 1 << 48)
        shard_path = resolve_shard(folder, name, fields)
        actual = _file_length(shard_path, fields)
        if actual != shard_bytes:
            raise fields.error("nbytes", f"does not match {name}'s length {actual}", shard_bytes)
        for position, entry in enumerate(fields.sequence("records")):
            prefix = f"records[{index}].records[{position}]."
            record = _read_record(_object(entry, path.name, prefix, top), name, shard_bytes)
            if record.name in tensors:
                raise fields.error("records", "names a tensor twice", record.name)
            tensors[record.name] = record
    return tensors


def _object(value: object, file: str, prefix: str, top: Fields) -> Fields:
    if not isinstance(value, dict):
        raise top.error(prefix.rstrip("."), "must be an object", value)
    return Fields(value, file, prefix)


def _read_record(fields: Fields, shard: str, shard_bytes: int) -> TensorRecord:
    name = fields.text("name")
    dtype = fields.text("dtype")
    stored = fields.text("format", RAW)
    if dtype not in ITEM_BYTES:
        raise fields.error("dtype", f"must be one of {', '.join(ITEM_BYTES)}", dtype)
    shape = fields.sequence("shape")
    if len(shape) > MAX_RANK:
        raise fields.error("shape", f"may have at most {MAX_RANK} dimensions", shape)
    for dim in shape:
        if isinstance(dim, bool) or not isinstance(dim, int) or not 0 < dim < 1 << 40:
            raise fields.error("shape", "must be positive integers", shape)
    if dtype == "bfloat16":  # raw u16, which is what a float32 stored as bf16 is
        dtype, stored = "float32", BF16_ON_DISK
    item = 2 if dtype == "float32" and stored == BF16_ON_DISK else ITEM_BYTES[dtype]
    offset = fields.integer("byteOffset", 0, shard_bytes)
    nbytes = fields.integer("nbytes", 0, 1 << 48)
    if nbytes != math.prod(shape) * item:
        raise fields.error("nbytes", f"of {name} must be {math.prod(shape) * item}", nbytes)
    if offset + nbytes > shard_bytes:
        raise fields.error("byteOffset", f"+ nbytes passes the end of {shard}", offset)
    return TensorRecord(name, tuple(shape), dtype, stored, shard, offset, nbytes)


def resolve_shard(folder: Path, name: str, fields: Fields, field: str = "dataPath") -> Path:
    """The path of shard `name`, read from `field`, inside `folder`; refuses any way out of it.

    A Hugging Face snapshot links its files to the `blobs` folder beside `snapshots`, so links
    to there are followed; other links out are not.
    """
    pure = PurePosixPath(name)
    plain = name and "\0" not in name and "\\" not in name and ":" not in name
    if not plain or pure.is_absolute() or ".." in pure.parts or len(name) > 255:
        raise fields.error(field, "must be a relative path inside the model folder", name)
    root = folder.resolve()
    target = (root / name).resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(r) for r in roots):
        raise fields.error(field, "leads out of the model folder", name)
    return target


def _file_length(path: Path, fields: Fields) -> int:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise fields.error("dataPath", "names a file that cannot be read", path.name) from error
    if not stat.S_ISREG(status.st_mode):
        raise fields.error("dataPath", "must name a regular file", path.name)
    return status.st_size


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


def iterate_tensors(
    folder: Path, tensors: Mapping[str, TensorRecord]
) -> Iterator[tuple[str, AnyArray]]:
    """(name, array) of every tensor, in name order."""
    reader = TensorReader(folder, tensors)
    for name in sorted(tensors):
        yield name, reader.read(name)
