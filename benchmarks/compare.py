"""Our server and llama.cpp's side by side: one table, one report.

    python benchmarks/compare.py --llama-server PATH --gguf A.gguf B.gguf --html report.html

The default model is measured against every GGUF file given, ratios are to the better of them, row
by row. All contestants take their turn in each round, over one and the same client. Wants the
machine to itself; see benchmarks/README.md for what each row is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from peers.compare_report import Comparison, terminal_table, write_report
from peers.comparison import ROWS, add_overheads, compare
from peers.contestants import LlamaCpp, Ours
from peers.processes import ProcessError
from peers.session import LONG_CONTEXT, OTHER_CONTEXTS, OTHER_STREAMS, TIMED_STREAMS, Session

CONTEXT_ROUNDS = 3  # at most: a peer may take a quarter of a minute to get there

# Rows by the part of the session that measures them.
CORE_ROWS = {"decode", "prefill"}
STREAM_ROWS = {
    1: {"decode", "prefill"},
    8: {"streams8", "loop8", "client8"},
    32: {"streams32", "ttft32", "loop32", "client32", "rss"},
}


def parse_arguments() -> argparse.Namespace:
    keys = [row.key for row in ROWS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    cpus = len(os.sched_getaffinity(0))
    add("--llama-server", type=Path, help="llama-server, with llama-bench beside it")
    add("--gguf", type=Path, nargs="+", default=[], help="model files for it, one contestant each")
    add("--model", default="", help="ours, as `serve` takes it; default: the default model")
    add("--threads", type=int, default=cpus, help=f"of every contestant; default: {cpus}")
    add("--repeats", type=int, default=5, help="rounds; default: 5")
    add("--only", nargs="+", choices=keys, default=keys, metavar="ROW", help=" ".join(keys))
    add("--no-curves", dest="curves", action="store_false", help="only what the table needs")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--output", type=Path, metavar="FILE.json", help="write the JSON to a file")
    add("--html", type=Path, help="write a report with plots")
    args = parser.parse_args()
    if bool(args.gguf) != bool(args.llama_server):
        parser.error("--llama-server and --gguf go together")
    for path in (*args.gguf, *([args.llama_server] if args.llama_server else [])):
        if not path.is_file():
            parser.error(f"{path} does not exist")
    return args


def run_session(session: Session, args: argparse.Namespace) -> None:
    """The parts that the wanted rows need, cheap ones first."""
    wanted, repeats = set(args.only), args.repeats
    if wanted & CORE_ROWS:
        session.cores()
    if "start" in wanted:
        session.starts(repeats)
    for count in TIMED_STREAMS:
        if wanted & STREAM_ROWS[count]:
            session.streams([count], count, repeats)
        if f"overhead{count}" in wanted:
            session.overheads(count, repeats)
    if "context" in wanted:
        session.contexts(LONG_CONTEXT, min(repeats, CONTEXT_ROUNDS))
    if args.curves:
        session.streams(OTHER_STREAMS, max(OTHER_STREAMS), 1)
        for context in OTHER_CONTEXTS:
            session.contexts(context, 1)


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown CPU"


def measure(args: argparse.Namespace, console: Console) -> Comparison:
    ours = Ours(args.model, args.threads)
    peers = [LlamaCpp(args.llama_server.resolve(), gguf, args.threads) for gguf in args.gguf]
    started = time.perf_counter()

    def say(text: str) -> None:
        console.print(f"{time.perf_counter() - started:5.0f} s  {text}", style="dim")

    say("preparing the model")
    session = Session(ours, peers, args.repeats, say)
    session.prepare()
    run_session(session, args)
    info = session.info
    about = {
        "cpu": cpu_name(),
        "threads": args.threads,
        "repeats": args.repeats,
        "duration_s": time.perf_counter() - started,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "weights_mb": info["weight_bytes"] / 1e6,
        "kv_mb": info["kv_bytes"] / 1e6,
        "commands": [
            shlex.join(["python", *ours.command(8000)[1:]]),
            *(shlex.join([peer.server.name, *peer.command(8080, 32)[1:]]) for peer in peers),
        ],
    }
    names = [ours.name, *(peer.name for peer in peers)]
    add_overheads(session.samples, TIMED_STREAMS)
    room = about["weights_mb"] + about["kv_mb"]
    rows = compare(session.samples, names, weights_and_kv_mb=room)
    return Comparison(
        about, names, [row for row in rows if row.spec.key in args.only], session.samples
    )


def main() -> int:
    args = parse_arguments()
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    try:
        comparison = measure(args, console)
    except ProcessError as error:
        console.print(str(error), style="bold red", markup=False)
        return 1
    text = json.dumps(comparison.as_dict(), indent=2)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")
    if args.html:
        write_report(args.html, comparison)
    if args.json:
        print(text)
        return 0
    printer = Console()
    printer.print(terminal_table(comparison))
    for remark in comparison.samples.remarks:
        printer.print(remark, style="yellow")
    printer.print(f"took {comparison.about['duration_s']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
