"""Reads a GGUF file's metadata and maps its tensors; every fault is a FormatError.

The `gguf` package's own reader trusts the counts in a file (an array said to have 2**60 numbers
makes it loop for ever) and makes a NumPy array of every token. Here every length is checked
against the file before use. The package still gives the block sizes and dequantisation.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from mlc_server.build.fields import shown
from mlc_server.errors import FormatError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ENTRIES = 1 << 16  # metadata keys, and tensors
MAX_DIMENSIONS = 4
MAX_STRING_BYTES = 1 << 24

# Value type -> struct format of a scalar; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_STRING = 8
_ARRAY = 9


@dataclass(frozen=True)
class GgufTensor:
    """`shape` is rows first; `blocks` are the raw bytes of each row, u8 [rows, row_bytes]."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    blocks: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class GgufFile:
    """Metadata values are int, float, bool, str, list[str] or a NumPy array of numbers."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_gguf(path: Path) -> GgufFile:
    """Parses the header and maps the tensors read-only; raises FormatError."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _error(path, "cannot be read", str(error)) from error
    cursor = _Cursor(path, data)
    if cursor.take(4, "magic") != MAGIC:
        raise _error(path, "is not a GGUF file", bytes(data[:4]))
    version = cursor.scalar("I", "version")
    if version not in VERSIONS:
        raise _error(path, f"has a version that is not supported {VERSIONS}", version)
    tensor_count = cursor.count("tensor count")
    key_count = cursor.count("key count")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.string("key")
        if key in metadata:
            raise _error(path, "has a key twice", key)
        metadata[key] = cursor.value(cursor.scalar("I", key), key)
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise _error(path, "field general.alignment must be a power of two", alignment)
    start = -(-cursor.offset // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for info in infos:
        if info.name in tensors:
            raise _error(path, "has a tensor twice", info.name)
        tensors[info.name] = _map_tensor(path, data, start, info)
    return GgufFile(path, metadata, tensors)


@dataclass(frozen=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def _tensor_info(cursor: _Cursor) -> _TensorInfo:
    name = cursor.string("tensor name")
    dimensions = cursor.scalar("I", name)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"tensor {name} must have 1 to {MAX_DIMENSIONS} dimensions", dimensions)
    shape = tuple(cursor.scalar("Q", name) for _ in range(dimensions))[::-1]
    return _TensorInfo(name, shape, cursor.scalar("I", name), cursor.scalar("Q", name))


def _map_tensor(path: Path, data: mmap.mmap, start: int, info: _TensorInfo) -> GgufTensor:
    try:
        kind = GGMLQuantizationType(info.kind)
        block, block_bytes = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError) as error:
        raise _error(path, f"tensor {info.name} has an unknown type", info.kind) from error
    columns, rows = info.shape[-1], math.prod(info.shape[:-1])
    if columns == 0 or rows == 0 or columns % block:
        problem = f"tensor {info.name} must have rows of a multiple of {block} ({kind.name})"
        raise _error(path, problem, list(info.shape))
    row_bytes = columns // block * block_bytes
    first = start + info.offset
    if first + rows * row_bytes > len(data):
        problem = f"is cut short: tensor {info.name} needs {first + rows * row_bytes} bytes"
        raise _error(path, problem, f"{len(data)} bytes")
    blocks = np.frombuffer(data, np.uint8, rows * row_bytes, first).reshape(rows, row_bytes)
    return GgufTensor(info.name, kind, info.shape, blocks)


def _error(path: Path, problem: str, value: object) -> FormatError:
    return FormatError(
        f"{path.name} {problem}",
        seen=shown(value),
        hint="download the file again; it must be GGUF version 2 or 3, little-endian",
    )


class _Cursor:
    """Reads forward through the file and never past its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.offset = 0

    def error(self, problem: str, value: object) -> FormatError:
        return _error(self.path, problem, value)

    def take(self, size: int, what: str) -> bytes:
        self._need(size, what)
        piece = self.data[self.offset : self.offset + size]
        self.offset += size
        return piece

    def scalar(self, form: str, what: str) -> Any:
        size = struct.calcsize(f"<{form}")
        return struct.unpack(f"<{form}", self.take(size, what))[0]

    def count(self, what: str) -> int:
        value: int = self.scalar("Q", what)
        if value > MAX_ENTRIES:
            raise self.error(f"{what} must be at most {MAX_ENTRIES}", value)
        return value

    def string(self, what: str) -> str:
        length = self.scalar("Q", what)
        if length > MAX_STRING_BYTES:
            raise self.error(f"field {what} is too long", f"{length} bytes")
        return self._decode(self.take(length, what), what)

    def value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind], key)
        if kind == _STRING:
            return self.string(key)
        if kind == _ARRAY:
            return self._array(key)
        raise self.error(f"field {key} has an unknown type", kind)

    def _array(self, key: str) -> Any:
        kind = self.scalar("I", key)
        count = self.scalar("Q", key)
        if kind in _SCALARS:
            dtype = np.dtype(f"<{_SCALARS[kind].replace('?', 'B')}")
            return np.frombuffer(self.take(count * dtype.itemsize, key), dtype)
        if kind != _STRING:
            raise self.error(f"field {key} holds values of an unknown type", kind)
        self._need(count * 8, key)  # the lengths alone
        return self._strings(count, key)

    def _strings(self, count: int, key: str) -> list[str]:
        """`count` strings, read without a call for each: vocabularies have 100 000s."""
        data, end, offset = self.data, len(self.data), self.offset
        unpack = struct.Struct("<Q").unpack_from
        strings: list[str] = []
        for _ in range(count):
            start = offset + 8
            if start > end:
                raise self.error(f"ends inside field {key}", f"{end} bytes")
            offset = start + unpack(data, start - 8)[0]
            if offset > end:
                raise self.error(f"ends inside field {key}", f"{end} bytes")
            strings.append(self._decode(data[start:offset], key))
        self.offset = offset
        return strings

    def _decode(self, raw: bytes, what: str) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"field {what} is not UTF-8", raw[:40]) from error

    def _need(self, size: int, what: str) -> None:
        if size > len(self.data) - self.offset:
            raise self.error(f"ends inside field {what}", f"{len(self.data)} bytes")
