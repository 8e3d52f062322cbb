"""The cache folder: locks between processes, and fingerprints of files."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlc_server.build.progress import ProgressCallback, no_progress
from mlc_server.errors import SourceError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_CHUNK_BYTES = 1 << 22
PHASE = "checking files"


def make_folder(path: Path) -> Path:
    """Creates a folder of the cache; raises SourceError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(
            "the cache folder cannot be made",
            seen=str(error),
            hint="set MLC_SERVER_HOME to a folder that can be written",
        ) from error
    return path


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock between processes, waiting for it; a dead process holds none."""
    make_folder(path.parent)
    with path.open("ab") as file:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            try:
                yield
            finally:
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes
            yield


def write_atomically(path: Path, content: bytes) -> None:
    """Other processes see the whole file or none of it."""
    make_folder(path.parent)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def fingerprint(
    paths: Sequence[Path], cache_dir: Path, progress: ProgressCallback = no_progress
) -> str:
    """SHA-256 over names and contents of files, hexadecimal.

    A file's hash is remembered under its path, size and time of change, so that a large model is
    read once.
    """
    total = sum(path.stat().st_size for path in paths)
    done = 0
    combined = hashlib.sha256()
    for path in paths:
        status = path.stat()
        identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"
        memo_name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
        memo = cache_dir / "fingerprints" / memo_name[:32]
        if memo.is_file():
            digest = memo.read_text()
        else:
            digest = _hash_file(path, done, total, progress)
            write_atomically(memo, digest.encode())
        done += status.st_size
        combined.update(f"{path.name}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return combined.hexdigest()


def _hash_file(path: Path, done: int, total: int, progress: ProgressCallback) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(PHASE, done, total)
    return digest.hexdigest()
