"""The programs of the REST API's description that use no tools, over an engine that plays a script.
test_default_model_programs.py runs all of them over the default model."""

from __future__ import annotations

import pytest

from mlc_server.settings import ServerSettings
from support.http_server import live_server
from support.seed_programs import CHAT_MODEL, MODELS, STREAMED, WHOLE, at


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (WHOLE, "An apple a day\n\n"),
        (STREAMED, "An apple a day\n\n"),
        (MODELS, "Response:\n{'object': 'list', 'data': [{'id': 'test-model'"),
    ],
    ids=["whole", "streamed", "models"],
)
def test_program_runs_as_printed(
    program: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with live_server(ServerSettings(served_model_names=(CHAT_MODEL,))) as (server, _):
        exec(compile(at(program, server.url), "seed program", "exec"), {})
    assert capsys.readouterr().out.startswith(printed)
