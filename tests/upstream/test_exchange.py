"""The head of an upstream request: where it goes and how it proves who asks."""

from dataclasses import replace

import pytest

from engine.config.snapshot import Auth
from engine.secret import Secret
from engine.upstream.exchange import render_head
from tests.routing.things import make_credentials, make_provider

[CREDENTIAL] = make_credentials("some", "s3cr&t key")


@pytest.mark.parametrize(
    ("kind", "header", "line"),
    [
        ("bearer", "authorization", b"authorization: Bearer s3cr&t key"),
        ("header", "x-api-key", b"x-api-key: s3cr&t key"),
        ("basic", "authorization", b"authorization: Basic czNjciZ0IGtleQ=="),
        ("query", "key", b"POST /v1/chat/completions?key=s3cr%26t%20key HTTP/1.1"),
    ],
)
def test_each_kind_of_credential_is_sent_in_its_place(kind: str, header: str, line: bytes) -> None:
    provider = replace(make_provider("some"), auth=Auth(kind, header, (CREDENTIAL,)))
    _, head = render_head(provider, CREDENTIAL, "/chat/completions")
    assert line in head.split(b"\r\n")
    assert head.count(b"key") == line.count(b"key")


def test_a_query_of_the_base_url_and_of_the_path_are_kept() -> None:
    provider = replace(make_provider("some"), base_url="https://some.example/v1?api-version=1")
    _, head = render_head(provider, CREDENTIAL, "/chat/completions?alt=sse")
    assert head.startswith(b"POST /v1/chat/completions?alt=sse&api-version=1 HTTP/1.1\r\n")


def test_a_secret_header_is_revealed_only_in_the_head() -> None:
    provider = replace(make_provider("some"), headers={"X-Org": Secret("hidden")})
    _, head = render_head(provider, CREDENTIAL, "/chat/completions")
    assert b"x-org: hidden" in head.split(b"\r\n")
