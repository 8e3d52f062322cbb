"""The default model, prepared and compiled in the cache, for tests that need real weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlc_server import _core
from mlc_server.build.compile import library_for
from mlc_server.build.manifest import Manifest, load_manifest
from mlc_server.build.sources import DEFAULT_MODEL, prepare_model
from mlc_server.cli.common import default_cache_dir

THREADS = 2


def _quiet(*_: Any) -> None:
    """A progress callback that shows nothing."""


@dataclass(frozen=True)
class DefaultModel:
    """Where the default model and its library for this machine are."""

    manifest: Manifest
    library: Path

    def runner(self) -> Any:
        """A TvmRunner with its weights loaded."""
        tvm = find_spec("tvm")
        assert tvm is not None
        assert tvm.submodule_search_locations
        runtime = Path(tvm.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
        return _core.TvmRunner(
            str(self.library), str(self.manifest.folder), THREADS, tvm_library_path=str(runtime)
        )


def default_model() -> DefaultModel:
    cache_dir = default_cache_dir()
    manifest = load_manifest(prepare_model(DEFAULT_MODEL, cache_dir, _quiet))
    return DefaultModel(manifest, library_for(manifest, "auto", cache_dir / "libraries", _quiet))
