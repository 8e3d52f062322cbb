"""How each contestant is started, with flags that let it do its best."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from peers.processes import ProcessError, ServedWorker, Server, Worker, free_port

BENCHMARKS = Path(__file__).parent.parent
OURS = "mlc_server"
KV_TOKENS = 8192  # room for 32 streams, and for 4,000 tokens of context
# Modules run from a checkout are compiled once, as those that pip installed are.
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
BENCH_S = 600.0


class Contestant(Protocol):
    """`name`: column of the tables."""

    @property
    def name(self) -> str: ...

    def start(self, streams: int) -> Server:
        """A server for so many streams at once; it may not accept connections yet."""
        ...


@dataclass(frozen=True)
class Ours:
    """`python -m mlc_server serve`, as it is shipped but for the size of its KV cache."""

    model: str
    threads: int
    python: str = sys.executable
    name: str = OURS
    env: Mapping[str, str] = field(default_factory=dict)

    def command(self, port: int) -> list[str]:
        return [self.python, "-m", "mlc_server", "serve", *self._serve_arguments(port)]

    def _serve_arguments(self, port: int) -> list[str]:
        words = [*([self.model] if self.model else []), "--port", str(port)]
        words += ["--threads", str(self.threads), "--max-total-seq-length", str(KV_TOKENS)]
        return [*words, "--log-level", "warning"]

    def start(self, streams: int) -> Server:
        port = free_port()
        return Server(self.command(port), {**BYTECODE, **self.env}, port)

    def worker(self) -> Worker:
        """The core without HTTP, with the KV cache of the server."""
        words = [
            self.python,
            str(BENCHMARKS / "in_process.py"),
            *([self.model] if self.model else []),
        ]
        words += ["--threads", str(self.threads), "--kv-tokens", str(KV_TOKENS)]
        return Worker(words, self.env)

    def served_worker(self) -> ServedWorker:
        """The server with its core within reach."""
        port = free_port()
        words = [self.python, str(BENCHMARKS / "served_core.py"), *self._serve_arguments(port)]
        return ServedWorker(words, {**BYTECODE, **self.env}, port)


@dataclass(frozen=True)
class LlamaCpp:
    """llama-server with one GGUF file, and llama-bench beside it.

    All threads, a slot for every stream, continuous batching and flash attention as by default.
    What only costs time or memory here is off: the web page, the log, and the store of prompts
    that left their slot.
    """

    server: Path
    gguf: Path
    threads: int

    @property
    def name(self) -> str:
        return f"llama.cpp {self.format}"

    @property
    def format(self) -> str:
        """The quantisation as file names have it: Q4_0 of model.Q4_0.gguf or q4_0.gguf."""
        return self.gguf.stem.replace("-", ".").rsplit(".", 1)[-1].upper()

    @property
    def env(self) -> dict[str, str]:
        folder, others = str(self.server.parent), os.environ.get("LD_LIBRARY_PATH")
        return {"LD_LIBRARY_PATH": f"{folder}:{others}" if others else folder}

    def command(self, port: int, streams: int) -> list[str]:
        words = [str(self.server), "-m", str(self.gguf), "--port", str(port)]
        words += ["-t", str(self.threads), "-np", str(streams), "-c", str(max(1024, streams * 256))]
        return [*words, "-cb", "--cache-ram", "0", "--no-ui", "--log-disable"]

    def start(self, streams: int) -> Server:
        port = free_port()
        return Server(self.command(port, streams), self.env, port)

    def bench(self, *, prompt: int, output: int, depth: int) -> dict[str, float]:
        """Tokens a second of llama-bench: `prefill` of `prompt` tokens, `decode` of `output`."""
        words = [str(self.server.with_name("llama-bench")), "-m", str(self.gguf)]
        words += ["-t", str(self.threads), "-p", str(prompt), "-n", str(output), "-d", str(depth)]
        done = subprocess.run(
            [*words, "-r", "1", "-o", "json"],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=BENCH_S,
            check=False,
        )
        if done.returncode != 0:
            raise ProcessError(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
        rates = {}
        for test in json.loads(done.stdout):
            rates["prefill" if test["n_prompt"] else "decode"] = float(test["avg_ts"])
        return rates
