"""policies.d/edge.yaml: how often somebody without a valid key may ask, by address and by kind of program."""

from typing import Annotated

from pydantic import AfterValidator

from engine.config.networks import read_network
from engine.config.schema_base import Count, Name, Seconds, Share, Strict, described


def _check_network(text: str) -> str:
    read_network(text)
    return text


NetworkText = Annotated[str, AfterValidator(_check_network)]


class StrictEntry(Strict):
    """Whom the strict number is for."""

    per_address: Count = described("requests in any minute from one address of these", 60)
    networks: tuple[NetworkText, ...] = described("networks of data centres", ())
    agents: tuple[str, ...] = described(
        "globs of the User-Agent, in lower case", ("python-requests*", "*aiohttp*", "curl*", "*postman*")
    )
    headers: tuple[str, ...] = described("headers that proxies add", ("x-proxy-id", "via"))


class ExemptEntry(Strict):
    """Who is not counted."""

    paths: tuple[str, ...] = described(
        "paths at which nobody is counted",
        ("/health", "/health/ready", "/metrics", "/api/health", "/favicon.ico", "/api/stripe/webhook"),
    )
    networks: tuple[NetworkText, ...] = described(
        "networks from which nobody is counted: as shipped the private ones, where your own proxy is",
        ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
         "100.64.0.0/10", "fc00::/7", "fe80::/10"),
    )  # fmt: skip


class VelocityEntry(Strict):
    """When many calls fail, strangers get less. 5xx count, and callers who left after more than five seconds."""

    ratio: Share = described("share of failures that switches it on", 0.25)
    window_s: Seconds = described("span over which the ratio is taken, seconds", 60)
    min_requests: Count = described("calls in that span before the ratio counts", 100)
    for_s: Seconds = described("how long it stays on, seconds", 180)
    multiplier: Share = described("what of each number is left meanwhile", 0.5)


class EdgeFile(Strict):
    """Limits of requests without a valid key. The one named `default` is in force."""

    edge: Name = described("its name; `default` is the one in force")
    extends: Name | None = described("an edge whose keys these go over", None)
    enabled: bool = described("whether anybody is counted", True)
    per_address: Count = described("requests in any minute from one address, of IPv6 from one /64", 300)
    per_fingerprint: Count = described(
        "refused keys in any minute of one kind of program, from wherever: User-Agent, languages, encodings",
        100,
    )
    strict: StrictEntry = described("programs and networks that get less", StrictEntry())
    exempt: ExemptEntry = described("who is not counted", ExemptEntry())
    velocity: VelocityEntry = described("less for strangers while calls fail", VelocityEntry())
