"""The threads that render and tokenise long prompts, and write the grammars of many tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mlc_server.limits import PROMPT_THREADS

_T = TypeVar("_T")

# Few: each may hold a large prompt's tokens, and they compete with the kernels for cores.
_WORKERS = ThreadPoolExecutor(PROMPT_THREADS.default, thread_name_prefix="prompt")


async def apart(function: Callable[..., _T], *arguments: object) -> _T:
    """What `function(*arguments)` returns, from one of the threads; a cancelled call may go on."""
    return await asyncio.get_running_loop().run_in_executor(_WORKERS, function, *arguments)
