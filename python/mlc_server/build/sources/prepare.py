"""A model folder ready to serve: found, and converted once if it is not one yet."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_server.build.hf_config import CONFIG, COPIED_FILES, GENERATION_CONFIG, INDEX
from mlc_server.build.progress import ProgressCallback, no_progress
from mlc_server.build.sources.cache import file_lock, fingerprint, make_folder
from mlc_server.build.sources.local import ModelSource
from mlc_server.build.sources.resolve import resolve_source
from mlc_server.errors import SourceError

if TYPE_CHECKING:
    from mlc_server.build.imported import ImportedModel

logger = logging.getLogger(__name__)

# Changed whenever conversion gives other bytes, so that older results are left alone.
CONVERTER_VERSION = 2


def prepare_model(
    spec: str,
    cache_dir: Path,
    progress: ProgressCallback = no_progress,
    *,
    quantization: str | None = None,
) -> Path:
    """The model folder of `spec` (see resolve_source); raises SourceError or FormatError.

    An MLC folder is used in place. Anything else is converted into
    `cache_dir/models/<key>/<name>`, where the key is made of the source's content, the
    quantization and the converter's version. Processes that ask for the same model at once wait for
    one conversion. `quantization` None keeps GGUF blocks and makes q8_0 of floats.
    """
    source = resolve_source(spec, cache_dir, progress)
    if source.kind == "mlc":
        if quantization is not None:
            raise SourceError(
                f"{source.path} is quantised already",
                seen=f"--quantization {quantization}",
                hint="leave --quantization out, or give the original weights",
            )
        return source.path
    try:
        return _converted(source, cache_dir, progress, quantization)
    except OSError as error:
        raise SourceError(
            f"{source.name} cannot be converted into the cache",
            seen=str(error),
            hint="free space on the disk, or set MLC_SERVER_HOME to a folder that can be written",
        ) from error


def _converted(
    source: ModelSource, cache_dir: Path, progress: ProgressCallback, quantization: str | None
) -> Path:
    content = fingerprint(_content_files(source), cache_dir, progress)
    wanted = f"{CONVERTER_VERSION}|{quantization}|{content}"
    key = hashlib.sha256(wanted.encode()).hexdigest()[:16]
    name = source.name if quantization is None else f"{source.name}-{quantization}"
    folder = cache_dir / "models" / key / name
    if folder.is_dir():  # folders come into place whole, so one that is there is complete
        return folder
    # Imported here: a start with a converted model needs none of the readers.
    from mlc_server.build.convert import convert_model  # noqa: PLC0415
    from mlc_server.build.manifest import load_manifest  # noqa: PLC0415

    with file_lock(cache_dir / "locks" / f"model-{key}.lock"):
        if not folder.is_dir():
            make_folder(folder.parent)
            logger.info("converting %s into %s", source.path, folder)
            convert_model(open_source(source), folder, quantization, progress=progress)
            load_manifest(folder)  # what this package writes, it must be able to read
    return folder


def open_source(source: ModelSource) -> ImportedModel:
    """Opens a source that needs conversion; raises FormatError or SourceError."""
    from mlc_server.build.gguf_import import open_gguf  # noqa: PLC0415
    from mlc_server.build.hf_import import open_hf  # noqa: PLC0415

    if source.kind == "gguf":
        return open_gguf(source.path)
    if source.kind == "hf":
        return open_hf(source.path)
    raise SourceError(
        f"{source.path} is a model folder already",
        seen="mlc-chat-config.json",
        hint="give the original Hugging Face folder or GGUF file",
    )


def _content_files(source: ModelSource) -> list[Path]:
    """Every file the conversion reads."""
    if source.kind == "gguf":
        return [source.path]
    names = {CONFIG, GENERATION_CONFIG, INDEX, *COPIED_FILES}
    small = [source.path / name for name in sorted(names) if (source.path / name).is_file()]
    return small + sorted(source.path.glob("*.safetensors"))
