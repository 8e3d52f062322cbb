"""What --speculative-mode ngram gains on text that copies its prompt, and costs on other text.

    python benchmarks/speculation.py [MODEL] [--threads N] [--rounds N] [--json]

Every prompt is answered greedily with and without guesses, all prompts one way and then the
other, by the same weights; a ratio is the median over rounds of (time without) / (time with), both
from the first token to the last. The answers are compared: they must be the same tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import select
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engine import PAGE_TOKENS, prepare, tvm_runtime_path
from mlc_server import _core
from mlc_server.build.manifest import load_manifest
from mlc_server.build.sources.resolve import DEFAULT_MODEL
from mlc_server.cli.common import default_cache_dir
from mlc_server.text.prompt import PromptBuilder

Key = tuple[str, str]  # kind of text, name of the prompt

MODES = ("disable", "ngram")
MAX_TOKENS = 256
CONTEXT_TOKENS = 2048
STALL_S = 120.0
WARM_UP = range(1, 9)  # tokens of requests that run at once, as when the server starts

PASSAGE = (
    "The lighthouse at Varn stands on a rock that the sea covers twice a day. Its keeper, Ilse "
    "Bergmann, came in the spring of 1921 with two trunks, a telescope and a grey cat named "
    "Pilot. She wrote down the weather every morning at six and every evening at nine, and the "
    "names of all ships that passed within four miles. In the third winter the lamp failed during "
    "a storm, and she turned the lens by hand for eleven hours until the supply boat arrived from "
    "Halden with a new spring and a barrel of oil. The harbour council gave her a silver watch, "
    "which she never wore, and a second stove, which she used until she left the island in 1946."
)
CODE = """def read_orders(path):
    total = 0
    orders = []
    with open(path) as file:
        for line in file:
            name, count, price = line.strip().split(",")
            count = int(count)
            price = float(price)
            total = total + count * price
            orders.append({"name": name, "count": count, "price": price})
    if total > 1000:
        print("a large order:", total)
    else:
        print("a small order:", total)
    return orders, total"""
RECORDS = (
    "Anna Lindqvist lives in Uppsala and is 34 years old. Marco Bianchi lives in Torino and is 51 "
    "years old. Keiko Tanaka lives in Sapporo and is 28 years old. Samuel Okafor lives in Enugu "
    "and is 45 years old. Elena Petrova lives in Plovdiv and is 39 years old."
)
COPYING = {
    "rewrite": f"Write this text again, word for word:\n\n{PASSAGE}",
    "correct": f"Correct the spelling of this text and change nothing else:\n\n"
    f"{PASSAGE.replace('spring', 'sprinng').replace('weather', 'wether')}",
    "code edit": f"Rename the variable total to amount in this program. Write the whole program:"
    f"\n\n```python\n{CODE}\n```",
    "extract": "Write each person of this text as a JSON object with the keys name, town and age, "
    f"one on each line:\n\n{RECORDS}",
}
OTHER = {
    "story": "Tell me a short story about a fox and a clockmaker.",
    "explain": "Explain how a refrigerator works.",
    "advice": "How do I prepare for a job interview?",
    "poem": "Write a poem about the sea in winter.",
    "history": "What happened in the year 1969?",
    "opinion": "Should schools teach cooking? Give reasons for and against.",
}


@dataclass(frozen=True)
class Row:
    """One prompt. `ratio`: speed with guesses over speed without, the median; `best`: that of the
    fastest rounds, which nothing else disturbed; `guessed` and `right` are tokens of an answer of
    `tokens`."""

    kind: str
    prompt: str
    tokens: int
    plain_tokens_s: float
    ratio: float
    low: float
    high: float
    best: float
    guessed: int
    right: int


@dataclass(frozen=True)
class Answer:
    """Seconds are from the first token to the last."""

    tokens: list[int]
    took_s: float
    guessed: int
    right: int


class Player:
    """An engine with or without guesses."""

    def __init__(self, runner: Any, mode: str, eos_ids: list[int]) -> None:
        size = runner.info.vocab_size
        config = _core.EngineConfig(
            max_batch_size=len(WARM_UP),
            max_sequence_length=min(CONTEXT_TOKENS, runner.info.context_window),
            num_pages=CONTEXT_TOKENS // PAGE_TOKENS,
            vocab_size=size,
            eos_token_ids=eos_ids,
            speculative_mode=mode,
        )
        vocabulary = _core.Vocabulary([b"x"] * size, [False] * size)
        self._engine = _core.Engine(runner, vocabulary, config)
        self._engine.start()
        self._num_submitted = 0
        for max_tokens in WARM_UP:
            self._submit([1, 2, 3, 4], max_tokens)
        ended = 0
        while ended < len(WARM_UP):
            ended += sum(item[5] is not None for item in self._news())

    def close(self) -> None:
        """Gives the runner back."""
        self._engine.stop()
        del self._engine

    def answer(self, prompt_ids: list[int]) -> Answer:
        before = self._engine.stats()
        self._submit(prompt_ids, MAX_TOKENS)
        tokens: list[int] = []
        first_s = 0.0
        while True:
            for item in self._news():
                tokens += item[3]
                first_s = first_s or time.perf_counter()
                if item[5] is not None:
                    took_s = time.perf_counter() - first_s
                    stats = self._engine.stats()
                    guessed = stats.drafted_tokens - before.drafted_tokens
                    right = stats.accepted_tokens - before.accepted_tokens
                    return Answer(tokens, took_s, guessed, right)

    def _submit(self, prompt_ids: list[int], max_tokens: int) -> None:
        sampling = _core.SamplingParams(temperature=0.0, max_tokens=max_tokens)
        self._engine.submit(self._num_submitted, np.array(prompt_ids, np.int32).tobytes(), sampling)
        self._num_submitted += 1

    def _news(self) -> Any:
        ready, _, _ = select.select([self._engine.wake_fd()], [], [], STALL_S)
        if not ready:
            raise RuntimeError(f"no output for {STALL_S} s; engine: {self._engine.health()}")
        return self._engine.drain()


def measure(args: argparse.Namespace) -> list[Row]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        folder, library = pool.submit(prepare, args.model, args.cache_dir).result()
    builder = PromptBuilder.from_folder(Path(folder), load_manifest(Path(folder)).chat_config)
    prompts = {
        (kind, name): builder.build([{"role": "user", "content": text}])
        for kind, texts in (("copying", COPYING), ("other", OTHER))
        for name, text in texts.items()
    }
    eos_ids = list(builder.stop.token_ids)
    # Of both modes, since what memory weights get may decide half the speed.
    runner = _core.TvmRunner(library, folder, args.threads, tvm_library_path=tvm_runtime_path())
    answers: dict[Key, dict[str, list[Answer]]] = {
        key: {mode: [] for mode in MODES} for key in prompts
    }
    console = Console(stderr=True)
    for number in track(range(args.rounds), "rounds", console=console, transient=True):
        for mode in MODES if number % 2 == 0 else reversed(MODES):
            with contextlib.closing(Player(runner, mode, eos_ids)) as player:
                for key, prompt_ids in prompts.items():
                    answers[key][mode].append(player.answer(prompt_ids))
    return [_row(key, *of_modes.values()) for key, of_modes in answers.items()]


def _row(key: Key, plain: list[Answer], guessing: list[Answer]) -> Row:
    if any(answer.tokens != plain[0].tokens for answer in plain + guessing):
        raise RuntimeError(f"{key[1]}: the answers differ")
    ratios = [a.took_s / b.took_s for a, b in zip(plain, guessing, strict=True)]
    tokens = len(plain[0].tokens)
    return Row(
        *key,
        tokens=tokens,
        plain_tokens_s=(tokens - 1) / statistics.median(answer.took_s for answer in plain),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        best=min(answer.took_s for answer in plain) / min(answer.took_s for answer in guessing),
        guessed=guessing[-1].guessed,
        right=guessing[-1].right,
    )


def main() -> None:
    cpus = multiprocessing.cpu_count()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="as `serve` takes it")
    parser.add_argument("--threads", type=int, default=cpus, help=f"default: {cpus}")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    rows = measure(args)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("text", "prompt", "tokens", "tok/s without", "ratio", "spread", "best", "right")
    for row in rows:
        table.add_row(
            row.kind,
            row.prompt,
            str(row.tokens),
            f"{row.plain_tokens_s:.0f}",
            f"{row.ratio:.3f}",
            f"{row.low:.2f}-{row.high:.2f}",
            f"{row.best:.3f}",
            f"{row.right}/{row.guessed}",
        )
    Console().print(table)
    for kind in ("copying", "other"):
        ratios = [row.ratio for row in rows if row.kind == kind]
        best = [row.best for row in rows if row.kind == kind]
        print(
            f"{kind}: median {statistics.median(ratios):.3f}, lowest {min(ratios):.3f}; "
            f"of the fastest rounds {statistics.median(best):.3f}, lowest {min(best):.3f}"
        )


if __name__ == "__main__":
    main()
