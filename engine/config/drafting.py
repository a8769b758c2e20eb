"""The draft of a provider's file, made of one request that is known to work: its address, headers and body."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from engine.config.addresses import is_private_host
from engine.config.curl import CurlCommand, CurlRefused
from engine.wire.fixes import ask_for_usage
from engine.wire.formats import Format

_USUAL_HEADERS = frozenset(
    ("content-type", "accept", "user-agent", "content-length", "host", "accept-encoding", "authorization")
)
_SECRET_NAME = re.compile(r"key|token|secret", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{?([A-Z][A-Z0-9_]*)\}?")
_WORD = re.compile(r"[a-zA-Z_][\w/-]*(\.[\w/-]+)*")
_NOT_TEXT = frozenset(("true", "false", "null", "yes", "no", "on", "off"))


def draft_provider(name: str, command: CurlCommand, formats: Iterable[Format]) -> str:
    """The YAML text. Raises CurlRefused when no format is asked at such a path."""
    format = _find_format(command.path, formats)
    base_url = f"{urlsplit(command.url).scheme or 'https'}://{urlsplit(command.url).netloc}" + (
        command.path.removesuffix("/").removesuffix(format.path)
    )
    lines = [
        f"provider: {name}",
        f"format: {format.name}",
        f"base_url: {base_url}",
        f"auth: {_write(_find_auth(name, command))}",
        "passthrough: true # any model of it may be asked for, as provider/model",
    ]
    if is_private_host(urlsplit(command.url).hostname or ""):
        lines.append("allow_private: true")
    if headers := _find_headers(command):
        lines.append(f"headers: {_write(headers)}")
    lines += ["examples:", *_write_example(command.body, format, headers)]
    return "\n".join(lines) + "\n"


def _find_format(path: str, formats: Iterable[Format]) -> Format:
    fitting = [
        each
        for each in formats
        if each.path and "{{" not in each.path and path.rstrip("/").endswith(each.path)
    ]
    if not fitting:
        raise CurlRefused(f"no wire format is asked at a path such as {path}")
    return max(fitting, key=lambda each: (each.client.common, len(each.path)))


def _find_auth(name: str, command: CurlCommand) -> Any:
    own = f"{re.sub(r'[^A-Z0-9]+', '_', name.upper())}_API_KEY"
    if command.user:
        return {"basic": _refer(command.user, own)}
    said = command.headers.get("authorization", "")
    scheme, _, secret = said.partition(" ")
    if scheme.lower() == "bearer":
        return {"bearer": _refer(secret, own)}
    if said:
        value = f"{scheme} {_refer(secret, own)}" if secret else _refer(said, own)
        return {"header": {"name": "authorization", "value": value}}
    for header, value in command.headers.items():
        if _SECRET_NAME.search(header):
            return {"header": {"name": header, "value": _refer(value, own)}}
    for parameter, value in command.query:
        if _SECRET_NAME.search(parameter):
            return {"query": {"name": parameter, "value": _refer(value, own)}}
    return "none"


def _refer(secret: str, own: str) -> str:
    """The variable that the command itself names, or one for the provider; never what was written there."""
    found = _VARIABLE.search(secret)
    return f"${{{found[1] if found else own}}}"


def _find_headers(command: CurlCommand) -> dict[str, str]:
    return {
        name: value
        for name, value in command.headers.items()
        if name not in _USUAL_HEADERS and not _SECRET_NAME.search(name)
    }


def _write_example(body: Mapping[str, Any], format: Format, headers: Mapping[str, str]) -> list[str]:
    sent = dict(body)
    if body.get("stream") is True:
        sent |= ask_for_usage(body, format.usage_request)
    operation = [] if format.client.common else [f"    as: {format.name}"]
    shown = [f"      headers: {_write(headers)}"] if headers else []
    return [
        f"  - given: {_write(body)}",
        *operation,
        "    sends:",
        f"      path: {format.path}",
        *shown,
        f"      body: {_write(sent)}",
    ]


def _write(value: Any) -> str:
    """A value in flow style on one line; words without quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_write(key)}: {_write(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_write, value)) + "]"
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)
