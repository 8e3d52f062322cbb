"""`doctor`: ok, or exactly what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlc_server.cli import doctor
from mlc_server.cli.main import main
from mlc_server.cli.ports import bind


def test_a_good_machine_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(["doctor", "--port", "0", "--cache-dir", str(tmp_path / "new" / "folder")])
    output = capsys.readouterr().out
    assert code == 0, output
    lines = output.splitlines()
    assert lines[-1] == "all is well"
    assert all(line.startswith("ok  ") for line in lines[:-1])
    names = [line.split()[1] for line in lines[:-1]]
    assert names == ["Python", "core", "TVM", "compiler", "CPU", "memory", "open", "port", "cache"]
    assert not (tmp_path / "new").exists()


def test_every_fault_has_its_fix(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "PYTHON_MIN", (9, 9))
    monkeypatch.setattr(doctor, "MEMORY_MIN_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "OPEN_FILES_MIN", 1 << 60)
    monkeypatch.setattr(doctor, "CACHE_MIN_BYTES", 1 << 60)
    (tmp_path / "other.txt").touch()
    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        code = main(["doctor", str(tmp_path), "--port", port, "--cache-dir", str(tmp_path)])
    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "7 to fix"
    faulty = [line.split()[1] for line in lines if line.startswith("FIX ")]
    assert faulty == ["Python", "compiler", "memory", "open", "port", "cache", "model"]
    fixes = [line.strip() for line in lines if line.strip().startswith("-> ")]
    assert len(fixes) == 7
    assert "-> install Python 9.9 or later" in fixes
    assert "-> apt-get install g++, or your system's equivalent" in fixes
    assert any(fix.startswith("-> --port ") for fix in fixes)


def test_a_cache_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert doctor.check_cache(tmp_path / "file" / "cache").fix is not None
