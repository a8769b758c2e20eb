"""Which addresses an upstream may have."""

import asyncio
import socket

import pytest

from engine.errors import UpstreamFailure
from engine.upstream.addresses import Resolver, is_public
from engine.upstream.reply import Origin

INSIDE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "::7f00:1",
    "::169.254.169.254",
    "::ffff:0:127.0.0.1",
    "2001:0:808:808::80ff:fffe",
    "168.63.129.16",
    "::ffff:168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "2002:7f00:1::",
    "2002:a00:1::",
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_inside_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1", "2130706433", "0x7f.1"])
async def test_every_spelling_of_this_machine_is_refused_with_its_address_and_the_way_out(host: str) -> None:
    with pytest.raises(UpstreamFailure, match="allow_private: true") as raised:
        await Resolver().find_addresses(Origin("http", host, 80))
    assert raised.value.kind == "connect"
    assert "127.0.0.1" in raised.value.message or "::1" in raised.value.message


async def test_a_provider_may_allow_private_addresses() -> None:
    found = await Resolver().find_addresses(Origin("http", "localhost", 8080, allow_private=True))
    assert found[0][1][:2] in [("127.0.0.1", 8080), ("::1", 8080)]


async def test_an_answer_is_remembered_for_a_while_and_not_for_longer() -> None:
    origin = Origin("http", "localhost", 80, allow_private=True)
    keeping, forgetting = Resolver(keep_s=60), Resolver(keep_s=0)
    assert await keeping.find_addresses(origin) is not await keeping.find_addresses(origin)
    assert (await keeping.find_addresses(origin))[0] is (await keeping.find_addresses(origin))[0]
    assert (await forgetting.find_addresses(origin))[0] is not (await forgetting.find_addresses(origin))[0]


async def test_a_name_that_turns_around_is_never_connected_to_at_its_new_place() -> None:
    """What is checked is what is connected to: a later answer of the same name is checked anew."""
    loop = asyncio.get_running_loop()
    answers = [["8.8.8.8", "127.0.0.1"], ["127.0.0.1"]]
    asked = 0

    async def turn_around(
        host: str, port: int, **_: object
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        nonlocal asked
        asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answers.pop(0)]

    loop.getaddrinfo = turn_around  # type: ignore[assignment, method-assign]
    resolver, origin = Resolver(keep_s=0), Origin("https", "rebind.example.org", 443)
    assert await resolver.find_addresses(origin) == [(socket.AF_INET, ("8.8.8.8", 443))]
    with pytest.raises(UpstreamFailure, match="not a public address"):
        await resolver.find_addresses(origin)
    assert asked == 2
