"""What a server does without: imports that cost time at start and memory for as long as it runs."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["_core", "grammar_sandbox", "cli.launch", "api.app"])
def test_numpy_is_not_imported(module: str) -> None:
    """15 MB in the server and as much again in the process that tries grammars out."""
    program = f"import mlc_server.{module}, sys; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
