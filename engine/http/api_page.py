"""`GET /docs`: the description of the API as one page without scripts and without anything from elsewhere."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import orjson

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .25rem 0; }
summary b { display: inline-block; width: 4.5rem; font-family: monospace; }
code, pre { font-family: ui-monospace, monospace; font-size: .875rem; }
pre { background: #f4f4f4; padding: .75rem; overflow: auto; }
table { border-collapse: collapse; } td, th { border: 1px solid #ccc; padding: .25rem .5rem; text-align: left; }
.open { color: #666; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #eee; } pre { background: #222; } }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest())
PAGE_POLICY = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'sha256-%b'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        % _HASH,
    ),
)
"""Of the page: nothing but its own style is taken, and nobody may frame it."""
_METHODS = ("get", "post", "put", "patch", "delete")


def write_page(document: Mapping[str, Any]) -> bytes:
    """The description for people: by tag, each operation with its parameters, body and answers."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method in (name for name in _METHODS if name in operations):
            operation = operations[method]
            by_tag.setdefault(operation["tags"][0], []).append(_write_operation(method, path, operation))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(rows)}" for tag, rows in sorted(by_tag.items()))
    schemas = "".join(
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{_write_json(schema)}</details>'
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    info = document["info"]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}"
        ' For programs: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{sections}<h2>schemas</h2>{schemas}</body></html>"
    ).encode()


def _write_operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    need = operation.get("x-need")
    who = "open to all" if need is None else ", ".join(f"{name} {word}" for name, word in need.items())
    parts = [
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code> {escape(operation['summary'])}"
        f' <span class="open">{escape(who)}</span></summary>',
        *_write_parameters(operation.get("parameters", [])),
    ]
    if (body := operation.get("requestBody")) is not None:
        parts.append(f"<p>Body</p>{_write_json(body['content'])}")
    parts.append(f"<p>Answers</p>{_write_json(operation['responses'])}</details>")
    return "".join(parts)


def _write_parameters(parameters: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}</td>"
        f"<td>{'yes' if each.get('required') else ''}</td><td><code>{escape(_as_text(each['schema']))}</code></td></tr>"
        for each in parameters
    ]
    if rows:
        yield "<table><tr><th>name</th><th>in</th><th>required</th><th>shape</th></tr>"
        yield from rows
        yield "</table>"


def _write_json(value: Any) -> str:
    return f"<pre>{escape(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())}</pre>"


def _as_text(value: Any) -> str:
    return orjson.dumps(value).decode()
