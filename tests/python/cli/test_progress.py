"""Progress: plain lines off a terminal, a bar on one."""

from __future__ import annotations

import io

from mlc_server.cli.progress import ProgressReport


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_two_lines_a_phase_without_a_terminal() -> None:
    output = io.StringIO()
    with ProgressReport(output) as report:
        for done in (0, 1, 2, 3, 3):
            report("downloading", done, 3)
        for done in (0, 50, 100):
            report("converting weights", done, 100)
    lines = output.getvalue().splitlines()
    assert lines[0] == "downloading ..."
    assert lines[1].startswith("downloading: done in ")
    assert lines[2] == "converting weights ..."
    assert lines[3].startswith("converting weights: done in ")
    assert len(lines) == 4
    assert "\x1b" not in output.getvalue()


def test_unknown_totals_are_fine() -> None:
    output = io.StringIO()
    with ProgressReport(output) as report:
        report("downloading", 0, 0)
        report("downloading", 5, 0)
    assert output.getvalue() == "downloading ...\n"


def test_bars_on_a_terminal() -> None:
    output = _Terminal()
    with ProgressReport(output) as report:
        report("downloading", 0, 0)
        report("downloading", 1 << 20, 2 << 20)
        report("converting weights", 10, 10)
    assert "downloading" in output.getvalue()
    assert "converting weights" in output.getvalue()
    assert "100%" in output.getvalue()
