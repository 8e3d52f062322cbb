"""A page of tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #ddd; --soft: #666; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --line: #3a3a3a; --soft: #aaa; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1320px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.sub, .notes { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
td.met { color: #0b8f63; font-weight: 600; } td.missed { color: #d2462c; font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 1.2rem; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg text.title { font-weight: 600; font-size: 14px; } svg text.small { font-size: 10.5px; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .target { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 4 3; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .6rem; }
"""


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a cell of "target met" or "target missed" is coloured by its last word."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = []
    for row in rows:
        cells = []
        for cell in row:
            last = cell.rsplit(" ", 1)[-1]
            kind = f' class="{last}"' if last in {"met", "missed"} else ""
            cells.append(f"<td{kind}>{escape(cell)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def plots(charts: Sequence[str]) -> str:
    """Charts side by side; empty ones are left out."""
    return f'<div class="plots">{"".join(f"<div>{chart}</div>" for chart in charts if chart)}</div>'


def notes(lines: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> None:
    """`sections`: (heading, HTML) in order; an empty one is left out."""
    body = "".join(
        f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections if content
    )
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f'<p class="sub">{escape(subtitle)}</p>{body}</html>\n',
        encoding="utf-8",
    )
