"""API keys from flags, files and the environment, and a word of warning where none is set."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mlc_server.errors import UserError
from mlc_server.settings import ServerSettings, is_loopback

API_KEY_VARIABLE = "MLC_SERVER_API_KEY"


def api_keys(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Keys of --api-key and --api-key-file, else the environment's. Raises UserError."""
    keys = [*given, *(_keys_in(file) if file is not None else ())]
    if not keys and API_KEY_VARIABLE in os.environ:
        keys = [os.environ[API_KEY_VARIABLE]]
    for key in keys:
        # Nobody could send such a key in a header.
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(
                "an API key must be printable ASCII without spaces",
                seen="an empty key" if not key else "a key with other characters",
                hint="--api-key $(openssl rand -hex 24)",
            )
    return tuple(dict.fromkeys(keys))


def _keys_in(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"API key file {file} cannot be read", seen=str(error), hint="give a text file of keys"
        ) from error
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise UserError(
            f"API key file {file} holds no key", seen=f"{len(lines)} lines", hint="one key a line"
        )
    return keys


def warn_if_open(settings: ServerSettings) -> None:
    """One line on stderr if other machines may ask without a key."""
    if not settings.api_keys and not is_loopback(settings.host):
        sys.stderr.write(
            f"warning: anyone who can reach {settings.host}:{settings.port} can use this server; "
            "--api-key asks for a key\n"
        )
