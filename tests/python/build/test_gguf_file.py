"""read_gguf against the gguf package's reader, and on files broken in every way."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc_server.build.gguf_file import read_gguf
from mlc_server.build.gguf_import import open_gguf
from mlc_server.errors import FormatError
from support.import_files import random_weights, write_gguf
from support.tiny_model import tiny_config


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(num_layers=1)
    folder = tmp_path_factory.mktemp("gguf")
    kinds = {"attn_q": Kind.Q4_0, "attn_output": Kind.Q8_0, "ffn_up": Kind.BF16}

    def kind_of(name: str) -> Kind:
        return next((kind for part, kind in kinds.items() if part in name), Kind.F16)

    return write_gguf(folder / "m.gguf", config, random_weights(config), kind_of)


def test_reads_what_the_gguf_package_reads(path: Path) -> None:
    ours, theirs = read_gguf(path), GGUFReader(path)
    keys = {key for key in theirs.fields if not key.startswith("GGUF.")}
    assert ours.metadata.keys() == keys
    for key in keys:
        want, got = theirs.fields[key].contents(), ours.metadata[key]
        assert (list(got) if isinstance(want, list) else got) == want, key
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        got_tensor = ours.tensors[tensor.name]
        assert got_tensor.kind == tensor.tensor_type
        assert got_tensor.shape == tuple(tensor.shape.tolist()[::-1])
        raw = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        assert np.array_equal(got_tensor.blocks.reshape(-1), raw)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _header(keys: int, tensors: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys)


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _string(name) + dims + struct.pack("<IQ", kind, offset)


HUGE = 1 << 60
HEADER_BYTES = 6144  # metadata and tensor list of the file that `path` gives
U32, STRING, ARRAY, F32 = 4, 8, 9, 0
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "only magic": b"GGUF",
    "another magic": _header(0, magic=b"GGML"),
    "version 1": _header(0, version=1),
    "big endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "too many keys": _header(HUGE),
    "too many tensors": _header(0, HUGE),
    "keys that are not there": _header(3),
    "tensors that are not there": _header(0, 3),
    "endless key": _header(1) + struct.pack("<Q", HUGE),
    "key is not text": _header(1) + struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", U32, 1),
    "unknown value type": _header(1) + _string("a") + struct.pack("<II", 77, 0),
    "value cut short": _header(1) + _string("a") + struct.pack("<I", U32),
    "endless string": _header(1) + _string("a") + struct.pack("<IQ", STRING, HUGE),
    "endless numbers": _header(1) + _string("a") + struct.pack("<IIQ", ARRAY, U32, HUGE),
    "endless booleans": _header(1) + _string("a") + struct.pack("<IIQ", ARRAY, 7, HUGE),
    "endless strings": _header(1) + _string("a") + struct.pack("<IIQ", ARRAY, STRING, HUGE),
    "array of arrays": _header(1)
    + _string("a")
    + struct.pack("<IIQ", ARRAY, ARRAY, 1)
    + b"\0" * 64,
    "strings run out": _header(1) + _string("a") + struct.pack("<IIQQ", ARRAY, STRING, 1, 9),
    "string array not text": _header(1)
    + _string("a")
    + struct.pack("<IIQQ", ARRAY, STRING, 1, 1)
    + b"\xff",
    "key twice": _header(2) + 2 * (_string("a") + struct.pack("<II", U32, 1)),
    "alignment zero": _header(1) + _string("general.alignment") + struct.pack("<II", U32, 0),
    "alignment three": _header(1) + _string("general.alignment") + struct.pack("<II", U32, 3),
    "alignment is text": _header(1)
    + _string("general.alignment")
    + struct.pack("<I", 8)
    + _string("x"),
    "no dimensions": _header(0, 1) + _tensor("t", (), F32, 0) + b"\0" * 64,
    "many dimensions": _header(0, 1) + _tensor("t", (1,) * 5, F32, 0) + b"\0" * 64,
    "endless dimensions": _header(0, 1) + _string("t") + struct.pack("<I", 0xFFFFFFFF),
    "empty dimension": _header(0, 1) + _tensor("t", (4, 0), F32, 0) + b"\0" * 64,
    "huge tensor": _header(0, 1) + _tensor("t", (1 << 40, 1 << 40), F32, 0) + b"\0" * 64,
    "offset beyond": _header(0, 1) + _tensor("t", (4,), F32, HUGE) + b"\0" * 64,
    "unknown tensor type": _header(0, 1) + _tensor("t", (4,), 4040, 0) + b"\0" * 64,
    "half a block": _header(0, 1) + _tensor("t", (33,), 2, 0) + b"\0" * 64,
    "tensor twice": _header(0, 2) + 2 * _tensor("t", (4,), F32, 0) + b"\0" * 64,
    "data cut short": _header(0, 1) + _tensor("t", (64,), F32, 0) + b"\0" * 64,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers(tmp_path: Path, name: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(BROKEN[name])
    with pytest.raises(FormatError, match=r"broken\.gguf"):
        read_gguf(path)


def test_every_truncation_is_told(path: Path, tmp_path: Path) -> None:
    """Half a download is the commonest damage."""
    data = path.read_bytes()
    short = tmp_path / "short.gguf"
    for length in [*range(0, 400, 7), *range(400, len(data), 4999), len(data) - 1]:
        short.write_bytes(data[:length])
        with pytest.raises(FormatError):
            open_gguf(short)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_never_escape_as_other_errors(
    path: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """A damaged header opens, or is a FormatError; nothing else, and at once."""
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, HEADER_BYTES))
        content[place] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    with contextlib.suppress(FormatError):
        open_gguf(damaged)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        read_gguf(tmp_path / "absent.gguf")
