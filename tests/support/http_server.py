"""A real uvicorn server on a free loopback port, in a thread, over an engine that tests control."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import uvicorn
import uvloop

from mlc_server.api.app import create_app
from mlc_server.api.http_protocol import BoundedHttpProtocol
from mlc_server.api.service import EnginePort, ServedModel, Service, model_names
from mlc_server.cli.ports import bind
from mlc_server.engine import Delta, GenerationRequest, PromptNews, TokenLogprob
from mlc_server.settings import ServerSettings
from mlc_server.text.prompt import PromptBuilder
from support.byte_model import EOS_ID, TOKEN_BYTES, byte_prompts

MODEL_ID = "test-model"
MODEL_PATH = "./dist/test-model-q4f16_1-MLC/"
CONTEXT_WINDOW = 4096


@dataclass
class Script:
    """What a FakeEngine answers. `tokens` are the texts of one choice's tokens."""

    tokens: list[str] = field(default_factory=lambda: ["An", " apple", " a", " day"])
    finish_reason: str = "stop"
    step_s: float = 0.0
    queue_s: float = 0.0  # what it says of the time before the first step
    hang_after: int | None = None  # no more tokens after this many
    error: str | None = None  # instead of finishing
    refuse: Exception | None = None  # raised by submit


class FakeEngine:
    """An EnginePort that plays a Script, one token of every choice per step, on the event loop.

    Each of `next_scripts` is played once before `script`.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.next_scripts: list[Script] = []
        self.requests: list[GenerationRequest] = []
        self.cancelled: list[int] = []
        self.open: dict[int, asyncio.Task[None]] = {}
        self.state = "ok"
        self.generated = 0
        self._ids = itertools.count()

    async def prepare(self, request: GenerationRequest) -> GenerationRequest:
        return request

    def submit(self, request: GenerationRequest, sink: Callable[[list[Delta]], None]) -> int:
        if self.script.refuse is not None:
            raise self.script.refuse
        self.requests.append(request)
        handle = next(self._ids)
        self.open[handle] = asyncio.ensure_future(self._play(handle, request, sink))
        return handle

    def listen(self, handle: Any, event_sink: Callable[[Delta], bool]) -> None:
        """Its news has no events."""

    def cancel(self, handle: Any) -> None:
        self.cancelled.append(handle)
        task = self.open.pop(handle, None)
        if task is not None:
            task.cancel()

    def health(self) -> str:
        return self.state

    def stats(self) -> Any:
        """What EngineStats has; half of the pages are taken."""
        return SimpleNamespace(
            num_running=len(self.open),
            num_waiting=3,
            free_pages=8,
            total_pages=16,
            num_steps=5,
            preemptions=2,
            generated_tokens=self.generated,
            drafted_tokens=4,
            accepted_tokens=1,
        )

    async def _play(
        self, handle: int, request: GenerationRequest, sink: Callable[[list[Delta]], None]
    ) -> None:
        script = self.next_scripts.pop(0) if self.next_scripts else self.script
        started = PromptNews(queue_s=script.queue_s, logprobs=_prompt_logprobs(request))
        sink([Delta(0, "", [], prompt_tokens=len(request.prompt_ids), prompt=started)])
        limit = request.sampling.max_tokens
        tokens = script.tokens if limit < 0 else script.tokens[:limit]
        for position, text in enumerate(tokens):
            if position == script.hang_after:
                await asyncio.Event().wait()
            await asyncio.sleep(script.step_s)
            self.generated += request.num_choices
            sink(
                [
                    self._delta(request, choice, position, text)
                    for choice in range(request.num_choices)
                ]
            )
        cut = len(tokens) < len(script.tokens)
        reason = "error" if script.error else "length" if cut else script.finish_reason
        self.open.pop(handle, None)
        choices = range(request.num_choices)
        sink([self._end(request, choice, len(tokens), reason, script.error) for choice in choices])

    def _delta(self, request: GenerationRequest, choice: int, position: int, text: str) -> Delta:
        token_id = 65 + position % 26
        return Delta(
            choice=choice,
            text=text,
            token_ids=[token_id],
            logprobs=_logprobs(request, token_id),
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=position + 1,
        )

    def _end(
        self, request: GenerationRequest, choice: int, count: int, reason: str, error: str | None
    ) -> Delta:
        return Delta(
            choice=choice,
            text="",
            token_ids=[EOS_ID] if reason == "stop" else [],
            finish_reason=reason,
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=count + (reason == "stop"),
            error=error,
        )


def _logprobs(request: GenerationRequest, token_id: int) -> list[TokenLogprob] | None:
    if request.sampling.top_logprobs < 0:
        return None
    ranked = [(token_id + i, -0.5 - i) for i in range(request.sampling.top_logprobs)]
    return [TokenLogprob(token_id, -0.5, ranked)]


def _prompt_logprobs(request: GenerationRequest) -> list[TokenLogprob] | None:
    """Each token after the first has its own id, negated, as its log-probability."""
    count = request.sampling.prompt_logprobs
    if count < 0:
        return None
    return [
        TokenLogprob(id_, -float(id_), [(97 + i, -1.0 - i) for i in range(count)], rank=id_)
        for id_ in request.prompt_ids[1:]
    ]


class LiveServer:
    """A server under test. `on_loop(f)` runs f on its event loop and returns the result."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.service = Service(allow_any_model=settings.allow_any_model)
        self.socket = bind("127.0.0.1", 0)
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        app = create_app(settings, self.service)
        self.metrics = app.state.metrics
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=BoundedHttpProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=2,
            )
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()

    def on_loop(self, work: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(timeout=20)

    def set_ready(self, engine: EnginePort, prompts: PromptBuilder | None = None) -> None:
        model = ServedModel(
            id=MODEL_ID,
            names=model_names(MODEL_ID, MODEL_PATH, *self.settings.served_model_names),
            context_window_size=CONTEXT_WINDOW,
            system_fingerprint="fp_test",
            prompts=prompts or byte_prompts(),
            token_bytes=TOKEN_BYTES,
            hidden_ids=frozenset([EOS_ID]),
            engine=engine,
            aliases=self.settings.served_model_names,
            tool_call_style=self.settings.tool_call_style,
        )
        self.on_loop(lambda: self.service.set_ready(model))

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._server.serve(sockets=[self.socket]))
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            self.socket.close()


@contextlib.contextmanager
def live_server(
    settings: ServerSettings | None = None, script: Script | None = None
) -> Generator[tuple[LiveServer, FakeEngine], None, None]:
    """A ready server over a FakeEngine."""
    server = LiveServer(settings or ServerSettings())
    engine = FakeEngine(script or Script())
    server.start()
    try:
        server.set_ready(engine)
        yield server, engine
    finally:
        server.stop()


def tool_call(name: str, arguments: str) -> Script:
    """An answer that is one call, as models with Hermes' format write it."""
    call = f'{{"name": "{name}", "arguments": {arguments}}}'
    return Script(tokens=list(f"<tool_call>\n{call}\n</tool_call>"))


def chat_body(content: str = "hi", **fields: Any) -> dict[str, Any]:
    """A minimal chat request with more fields."""
    return {"messages": [{"role": "user", "content": content}], **fields}


def raw_chat_request(body: dict[str, Any]) -> bytes:
    """The same as bytes for a plain socket; the connection closes after the answer."""
    content = json.dumps(body).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content) + content
    )


def http_chunks(payload: bytes) -> Iterator[bytes]:
    """The chunks of a chunked body, as framed."""
    rest = payload
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        yield rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
