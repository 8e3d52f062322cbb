"""Clients that people use with OpenAI-compatible servers. They need `pip install .[clients]`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from support.http_server import FakeEngine, LiveServer, live_server


@pytest.fixture
def server() -> Iterator[tuple[LiveServer, FakeEngine]]:
    with live_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _collect_what_clients_leave_open() -> Iterator[None]:
    """Their unclosed sockets warn when collected: here, where warnings are ignored."""
    yield
    litellm = sys.modules.get("litellm")
    if litellm is not None:
        litellm.in_memory_llm_clients_cache.flush_cache()
    gc.collect()
