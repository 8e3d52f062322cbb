"""Property tests made from /openapi.json: nothing that fits it, or does not, breaks the server, and
answers are as it says.

MLC_SERVER_EXAMPLES is how many examples each operation gets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from mlc_server.settings import ServerSettings
from support.http_server import live_server

pytestmark = pytest.mark.slow
pytest.importorskip("schemathesis")

EXAMPLES = int(os.environ.get("MLC_SERVER_EXAMPLES", "25"))
# Every check but the one that a request which fits the schema is accepted: the schema cannot say
# what fields have to do with one another.
CHECKS = ("--checks=all", "--exclude-checks=positive_data_acceptance")


@pytest.mark.timeout(3600)
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
                f"--max-examples={EXAMPLES}",
                "--phases=examples,coverage,fuzzing",
                *CHECKS,
                "--continue-on-failure",
                "--seed=1",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,  # where it keeps its records
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert run.returncode == 0, run.stdout[-8000:]
        print(run.stdout[-600:])
        paths = requests.get(f"{server.url}/openapi.json", timeout=20).json()["paths"]
        assert f"Tested: {sum(map(len, paths.values()))}" in run.stdout
        assert engine.requests
        assert engine.open == {}
        assert server.on_loop(lambda: server.service.num_open) == 0
