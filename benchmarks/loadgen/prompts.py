"""Prompts of an exact number of tokens, made of words that are one token each."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.client import Pool

CountTokens = Callable[[str], Awaitable[int]]

_PROBE_WORDS = 24
_MIN_WORDS = 16

# One token each, with the space before it, in the vocabularies in use; checked before every run.
_TEXT = (
    "time people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education"
)
WORDS = tuple(_TEXT.split())


@dataclass(frozen=True)
class PromptShape:
    """`input_len` tokens; the first `prefix_len` of them are one of `num_prefixes` shared texts."""

    input_len: int
    prefix_len: int = 0
    num_prefixes: int = 1


class PromptMaker:
    """Random texts. `overhead` is what the server adds: a chat template, a first token."""

    def __init__(self, words: list[str], overhead: int, seed: int) -> None:
        self._words = words
        self._random = random.Random(seed)
        self.overhead = overhead
        self._prefixes: dict[tuple[int, int], str] = {}
        self._seed = seed

    def text(self, shape: PromptShape) -> str:
        """A text nobody has seen before, but for its prefix. Raises ValueError."""
        count = shape.input_len - self.overhead - shape.prefix_len
        if count < 1:
            raise ValueError(
                f"prompts of {shape.input_len} tokens are too short: {self.overhead} are the "
                f"server's template and {shape.prefix_len} the prefix"
            )
        body = " ".join(self._random.choices(self._words, k=count))
        if shape.prefix_len == 0:
            return body
        return self._prefix(shape, self._random.randrange(shape.num_prefixes)) + " " + body

    def _prefix(self, shape: PromptShape, index: int) -> str:
        key = (shape.prefix_len, index)
        if key not in self._prefixes:
            own = random.Random(f"{self._seed} {key}")
            self._prefixes[key] = " ".join(own.choices(self._words, k=shape.prefix_len))
        return self._prefixes[key]


def local_counter(tokenizer_json: Path) -> CountTokens:
    """Counts with a tokenizer.json; needs the `tokenizers` package."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - only this option needs it

    tokenizer = Tokenizer.from_file(str(tokenizer_json))

    async def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count


def endpoint_counter(pool: Pool, model: str, field: str) -> CountTokens:
    """Counts with POST /tokenize, the text in `field`. The counter raises ValueError."""

    async def count(text: str) -> int:
        payload = {field: text, "add_special_tokens": False}
        if field == "prompt":
            payload["model"] = model
        response = await pool.call("POST", "/tokenize", payload)
        if response.status != 200:
            raise ValueError(f"/tokenize answers {response.status}")
        return len(json.loads(response.body)["tokens"])

    return count


async def find_counter(pool: Pool, model: str) -> CountTokens | None:
    """The server's /tokenize as vLLM or as llama-server has it; None without one."""
    for field in ("content", "prompt"):
        counter = endpoint_counter(pool, model, field)
        try:
            if await counter("one two three four") >= 4:
                return counter
        except (ValueError, KeyError, TypeError):
            continue
    return None


async def single_token_words(count: CountTokens) -> list[str]:
    """Those of WORDS that add one token to a text. Raises ValueError if there are too few."""
    if await count(" ".join(WORDS)) == len(WORDS):
        return list(WORDS)
    base = await count("the")
    words = [word for word in WORDS if await count(f"the {word}") == base + 1]
    together = await count(" ".join(words)) if words else 0
    if len(words) < _MIN_WORDS or abs(together - len(words)) > 1:
        raise ValueError("this tokenizer splits words so that prompt lengths cannot be set")
    return words


async def calibrate(
    prompt_tokens: Callable[[str], Awaitable[int | None]], count: CountTokens | None, seed: int
) -> PromptMaker:
    """A maker for one server and endpoint.

    prompt_tokens(text): usage.prompt_tokens of a request with that text; None if not given.
    """

    async def by_usage(text: str) -> int:
        tokens = await prompt_tokens(text)
        if tokens is None:
            raise ValueError("no /tokenize and no usage: give --tokenizer tokenizer.json")
        return tokens

    probe = " ".join(WORDS[:_PROBE_WORDS])
    if count is None:
        first = await by_usage(probe)
        overhead = first - (await by_usage(f"{probe} {probe}") - first)

        async def count_words(text: str) -> int:
            return await by_usage(text) - overhead

        count = count_words
    words = await single_token_words(count)
    used: Any = await prompt_tokens(" ".join(words[:_PROBE_WORDS]))
    return PromptMaker(words, 0 if used is None else used - len(words[:_PROBE_WORDS]), seed)
