"""A curl command, as documentation prints it, taken apart: address, headers, JSON body. Pure; nothing is run."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_HEADER = ("-H", "--header")
_DATA = ("-d", "--data", "--data-raw", "--data-binary", "--data-ascii", "--json")
_USER = ("-u", "--user")
_URL = "--url"
_WITH_VALUE = frozenset(
    (
        *(*_HEADER, *_DATA, *_USER, _URL, "-X", "--request", "-o", "--output"),
        *("-m", "--max-time", "--connect-timeout", "-A", "--user-agent"),
    )
)


class CurlRefused(ValueError):
    """A command that says too little."""


@dataclass(slots=True)
class CurlCommand:
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """By lower-case name."""
    user: str = ""
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.url).query)


def read_curl(text: str) -> CurlCommand:
    """Take a command apart. Raises CurlRefused with what is missing."""
    try:
        words = shlex.split(text.replace("\\\r\n", " ").replace("\\\n", " "))
    except ValueError as error:
        raise CurlRefused(f"the command cannot be read: {error}") from error
    command, data = CurlCommand(), ""
    for name, value in _list_options(words[1:] if words[:1] == ["curl"] else words):
        if name in _HEADER:
            key, _, said = value.partition(":")
            command.headers[key.strip().lower()] = said.strip()
        elif name in _DATA:
            data += value
        elif name in _USER:
            command.user = value
        elif name == _URL:
            command.url = value
    command.body = _read_body(data)
    if not urlsplit(command.url).hostname:
        raise CurlRefused("the command names no address")
    return command


def _list_options(words: list[str]) -> Iterator[tuple[str, str]]:
    """(option, value); what stands alone is the address, options without a value are passed over."""
    rest = iter(words)
    for word in rest:
        name, attached = _split_option(word)
        if name in _WITH_VALUE:
            yield name, attached or next(rest, "")
        elif not word.startswith("-"):
            yield _URL, word


def _split_option(word: str) -> tuple[str, str]:
    """`--name=value` and `-Hvalue` are one word each."""
    if word.startswith("--"):
        name, _, value = word.partition("=")
        return name, value
    if word[:2] in ("-H", "-d", "-u", "-X") and len(word) > 2:
        return word[:2], word[2:]
    return word, ""


def _read_body(data: str) -> dict[str, Any]:
    if data.startswith("@"):
        raise CurlRefused("the body stands in a file; write it into the command")
    try:
        body = json.loads(data or "null")
    except ValueError as error:
        raise CurlRefused(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise CurlRefused("the command sends no JSON object")
    return body
