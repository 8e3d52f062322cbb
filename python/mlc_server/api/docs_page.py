"""/docs: every endpoint with its fields and examples, as one page that needs no network."""

from __future__ import annotations

import html
import json
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }}
section {{ border-top: 1px solid #8886; padding: 1rem 0; }}
code, pre {{ font: 14px/1.4 ui-monospace, monospace; }}
pre {{ background: #8882; padding: .8rem; overflow-x: auto; border-radius: .4rem; }}
table {{ border-collapse: collapse; }}
td, th {{ text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }}
</style></head><body>
<h1>{title} {version}</h1>
<p>OpenAI-compatible. Machine-readable: <a href="openapi.json">openapi.json</a>.
Errors are <code>{{"error": {{"message", "type", "param", "code"}}}}</code>.</p>
{sections}
</body></html>
"""


def render_docs(openapi: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    sections = [
        _section(method, path, operation, openapi)
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    ]
    info = openapi["info"]
    return _PAGE.format(
        title=html.escape(info["title"]),
        version=html.escape(info["version"]),
        sections="\n".join(sections),
    )


def _section(method: str, path: str, operation: dict[str, Any], openapi: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = content.get("examples", {})
    parts = [
        f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>",
        f"<p>{html.escape(operation.get('summary', ''))}</p>",
        f"<p>{html.escape(operation.get('description', ''))}</p>",
        _fields(content.get("schema", {}), openapi),
    ]
    if not examples:
        parts.append(_curl(method, path, None))
    for example in examples.values():
        parts.append(f"<h3>{html.escape(example['summary'])}</h3>")
        parts.append(_curl(method, path, example["value"]))
    return "\n".join([*parts, "</section>"])


def _curl(method: str, path: str, body: Any) -> str:
    command = f"curl -X {method.upper()} http://127.0.0.1:8000{path}"
    if body is not None:
        text = json.dumps(body, indent=2, ensure_ascii=False)
        command += f" \\\n  -H 'Content-Type: application/json' -d '{text}'"
    return f"<pre>{html.escape(command)}</pre>"


def _fields(schema: dict[str, Any], openapi: dict[str, Any]) -> str:
    """A table of the body's fields; empty for a route without one."""
    name = schema.get("$ref", "").rpartition("/")[2]
    body = openapi.get("components", {}).get("schemas", {}).get(name)
    if body is None:
        return ""
    rows = [
        f"<tr><td><code>{html.escape(field)}</code></td><td>{html.escape(_type(spec))}</td></tr>"
        for field, spec in body["properties"].items()
    ]
    return f"<table><tr><th>field</th><th>value</th></tr>{''.join(rows)}</table>"


def _type(spec: dict[str, Any]) -> str:
    """A schema in a few words: type and bounds."""
    if "anyOf" in spec:
        kinds = [_type(option) for option in spec["anyOf"] if option.get("type") != "null"]
        return " or ".join(kinds)
    if "$ref" in spec:
        return "object"
    words = [str(spec.get("type", "any"))]
    if spec.get("type") == "array" and "items" in spec:
        words = [f"list of {_type(spec['items'])}"]
    for key, label in _BOUNDS.items():
        if key in spec:
            words.append(f"{label} {spec[key]}")
    return " ".join(words)


_BOUNDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "maxLength": "of length up to",
    "maxItems": "of up to",
    "maxProperties": "of up to",
}
