"""`python -m mlc_server [COMMAND] ...`: finds the command and runs it.

Without a command it serves: `python -m mlc_server` is `python -m mlc_server serve` with the default
model. A UserError is three lines on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from mlc_server import __version__
from mlc_server.cli.arguments import Parser
from mlc_server.errors import UserError

# Command -> what it does. Its module, cli/<command>.py, has add_parser(subparsers) and
# run(args) -> exit code, and is imported only when needed.
COMMANDS = {
    "serve": "serve a model over HTTP (the default command)",
    "doctor": "check this machine and say how to fix what is missing",
    "convert_weight": "convert a model's weights into a model folder",
    "gen_config": "write the mlc-chat-config.json of a model folder",
    "compile": "compile a model library for a target",
}
STARTED_S = time.monotonic()
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _run(arguments)
    except UserError as error:
        if debug:
            raise
        sys.stderr.write(error.render() + "\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def run() -> NoReturn:
    """main() as a process, which ends with it."""
    try:
        code = main()
    except Exception:  # all of them with --debug, else what is a bug
        traceback.print_exc()
        code = EXIT_FAILED
    # Threads that load a model or make ready for grammars cannot be interrupted, and run without
    # the interpreter's lock: it must not be taken down under them.
    if any(thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in {"-h", "--help", "help"}:
        _overview().print_help()
        return 0
    if arguments and arguments[0] in {"-V", "--version"}:
        sys.stdout.write(f"mlc_server {__version__}\n")
        return 0
    name = arguments[0].replace("-", "_") if arguments else ""
    if name in COMMANDS:
        arguments = arguments[1:]
    else:
        name = "serve"
    module = _module_of(name)
    root = Parser(prog="mlc_server", allow_abbrev=False)
    subparsers = root.add_subparsers(dest="command", parser_class=Parser)
    module.add_parser(subparsers)
    args = root.parse_args([name, *arguments])
    code: int = module.run(args)
    return code


def _module_of(name: str) -> ModuleType:
    return importlib.import_module(f"mlc_server.cli.{name}")


def _overview() -> argparse.ArgumentParser:
    lines = [f"  {name:<16}{purpose}" for name, purpose in COMMANDS.items()]
    return Parser(
        prog="mlc_server",
        usage="mlc_server [COMMAND] [options]",
        description="An OpenAI-compatible LLM server that compiles its own kernels.",
        epilog="commands:\n"
        + "\n".join(lines)
        + "\n\n`mlc_server COMMAND --help` lists a command's options.\n"
        "Without a command it serves; without a model it serves SmolLM2-135M-Instruct.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
