"""`tensor-cache.json`, the index of `params_shard_*.bin` files: see tensor_files for those.

The format is MLC's: raw little-endian C-order tensors without header or alignment, found by
name. A float32 tensor of format `f32-to-bf16` takes two bytes an element on disk and is widened
by a 16-bit left shift.

Importing this does not import NumPy, which a server that only starts has no use for.
"""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
