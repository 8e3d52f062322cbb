"""/docs: every endpoint with its fields and examples, as one page that needs no network."""

from __future__ import annotations

import html
import json
import re
import urllib.parse
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
nav li {{ list-style: none; }}
nav ul {{ padding: 0; }}
h2 {{ font-size: 1.4rem; margin: .5rem 0; }}
h3 {{ font-size: 1rem; margin: 1rem 0 .3rem; }}
h2 code {{ font-size: 1.3rem; font-weight: 600; }}
h2 a {{ color: inherit; text-decoration: none; }}
</style></head><body>
<h1>{title} {version}</h1>
<p>OpenAI-compatible. Machine-readable: <a href="openapi.json">openapi.json</a>.
Errors are <code>{{"error": {{"message", "type", "param", "code"}}}}</code>. A server with
<code>--api-key</code> asks for the header <code>Authorization: Bearer KEY</code> on every route but
<code>/health</code> and <code>/ready</code>.</p>
<nav><ul>
{links}
</ul></nav>
{sections}
</body></html>
"""


def render_docs(openapi: dict[str, Any], base_url: str, model_id: str = "MODEL") -> str:
    """The page for an OpenAPI document, of a server that the reader knows as `base_url` and that
    has `model_id`."""
    operations = [
        (method, path, operation)
        for path, of_path in openapi["paths"].items()
        for method, operation in of_path.items()
    ]
    info = openapi["info"]
    return _PAGE.format(
        title=html.escape(info["title"]),
        version=html.escape(info["version"]),
        links="\n".join(_link(*operation) for operation in operations),
        sections="\n".join(
            _section(*operation, openapi, base_url + _path_of(operation[1], model_id))
            for operation in operations
        ),
    )


def _path_of(path: str, model_id: str) -> str:
    """A route's path as an example can have it."""
    return path.replace("{model_id}", urllib.parse.quote(model_id))


def _link(method: str, path: str, operation: dict[str, Any]) -> str:
    return (
        f'<li><a href="#{_anchor(method, path)}"><code>{method.upper()} {html.escape(path)}</code>'
        f"</a> {html.escape(operation.get('summary', ''))}</li>"
    )


def _anchor(method: str, path: str) -> str:
    return html.escape(f"{method}{path}", quote=True)


def _section(
    method: str, path: str, operation: dict[str, Any], openapi: dict[str, Any], url: str
) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = content.get("examples", {})
    parts = [
        f'<section id="{_anchor(method, path)}"><h2><a href="#{_anchor(method, path)}">'
        f"<code>{method.upper()} {html.escape(path)}</code></a></h2>",
        f"<p>{html.escape(operation.get('summary', ''))}</p>",
        f"<p>{_prose(operation.get('description', ''))}</p>",
        _fields(content.get("schema", {}), openapi),
    ]
    if not examples:
        parts.append(_curl(method, url, None))
    for example in examples.values():
        parts.append(f"<h3>{html.escape(example['summary'])}</h3>")
        parts.append(_curl(method, url, example["value"]))
    parts.append(_answers(operation["responses"]))
    return "\n".join([*parts, "</section>"])


def _prose(text: str) -> str:
    """Text in which `this` is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _answers(responses: dict[str, Any]) -> str:
    """A table of statuses and what they mean."""
    rows = [
        f"<tr><td><code>{html.escape(status)}</code></td>"
        f"<td>{html.escape(response['description'])}</td></tr>"
        for status, response in sorted(responses.items())
    ]
    return f"<h3>Answers</h3><table>{''.join(rows)}</table>"


def _curl(method: str, url: str, body: Any) -> str:
    verb = "" if method == "get" else f"-X {method.upper()} "
    streams = "-N " if isinstance(body, dict) and body.get("stream") else ""
    command = f"curl {streams}{verb}{url}"
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
    required = body.get("required", ())
    fields = sorted(body["properties"].items(), key=lambda field: field[0] not in required)
    rows = [
        f"<tr><td><code>{html.escape(field)}</code></td><td>{html.escape(_type(spec))}"
        f"{', required' if field in required else ''}</td></tr>"
        for field, spec in fields
    ]
    return f"<table><tr><th>field</th><th>value</th></tr>{''.join(rows)}</table>"


def _type(spec: dict[str, Any]) -> str:
    """A schema in a few words: type and bounds."""
    if "anyOf" in spec:
        kinds = [_type(option) for option in spec["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in spec:
        return "object"
    if "enum" in spec:
        return " or ".join(json.dumps(value) for value in spec["enum"])
    words = [str(spec.get("type", "any"))]
    if spec.get("type") == "array" and "items" in spec:
        words = [f"list of {_type(spec['items'])}"]
    for key, label in _BOUNDS.items():
        if key in spec and abs(spec[key]) < _NOT_WORTH_A_WORD:
            words.append(f"{label} {spec[key]:g}")
    return " ".join(words)


# Bounds of the integers' own size.
_NOT_WORTH_A_WORD = 2**31 - 1
_BOUNDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "maxLength": "of length up to",
    "maxItems": "of up to",
    "maxProperties": "of up to",
}
