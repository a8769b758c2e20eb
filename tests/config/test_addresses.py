import pytest

from engine.config.addresses import is_private_host, judge_base_url

ELSEWHERE = ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    "host",
    ["localhost", "a.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "10.0.0.7", "192.168.1.1", "172.16.0.1",
     "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "100.64.0.1", "224.0.0.1"],
)  # fmt: skip
def test_private_addresses_are_recognised_in_every_spelling(host: str) -> None:
    assert is_private_host(host)


@pytest.mark.parametrize(
    "host", ["api.openai.com", "8.8.8.8", "2606:4700::1111", "10.example.com", "localhost.example.com"]
)
def test_public_names_and_addresses_are_not_private(host: str) -> None:
    assert not is_private_host(host)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://x.example.com", "must begin with https://"),
        ("x.example.com/v1", "must begin with https://"),
        ("https://", "must begin with https://"),
        ("https://user:pw@x.example.com", "must not carry credentials"),
        ("https://x.example.com/v1?key=1", "must not have a query"),
        ("https://x.example.com:99999", "is not a URL"),
        ("https://[::1", "is not a URL"),
        ("http://10.0.0.7:8000/v1", "10.0.0.7 is a private address; write `allow_private: true`"),
        ("http://127.0.0.1:8000/v1", "points at this gateway itself"),
        ("http://localhost:8000/v1", "points at this gateway itself"),
        ("http://[::1]:8000/v1", "points at this gateway itself"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url: str, message: str) -> None:
    assert message in (judge_base_url(url, False, ELSEWHERE) or "")


def test_private_addresses_are_fine_when_allowed() -> None:
    assert judge_base_url("http://127.0.0.1:9000/v1", True, ELSEWHERE) is None
    assert judge_base_url("http://10.0.0.7:8000/v1", True, ELSEWHERE) is None


def test_a_gateway_that_listens_everywhere_is_found_on_loopback_even_when_private_is_allowed() -> None:
    assert "itself" in (judge_base_url("http://localhost:8000", True, ("0.0.0.0", 8000)) or "")
    assert judge_base_url("http://localhost:8001", True, ("0.0.0.0", 8000)) is None
