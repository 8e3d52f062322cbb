"""What the routes serve: the loaded model, the engine behind it, and whether they are ready."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mlc_server.api.generation import Generation
from mlc_server.engine import Delta, EngineStats, EventSink, GenerationRequest, TokenBytes
from mlc_server.errors import ModelNotFound, RequestError, Unavailable
from mlc_server.protocol.excerpt import show
from mlc_server.settings import ToolCallStyle
from mlc_server.text.prompt import PromptBuilder


class EnginePort(Protocol):
    """What the routes need of AsyncEngine. All calls are made on the event loop."""

    async def prepare(self, request: GenerationRequest) -> GenerationRequest: ...

    def submit(self, request: GenerationRequest, sink: Callable[[list[Delta]], None]) -> object: ...

    def listen(self, handle: object, event_sink: EventSink) -> None: ...

    def cancel(self, handle: object) -> None: ...

    def health(self) -> str: ...

    def stats(self) -> EngineStats: ...


class Phase(Enum):
    """Where the server is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(frozen=True)
class ServedModel:
    """A model that answers. `names` are all the spellings of `model` that mean it."""

    id: str
    names: frozenset[str]
    context_window_size: int
    system_fingerprint: str
    prompts: PromptBuilder
    token_bytes: TokenBytes
    engine: EnginePort
    # Tokens that are never shown in a text, as those that end it.
    hidden_ids: frozenset[int] = frozenset()
    tool_call_style: ToolCallStyle = "openai"
    # Other names it is listed under, after its id.
    aliases: tuple[str, ...] = ()
    # Tokens of one page of the KV cache.
    page_size: int = 16
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def ids(self) -> tuple[str, ...]:
        """The names it is listed under."""
        return (self.id, *self.aliases)

    def shown_as(self, name: str | None) -> str:
        """What an answer calls it: as the request did if that name is listed, else by its id."""
        return name if name is not None and name in self.ids else self.id


def model_names(model_id: str, *given: str) -> frozenset[str]:
    """Spellings that mean a model: its id, and each path on the command line as it was given,
    normalised, and by its last part."""
    names = {model_id}
    for path in given:
        plain = posixpath.normpath(path)
        names.update({path, plain, posixpath.basename(plain)})
    return frozenset(normal_name(name) for name in names if name)


def not_served(model: ServedModel, name: str | None) -> ModelNotFound:
    """The refusal of a name that is not `model`'s."""
    listed = ", ".join(map(show, model.ids))
    return ModelNotFound(
        f"model {show(name)} is not served here; this server has {listed}", param="model"
    )


def normal_name(name: str) -> str:
    """./dist/model/ and dist/model are the same folder."""
    return posixpath.normpath(name) if "/" in name else name


class Service:
    """The server's state, shared by its routes. Lives on the event loop."""

    def __init__(self, *, allow_any_model: bool = False) -> None:
        self.phase = Phase.LOADING
        self._allow_any_model = allow_any_model
        self._model: ServedModel | None = None
        self._reason = "the model is loading"
        self._open: set[Generation] = set()

    @property
    def model(self) -> ServedModel | None:
        """The model once it is loaded."""
        return self._model

    # Life

    def set_ready(self, model: ServedModel) -> None:
        self._model = model
        self.phase = Phase.READY

    def set_draining(self) -> None:
        """Open requests go on; new ones are refused."""
        self.phase = Phase.DRAINING
        self._reason = "the server is shutting down"

    def set_dead(self, reason: str) -> None:
        """New requests are refused and open ones end with an error."""
        self.phase = Phase.DEAD
        self._reason = reason
        self.fail_open(Unavailable(f"engine failure: {reason}"))

    def fail_open(self, error: RequestError) -> None:
        """Ends every open request with `error`."""
        for generation in list(self._open):
            generation.fail(error)

    # Requests

    def served(self) -> ServedModel:
        """The model if it is loaded, even while draining; raises Unavailable."""
        if self._model is None:
            raise Unavailable(self._reason)
        return self._model

    def model_for(self, name: str | None) -> ServedModel:
        """The model asked for, None meaning the only one. Raises Unavailable, ModelNotFound."""
        if self.phase is not Phase.READY or self._model is None:
            raise Unavailable(self._reason)
        known = name is None or normal_name(name) in self._model.names
        if not known and not self._allow_any_model:
            raise not_served(self._model, name)
        return self._model

    async def prepare(self, request: GenerationRequest) -> GenerationRequest:
        """`request` as open() takes it: its grammar, if it has one, is compiled.

        Raises InvalidRequest for a grammar that cannot be followed, and Unavailable.
        """
        if request.grammar is None:
            return request
        return await self.served().engine.prepare(request)

    def open(self, *requests: GenerationRequest) -> Generation:
        """Submits what one HTTP request asks for; the caller closes the generation in any case."""
        model = self.served()
        generation = Generation(model.engine, requests, on_close=self._open.discard)
        self._open.add(generation)
        return generation

    @property
    def num_open(self) -> int:
        return len(self._open)

    def check_health(self) -> None:
        """Raises Unavailable unless requests are being served."""
        if self.phase is not Phase.READY:
            raise Unavailable(self._reason)
        health = self.served().engine.health()
        if health != "ok":
            raise Unavailable(f"engine is {health}")
