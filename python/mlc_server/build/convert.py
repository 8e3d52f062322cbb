"""Converts an opened model into a model folder, whole or not at all."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlc_server.build.chat_config import (
    ChatConfigOptions,
    build_chat_config,
    write_chat_config,
)
from mlc_server.build.conv_templates import guess_conv_template
from mlc_server.build.gguf_import import KEEP_BLOCKS
from mlc_server.build.imported import ImportedModel
from mlc_server.build.progress import ProgressCallback, no_progress
from mlc_server.build.quantize.recipes import RECIPES, Recipe
from mlc_server.build.quantize.schemes import Parts, quantize_matrix, to_dtype
from mlc_server.build.tensor_cache import CACHE_NAMES, RAW
from mlc_server.build.tensor_files import TensorCacheWriter
from mlc_server.build.weights import WeightSource
from mlc_server.errors import FormatError

logger = logging.getLogger(__name__)

PHASE = "converting weights"


def convert_model(
    model: ImportedModel,
    out: Path,
    quantization: str | None = None,
    *,
    options: ChatConfigOptions | None = None,
    progress: ProgressCallback = no_progress,
) -> None:
    """Writes weights, configuration and tokenizer of `model` to folder `out`.

    `quantization` is None for the source's own (GGUF blocks kept, else near-lossless) or a name of
    RECIPES. The folder is made beside `out` and moved there when complete; one that exists gets
    its files replaced, its tensor index last. Raises FormatError.
    """
    name = quantization or model.default_quantization
    for note in model.weights.notes if name == KEEP_BLOCKS else ():
        logger.warning("%s", note)
    with _temporary_beside(out) as folder:
        write_config(model, folder, name, options)
        _write_weights(model.weights, folder, name, progress)
        _move_into_place(folder, out)


def write_config(
    model: ImportedModel, folder: Path, quantization: str, options: ChatConfigOptions | None
) -> None:
    """Writes mlc-chat-config.json and the tokenizer's files into an existing folder."""
    schemes = plan_schemes(model.weights, quantization)
    if options is None:
        template = guess_conv_template(model.chat_template)
        options = ChatConfigOptions(conv_template=template, sampling=model.sampling)
    facts = model.write_tokenizer(folder)
    recipe = RECIPES.get(quantization)
    stated = None if recipe is not None and recipe.is_mlc else schemes
    config = build_chat_config(model.weights.config, quantization, facts, options, stated)
    write_chat_config(folder, config)


def plan_schemes(weights: WeightSource, quantization: str) -> dict[str, str]:
    """Matrix base name -> scheme under a quantization name; raises FormatError."""
    schemes: dict[str, str] = {}
    for base in weights.config.parameters.matrices:
        recipe = RECIPES.get(quantization)
        native = weights.native_scheme(base)
        if recipe is not None:
            schemes[base] = recipe.scheme(base)
        elif quantization == KEEP_BLOCKS and native is not None:
            schemes[base] = native
        else:
            raise FormatError(
                "there is no quantization of that name for this source",
                seen=f"--quantization {quantization}",
                hint=f"one of: {', '.join(RECIPES)}",
            )
    return schemes


def _write_weights(
    weights: WeightSource, folder: Path, quantization: str, progress: ProgressCallback
) -> None:
    parameters = weights.config.parameters
    schemes = plan_schemes(weights, quantization)
    recipe = RECIPES.get(quantization)
    vector_dtype = np.float32 if recipe is None else recipe.vector_dtype
    stored = RAW if recipe is None else recipe.stored
    done, total = 0, parameters.num_parameters
    progress(PHASE, done, total)
    writer = TensorCacheWriter(folder)
    try:
        for base, (rows, columns) in parameters.matrices.items():
            for suffix, array in _parts(weights, base, schemes[base], recipe).items():
                _check_finite(f"{base}.{suffix}", array)
                writer.add(f"{base}.{suffix}", array, stored=stored)
            done += rows * columns
            progress(PHASE, done, total)
        for name, length in parameters.vectors.items():
            vector = weights.vector(name)
            _check_finite(name, vector)
            writer.add(name, to_dtype(vector, vector_dtype), stored=stored)
            done += length
        writer.finish(total)
    finally:
        writer.abort()
    progress(PHASE, total, total)


def _parts(weights: WeightSource, base: str, scheme: str, recipe: Recipe | None) -> Parts:
    if recipe is None:
        return weights.native_parts(base)
    floats = weights.floats(base)
    _check_finite(base, floats)
    return quantize_matrix(floats, scheme, recipe.scale_dtype)


def _check_finite(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FormatError(
            f"tensor {name} has weights that are not finite",
            seen="NaN or infinity",
            hint="the file is damaged, or the model needs a wider type: try --quantization q0f32",
        )


@contextmanager
def _temporary_beside(out: Path) -> Iterator[Path]:
    """A folder on the same file system as `out`, gone at the end whatever happens."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        folder.chmod(0o755)  # mkdtemp's 0700 would follow the folder to its place
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(folder: Path, out: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    if not out.is_dir():
        raise FormatError(
            f"{out} is in the way", seen="a file", hint="give --output a folder that may be written"
        )
    for name in CACHE_NAMES:  # until the new index is there, the folder is not a model
        (out / name).unlink(missing_ok=True)
    for shard in out.glob("params_shard_*.bin"):
        shard.unlink()
    files = sorted(folder.iterdir(), key=lambda path: path.name in CACHE_NAMES)
    for path in files:
        path.replace(out / path.name)


def summarize(folder: Path, schemes: Mapping[str, str]) -> str:
    """One line for the log: size on disk and how many matrices each scheme has."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    counts = {scheme: list(schemes.values()).count(scheme) for scheme in set(schemes.values())}
    kinds = ", ".join(f"{count} x {scheme}" for scheme, count in sorted(counts.items()))
    return f"{size / 1e6:.1f} MB; {kinds}"
