"""Compiles a model library in a process of its own, so that the server never holds the compiler.

TVM's compiler takes a quarter of a gigabyte and stays loaded once imported; a crash inside it would
take the server along. `python -m mlc_server.cli.compile_worker FOLDER TARGET CACHE` prints a
UserError as JSON on stdout and exits with 2; progress goes to stderr as usual.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mlc_server.errors import CompileError, UserError

_EXIT_USER_ERROR = 2
_EXIT_INTERRUPTED = 130


def compile_apart(folder: Path, target: str, cache_dir: Path) -> None:
    """Fills the library cache for a model folder; raises CompileError."""
    command = [
        sys.executable,
        "-m",
        "mlc_server.cli.compile_worker",
        str(folder),
        target,
        str(cache_dir),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603 - our own
    if done.returncode == 0:
        return
    if done.returncode == _EXIT_USER_ERROR:
        fault = json.loads(done.stdout)
        raise CompileError(fault["what"], seen=fault["seen"], hint=fault["hint"])
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    raise CompileError(
        "the compiler's process failed",
        seen=f"it ended with {ended}",
        hint="look above for its message; signal 9 means that memory ran out",
    )


def main(argv: Sequence[str]) -> int:
    """The worker."""
    # Imported here: the parent imports this module too, and needs none of this.
    from mlc_server.build.compile import library_for  # noqa: PLC0415
    from mlc_server.build.manifest import load_manifest  # noqa: PLC0415
    from mlc_server.cli.progress import ProgressReport  # noqa: PLC0415

    folder, target, cache_dir = argv
    try:
        with ProgressReport() as progress:
            library_for(load_manifest(Path(folder)), target, Path(cache_dir), progress)
    except UserError as error:
        json.dump({"what": error.what, "seen": error.seen, "hint": error.hint}, sys.stdout)
        return _EXIT_USER_ERROR
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
