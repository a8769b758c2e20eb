"""Signature version 4 against the published test suite, and against what the official SDK signs."""

import pytest

from engine.config.snapshot import SigningKey
from engine.secret import Secret
from engine.upstream.auth.sigv4 import sign_request, write_canonical_request, write_signature_lines

SECRET_KEY = Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
ACCESS_KEY = Secret("AKIDEXAMPLE")
MOMENT = "20150830T123600Z"
NOW = 1440938160.0
DATED = (("Host", "example.amazonaws.com"), ("X-Amz-Date", MOMENT))
FORM = ("Content-Type", "application/x-www-form-urlencoded")
TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflf"
    "KD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd"
    "8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3i"
    "SIlTJabIQwj2ICCR/oLxBA=="
)


@pytest.mark.parametrize(
    ("method", "target", "extra", "body", "signature"),
    [
        ("GET", "/", (), b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", (), b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            (),
            b"",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "GET",
            "/?Param1=value2&Param1=value1",
            (),
            b"",
            "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
        ),
        (
            "GET",
            "/?%E1%88%B4=bar",
            (),
            b"",
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
        ),
        (
            "GET",
            "/",
            (("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')),
            b"",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "GET",
            "/",
            (("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")),
            b"",
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        ),
        (
            "POST",
            "/",
            (FORM,),
            b"Param1=value1",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            "POST",
            "/",
            (("X-Amz-Security-Token", TOKEN),),
            b"",
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        ),
    ],
)
def test_the_published_suite_is_signed_as_published(
    method: str, target: str, extra: tuple[tuple[str, str], ...], body: bytes, signature: str
) -> None:
    key = SigningKey(ACCESS_KEY, "us-east-1", "service")
    request = write_canonical_request(method, target, (*DATED, *extra), body)
    authorization = sign_request(request, SECRET_KEY, key, MOMENT)
    assert authorization.endswith(f"Signature={signature}")


@pytest.mark.parametrize(
    ("path", "body", "token", "signature"),
    [
        (
            "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Ainference-profile%2Fx/converse-stream?b=2&a=1%20x",
            '{"text":"é"}',
            "TOKEN/abc+==",
            "e7f628fec758dddd2b7de37c54b9b2a272a7439e46a269e73765f39758a61182",
        ),
        (
            "/model/a:b/converse",
            "{}",
            None,
            "d116ffd8cd796b01a30836a676c150b9e0a882bbddb00a4947f963e4fdf0d87d",
        ),
    ],
)
def test_a_head_gets_the_lines_that_the_official_sdk_sends(
    path: str, body: str, token: str | None, signature: str
) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bedrock-runtime.eu-west-1.amazonaws.com\r\naccept-encoding: identity\r\n"
        "connection: keep-alive\r\ncontent-type: application/json\r\naccept: */*\r\nuser-agent: x\r\n"
    )
    key = SigningKey(ACCESS_KEY, "eu-west-1", "bedrock", Secret(token) if token else None)
    lines = write_signature_lines(head.encode(), body.encode(), SECRET_KEY, key, NOW).decode()
    assert lines.startswith(f"x-amz-date: {MOMENT}\r\n")
    assert (f"x-amz-security-token: {token}\r\n" in lines) is (token is not None)
    assert lines.endswith(f"Signature={signature}\r\n")
    assert "SignedHeaders=content-type;host;x-amz-date" in lines
