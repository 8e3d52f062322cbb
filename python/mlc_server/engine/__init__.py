"""The compiled engine on an asyncio event loop."""

from mlc_server._core import EngineStats
from mlc_server.engine.async_engine import AsyncEngine, EventSink, Sink
from mlc_server.engine.grammar import GrammarCompiler
from mlc_server.engine.types import (
    CompiledGrammar,
    CompletedChoice,
    Delta,
    EventFormat,
    GenerationRequest,
    GrammarSpec,
    Handle,
    PromptNews,
    SamplingOptions,
    TokenBytes,
    TokenLogprob,
)

__all__ = [
    "AsyncEngine",
    "CompiledGrammar",
    "CompletedChoice",
    "Delta",
    "EngineStats",
    "EventFormat",
    "EventSink",
    "GenerationRequest",
    "GrammarCompiler",
    "GrammarSpec",
    "Handle",
    "PromptNews",
    "SamplingOptions",
    "Sink",
    "TokenBytes",
    "TokenLogprob",
]
