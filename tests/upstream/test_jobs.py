"""Where a job may be asked for, and what of an answer may be fetched."""

import pytest

from engine.errors import UpstreamFailure
from engine.upstream.fetching import read_address
from engine.upstream.jobs import keep_home
from engine.upstream.reply import Origin

HOME = Origin("https", "queue.example.com", 443)


def test_an_address_of_the_provider_is_its_path_and_query() -> None:
    assert keep_home("https://queue.example.com/a/b?x=1", HOME) == "/a/b?x=1"
    assert keep_home("https://QUEUE.example.com:443/a", HOME) == "/a"
    assert keep_home("/a/b", HOME) == "/a/b"


@pytest.mark.parametrize(
    "url",
    [
        "http://queue.example.com/a",
        "https://queue.example.com:444/a",
        "https://queue.example.com.evil.test/a",
        "https://user@queue.example.com/a",
        "//evil.test/a",
        "https://queue.example.com",
        "a/b",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(UpstreamFailure):
        keep_home(url, HOME)


def test_only_https_is_fetched_and_never_a_private_address_but_the_providers_own() -> None:
    own = Origin("http", "10.0.0.7", 8000, allow_private=True)
    assert read_address("http://10.0.0.7:8000/f?a=1", own) == (own, "/f?a=1")
    assert read_address("https://cdn.example.com", own) == (Origin("https", "cdn.example.com", 443), "/")
    for url in (
        "http://cdn.example.com/a",
        "ftp://a/b",
        "https://",
        "https://u:p@cdn.example.com/",
        "file:///a",
    ):
        with pytest.raises(UpstreamFailure):
            read_address(url, own)
    assert not read_address("https://10.0.0.7:8000/f", own)[0].allow_private
