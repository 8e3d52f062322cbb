"""Our server as a process whose core also runs workloads without HTTP, in turn with requests.

    python benchmarks/served_core.py [MODEL] --port 8000 ...      # what follows `serve`

Both ways meet the same engine, weights and pages, so their ratio is HTTP alone: two processes may
differ by half where the machine's memory is not equally fast everywhere. Once the model is loaded
it prints a line; then each line of JSON on standard input is answered by one, as in_process.py
does. A workload runs on the event loop's thread, which reads no request meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import traceback
from typing import TextIO

from core_harness import CoreDriver
from in_process import tokens_s
from loadgen.event_loop import run_on_loop
from mlc_server.cli import serve
from mlc_server.cli.http_server import ServerHost
from mlc_server.cli.loading import Loading
from mlc_server.cli.phases import Phases
from mlc_server.cli.ports import bind

FIRST_ID = 1 << 40  # the server counts from 1


def answer_jobs(loop: asyncio.AbstractEventLoop, loading: Loading, answers: TextIO) -> None:
    """Until standard input ends. A job that fails ends the process: its reader waits for it."""
    try:
        _answer_jobs(loop, loading, answers)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _answer_jobs(loop: asyncio.AbstractEventLoop, loading: Loading, answers: TextIO) -> None:
    loaded = loading.future.result()
    driver = CoreDriver(loaded.core, len(loaded.token_bytes), first_id=FIRST_ID)

    async def run(line: str) -> float:
        return tokens_s(driver, json.loads(line))

    print(json.dumps({"model": loaded.id}), file=answers, flush=True)
    for line in sys.stdin:
        rate = asyncio.run_coroutine_threadsafe(run(line), loop).result()
        print(json.dumps({"tokens_s": rate}), file=answers, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    settings = serve.settings_from(parser.parse_args(["serve", *sys.argv[1:]]))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the server says goes to its log

    async def host() -> int:
        with bind(settings.host, settings.port) as sock:
            loading = Loading(settings, Phases())
            arguments = (asyncio.get_running_loop(), loading, answers)
            threading.Thread(target=answer_jobs, args=arguments, daemon=True).start()
            return await ServerHost(settings, sock, loading).run()

    return run_on_loop(host())


if __name__ == "__main__":
    sys.exit(main())
