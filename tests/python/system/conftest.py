"""The default model, loaded once for the tests of a worker."""

from __future__ import annotations

from typing import Any

import pytest

from mlc_server.build.manifest import Manifest
from support.default_model import DefaultModel, default_model


@pytest.fixture(scope="session")
def model() -> DefaultModel:
    return default_model()


@pytest.fixture(scope="session")
def default_manifest(model: DefaultModel) -> Manifest:
    return model.manifest


@pytest.fixture(scope="session")
def default_runner(model: DefaultModel) -> Any:
    """A runner with KV pages, for passes without an engine."""
    runner = model.runner()
    runner.allocate_kv(64)
    return runner
