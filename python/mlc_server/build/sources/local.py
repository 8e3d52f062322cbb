"""Recognises what a local path holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlc_server.build.hf_config import CONFIG
from mlc_server.build.manifest import CHAT_CONFIG
from mlc_server.errors import SourceError


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine. `mlc`: a folder to serve as it is; `hf`, `gguf`: to be converted."""

    kind: Literal["mlc", "hf", "gguf"]
    path: Path
    name: str


GGUF_MAGIC = b"GGUF"


def recognize(path: Path, member: str | None = None) -> ModelSource:
    """What lies at an existing path; raises SourceError.

    A configuration file stands for its folder, as in MLC's command line. `member` chooses among
    several GGUF files of a folder.
    """
    path = path.expanduser()
    if path.is_file():
        if path.name in {CHAT_CONFIG, CONFIG}:
            return recognize(path.absolute().parent)
        if _is_gguf(path):
            return ModelSource("gguf", path, path.stem)
        raise SourceError(
            f"{path} is not a model",
            seen="a file that is neither GGUF nor a configuration",
            hint=f"give a GGUF file, or the folder that holds {CHAT_CONFIG} or {CONFIG}",
        )
    name = path.resolve().name
    if (path / CHAT_CONFIG).is_file():
        return ModelSource("mlc", path, name)
    if (path / "params" / CHAT_CONFIG).is_file():  # the layout of MLC's first releases
        return ModelSource("mlc", path / "params", name)
    if (path / CONFIG).is_file() and any(path.glob("*.safetensors")):
        return ModelSource("hf", path, name)
    return _gguf_in(path, member)


def _is_gguf(path: Path) -> bool:
    """Whether the file begins like one; its parser is not imported for models ready to serve."""
    with path.open("rb") as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def _gguf_in(folder: Path, member: str | None) -> ModelSource:
    names = sorted(path.name for path in folder.glob("*.gguf"))
    if member is not None and member in names:
        names = [member]
    if len(names) == 1:
        path = folder / names[0]
        return ModelSource("gguf", path, path.stem)
    if names:
        raise SourceError(
            f"{folder} holds several GGUF files",
            seen=", ".join(names[:12]),
            hint=f"give one of them: {folder / names[0]}",
        )
    raise SourceError(
        f"{folder} holds no model that can be read",
        seen=", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "an empty folder",
        hint=f"it needs {CHAT_CONFIG}, or {CONFIG} with *.safetensors, or a *.gguf "
        "(pickled weights, *.bin and *.pth, are never loaded)",
    )
