"""Compiling in a process of its own: its mistakes are the server's UserErrors."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_server.cli.compile_worker import compile_apart
from mlc_server.errors import CompileError


def test_a_user_error_of_the_worker_arrives_whole(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as failed:
        compile_apart(tmp_path / "no such folder", "cpu", tmp_path)
    assert "is not a model folder" in failed.value.what
    assert failed.value.seen == "nothing there"
    assert failed.value.hint == "give a folder that holds mlc-chat-config.json"


@pytest.mark.parametrize(("code", "said"), [(-9, "signal 9"), (1, "code 1")])
def test_a_crash_of_the_worker_is_told(
    code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(returncode=code, stdout=b"")

    monkeypatch.setattr(subprocess, "run", crash)
    with pytest.raises(CompileError) as failed:
        compile_apart(tmp_path, "cpu", tmp_path)
    assert said in failed.value.seen
