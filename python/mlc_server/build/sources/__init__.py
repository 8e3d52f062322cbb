"""Where models come from: local folders and files, Python packages, Hugging Face repositories."""

from mlc_server.build.sources.local import ModelSource
from mlc_server.build.sources.prepare import prepare_model
from mlc_server.build.sources.resolve import DEFAULT_MODEL, resolve_source

__all__ = ["DEFAULT_MODEL", "ModelSource", "prepare_model", "resolve_source"]
