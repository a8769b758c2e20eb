"""The head of an upstream request: where it goes and how it proves who asks."""

from dataclasses import replace

import httpx
import pytest

from engine.config.snapshot import Auth, Credential, SigningKey, Timeouts
from engine.errors import ProviderError, UpstreamFailure
from engine.secret import Secret
from engine.upstream.auth.sigv4 import sign_request, write_canonical_request
from engine.upstream.exchange import Exchange, Sent, hide_secrets, render_head
from engine.upstream.pools import Upstreams
from engine.upstream.reply import Origin
from tests.routing.things import make_credentials, make_provider, make_target

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


async def test_each_attempt_is_signed_over_its_own_bytes_and_time() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    now = 1440938160.0
    key = SigningKey(Secret("AKIDEXAMPLE"), "eu-west-1", "bedrock", Secret("session"))
    credential = Credential("some#0", Secret("s3cret"), proof=key)
    provider = make_provider("some", auth=Auth("sigv4", "", (credential,)))
    upstreams = Upstreams()
    upstreams.mount(Origin("https", "some.example", 443), httpx.MockTransport(answer))
    exchange = Exchange(upstreams, lambda: now)
    endpoint, target = provider.endpoints["chat"], make_target(provider)
    for body in (b"{}", b'{"a":1}', b"{}"):
        now += 1
        await exchange.open(target, endpoint, credential, Sent(body), Timeouts(), stream=False)
    await exchange.close()
    assert [request.headers["x-amz-date"] for request in sent] == [
        "20150830T123601Z",
        "20150830T123602Z",
        "20150830T123603Z",
    ]
    for request in sent:
        names = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        assert names == ["content-type", "host", "x-amz-date", "x-amz-security-token"]
        signed = [(name, request.headers[name]) for name in names]
        canonical = write_canonical_request("POST", request.url.raw_path.decode(), signed, request.content)
        expected = sign_request(canonical, credential.secret, key, request.headers["x-amz-date"])
        assert request.headers["authorization"] == expected
    assert len({request.headers["authorization"] for request in sent}) == 3


def test_nothing_of_a_signing_key_is_left_in_a_provider_s_words() -> None:
    key = SigningKey(Secret("AKIDEXAMPLE"), "eu-west-1", "bedrock", Secret("session-token"))
    credential = Credential("some#0", Secret("the-secret-key"), proof=key)
    words = "AKIDEXAMPLE with the-secret-key and session-token"
    failure = UpstreamFailure("403", words, error=ProviderError(words))
    hide_secrets(failure, make_provider("some"), credential)
    assert failure.message == "*** with *** and ***"
    assert failure.error is not None and failure.error.message == failure.message
