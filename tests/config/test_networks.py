"""Who a request comes from is told by trusted proxies only."""

import pytest

from engine.config.networks import Networks, find_client, read_network

PROXIES = Networks(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.2.3.4"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9", "10.2.3.4"], "203.0.113.9"),
        ("10.0.0.1", ["10.9.9.9"], "10.9.9.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("2001:db8::1", ["2a00::7"], "2a00::7"),
        ("10.0.0.1", ["[2a00::7]:443"], "2a00::7"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, , 10.2.3.4"], "10.2.3.4"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("", ["1.1.1.1"], ""),
    ],
)
def test_the_header_is_read_from_the_right_through_trusted_proxies_only(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert find_client(peer, forwarded, PROXIES) == client


def test_a_long_header_costs_bounded_work_and_yields_a_proxy() -> None:
    line = "1.1.1.1, " + ", ".join(["10.0.0.2"] * 5000)
    assert find_client("10.0.0.1", [line], PROXIES) == "10.0.0.2"


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "host", "", "10.0.0.0/8/8", "1"])
def test_what_is_no_network_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not a network such as"):
        read_network(text)


@pytest.mark.parametrize(
    ("address", "held"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.0.0.1", False),
        ("2001:db8:5::1", True),
        ("x", False),
    ],
)
def test_an_address_is_in_the_list_in_either_spelling(address: str, held: bool) -> None:
    assert PROXIES.hold(address) is held
