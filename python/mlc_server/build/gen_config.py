"""Writes a model folder's configuration and tokenizer without its weights."""

from __future__ import annotations

from pathlib import Path

from mlc_server.build.chat_config import ChatConfigOptions
from mlc_server.build.convert import plan_schemes, write_config
from mlc_server.build.imported import ImportedModel
from mlc_server.errors import FormatError


def generate_config(
    model: ImportedModel,
    out: Path,
    quantization: str | None = None,
    options: ChatConfigOptions | None = None,
) -> None:
    """Writes mlc-chat-config.json and the tokenizer's files into folder `out`.

    Weights that are there already must have been converted with the same quantization. Raises
    FormatError.
    """
    name = quantization or model.default_quantization
    plan_schemes(model.weights, name)  # refuses a wrong name before a folder is made
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(
            f"{out} cannot be written", seen=str(error), hint="give --output another folder"
        ) from error
    write_config(model, out, name, options)
