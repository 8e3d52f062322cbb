"""The compiled engine on an asyncio event loop."""

from mlc_server._core import EngineStats
from mlc_server.engine.async_engine import AsyncEngine, Sink
from mlc_server.engine.types import (
    CompletedChoice,
    Delta,
    GenerationRequest,
    GrammarSpec,
    Handle,
    SamplingOptions,
    TokenLogprob,
)

__all__ = [
    "AsyncEngine",
    "CompletedChoice",
    "Delta",
    "EngineStats",
    "GenerationRequest",
    "GrammarSpec",
    "Handle",
    "SamplingOptions",
    "Sink",
    "TokenLogprob",
]
