"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mlc_server import _core
from support.fake_core import MakeCore, build_core


@pytest.fixture
def make_core() -> Iterator[MakeCore]:
    """build_core; what it made is stopped after the test."""
    made: list[_core.Engine] = []

    def make(**options: Any) -> _core.Engine:
        made.append(build_core(**options))
        return made[-1]

    yield make
    for core in made:
        assert core.stop()
