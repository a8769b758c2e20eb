"""The door: headers, tags and a bounded body, before anybody is asked."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from engine.call import Call
from engine.errors import BodyTooLarge, ClientGone, InvalidRequest, WrongMediaType
from engine.http.identifiers import CallIds
from engine.http.inference import parse_tags, read_body, read_call_headers
from tests.routing.things import DOOR, make_snapshot

JSON = (b"content-type", b"application/json")


def read(*headers: tuple[bytes, bytes]) -> Call:
    call = Call("call_1", "call_1", DOOR, 0.0, 0.0, make_snapshot())
    read_call_headers(call, [JSON, *headers], dict([JSON, *headers]), {})
    return call


class Client:
    """Sends these pieces; counts how many were asked for."""

    def __init__(self, *pieces: bytes, leaves: bool = False) -> None:
        self.messages: list[MutableMapping[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": leaves or index + 1 < len(pieces)}
            for index, piece in enumerate(pieces)
        ]
        if leaves:
            self.messages.append({"type": "http.disconnect"})
        self.asked = 0

    async def receive(self) -> MutableMapping[str, Any]:
        self.asked += 1
        return self.messages[self.asked - 1]


async def test_a_body_in_one_piece_or_in_many_is_the_same() -> None:
    assert await read_body({}, Client(b"abcdef").receive, 6) == b"abcdef"
    assert await read_body({}, Client(b"ab", b"", b"cd", b"ef").receive, 6) == b"abcdef"
    assert await read_body({}, Client(b"").receive, 6) == b""


async def test_an_announced_length_over_the_limit_is_refused_unread() -> None:
    client = Client(b"x" * 7)
    with pytest.raises(BodyTooLarge):
        await read_body({b"content-length": b"7"}, client.receive, 6)
    assert client.asked == 0


async def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large() -> None:
    client = Client(*[b"xx"] * 100)
    with pytest.raises(BodyTooLarge):
        await read_body({}, client.receive, 5)
    assert client.asked == 3
    with pytest.raises(BodyTooLarge):
        await read_body({b"content-length": b"2"}, Client(b"x" * 7).receive, 6)


async def test_a_client_that_leaves_amid_its_body_is_gone() -> None:
    with pytest.raises(ClientGone):
        await read_body({}, Client(b"a", b"b", leaves=True).receive, 100)


@pytest.mark.parametrize(
    "media_type", [b"application/json", b"application/json;charset=utf-8", b"Application/JSON"]
)
def test_json_is_taken(media_type: bytes) -> None:
    read_call_headers(read(), [(b"content-type", media_type)], {b"content-type": media_type}, {})


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"")], [(b"content-type", b"text/html")]])
def test_anything_else_is_not(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(WrongMediaType):
        read_call_headers(read(), headers, dict(headers), {})


@pytest.mark.parametrize("value", [b"mine-1", b"a" * 128, b"01HX:trace/span=1+2@x_y.z"])
def test_a_harmless_request_id_is_kept(value: bytes) -> None:
    assert read((b"x-request-id", value)).request_id == value.decode()


@pytest.mark.parametrize(
    "value", [b"", b"a" * 129, b"a b", b"a\tb", b"\xc3\xa9", b"a,b", b'"', b"a\r\nb", b"a\n"]
)
def test_any_other_request_id_is_replaced_by_ours(value: bytes) -> None:
    assert read((b"x-request-id", value)).request_id == "call_1"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("team=search,feature=rag", {"team": "search", "feature": "rag"}),
        (" team = search , ", {"team": "search"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
        ("a=1,a=2", {"a": "2"}),
        ("", {}),
        (",,,", {}),
    ],
)
def test_tags_are_pairs(text: str, tags: dict[str, str]) -> None:
    assert parse_tags(text) == tags


@pytest.mark.parametrize(
    "text", ["a", "=b", "a" * 65 + "=1", "a=" + "b" * 257, ",".join(f"t{number}=1" for number in range(21))]
)
def test_other_tags_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_tags(text)
    assert refused.value.param == "x-tags"


def test_ids_sort_by_time_and_never_repeat() -> None:
    ids, others = CallIds(), CallIds()
    made = [ids.make(1_700_000_000 + number / 1000) for number in range(2000)]
    assert made == sorted(set(made))
    assert not {others.make(1_700_000_000.0) for _ in range(100)} & set(made)
    assert all(len(each) == len(made[0]) for each in made)
