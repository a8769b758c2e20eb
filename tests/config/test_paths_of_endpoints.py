"""Where a call is sent: paths and base URLs made of the model, of traits and of the provider's variables."""

from engine.config.snapshot import Endpoint, Target
from tests.config.conftest import Folder

FORMAT = """
    format: parrot
    operation: chat
    path: "/{{ target.traits.version }}/{{ target.model }}:say"
    stream_path: "/{{ target.traits.version }}/{{ target.model }}:sing?loud=1"
    traits: {version: v1}
    """
PROVIDER = """
    provider: polly
    format: parrot
    base_url: https://{{ target.variables.region }}.example.com/a/{{ target.variables.account }}
    auth: {bearer: k}
    passthrough: true
    variables: {account: "${ACCOUNT}", region: "${REGION:-eu}"}
    """


def load(folder: Folder, provider: str = PROVIDER) -> tuple[Endpoint, Target]:
    snapshot = folder.load({"providers.d/_formats/p.yaml": FORMAT, "providers.d/p.yaml": provider})
    owner = snapshot.providers["polly"]
    return owner.endpoints["chat"], Target(owner, "grey/parrot one", 1, False, None, None, None)


def test_streams_go_where_the_format_says(folder: Folder) -> None:
    folder.environ = {"ACCOUNT": "7"}
    endpoint, target = load(folder)
    assert endpoint.path_for(target) == "/v1/grey%2Fparrot%20one:say"
    assert endpoint.path_for(target, stream=True) == "/v1/grey%2Fparrot%20one:sing?loud=1"
    assert target.provider.base_url == "https://eu.example.com/a/7"


def test_a_provider_says_otherwise_for_both_or_for_one(folder: Folder) -> None:
    folder.environ = {"ACCOUNT": "7"}
    own = PROVIDER.rstrip(" ") + '    endpoints: {chat: {path: "/x/{{ target.variables.account }}"}}\n'
    endpoint, target = load(folder, own)
    assert {endpoint.path_for(target, stream=stream) for stream in (True, False)} == {"/x/7"}
    own = PROVIDER.rstrip(" ") + '    endpoints: {chat: {stream_path: "/s"}}\n    traits: {version: v2}\n'
    endpoint, target = load(folder, own)
    assert endpoint.path_for(target) == "/v2/grey%2Fparrot%20one:say"
    assert endpoint.path_for(target, stream=True) == "/s"


def test_a_provider_whose_variable_is_not_set_is_not_configured(folder: Folder) -> None:
    _, target = load(folder)
    assert not target.provider.configured
    assert target.provider.reason == "environment variable ACCOUNT is not set"


def test_a_variable_is_judged_as_part_of_the_base_url(folder: Folder) -> None:
    folder.environ = {"ACCOUNT": "7", "REGION": "127.0.0.1/"}
    local = PROVIDER.replace("{{ target.variables.region }}.example.com", "{{ target.variables.region }}")
    problems = folder.refuse({"providers.d/_formats/p.yaml": FORMAT, "providers.d/p.yaml": local})
    assert "providers.d/p.yaml:3:1 base_url" in problems[0]
