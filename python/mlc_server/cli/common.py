"""What several commands share: where files are cached, how quantities are written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CACHE_VARIABLE = "MLC_SERVER_HOME"


def default_cache_dir() -> Path:
    """$MLC_SERVER_HOME, else mlc_server in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "mlc_server"


def say(text: str) -> None:
    """One line of a command's own output, visible at once also through a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show_bytes(count: float) -> str:
    """1536 -> 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
