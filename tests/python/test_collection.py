"""pytest finds all the tests there are."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    """One of them is called build, which pytest leaves out unless told otherwise."""
    here = Path(__file__).parent
    folders = {path.parent for path in here.rglob("test_*.py")}
    names = {part for folder in folders for part in folder.relative_to(here).parts}
    assert "build" in names
    for pattern in pytestconfig.getini("norecursedirs"):
        assert not [name for name in names if fnmatch(name, pattern)]
