"""Property tests made from /openapi.json: nothing that fits it, or does not, breaks the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlc_server.settings import ServerSettings
from support.http_server import live_server

pytestmark = pytest.mark.slow
pytest.importorskip("schemathesis")


def test_no_operation_fails_on_generated_requests(tmp_path: Path) -> None:
    settings = ServerSettings(enable_debug=True, enable_tracing=True)
    with live_server(settings) as (server, engine):
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                f"{server.url}/openapi.json",
                "--max-examples=30",
                "--phases=examples,fuzzing",
                "--checks=not_a_server_error,content_type_conformance,response_schema_conformance",
                "--seed=1",
            ],
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
            cwd=tmp_path,  # where it keeps its records
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert run.returncode == 0, run.stdout[-4000:]
        assert engine.requests
        assert engine.open == {}
        assert server.on_loop(lambda: server.service.num_open) == 0
