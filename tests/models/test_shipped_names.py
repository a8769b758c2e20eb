"""What the shipped table of names makes of names, and why: the predecessor's rules without its mistakes."""

import pytest

from engine.call import Caller
from engine.config.snapshot import Snapshot
from engine.routing.names import follow_name
from engine.routing.resolve import make_plan
from tests.config.conftest import Folder, folder, parsed

__all__ = ["folder", "parsed"]


@pytest.fixture
def shipped(folder: Folder) -> Snapshot:
    folder.environ = {"OPENAI_API_KEY": "k", "OPENROUTER_API_KEY": "k", "DEEPSEEK_API_KEY": "k"}
    return folder.load({})


ALIASES = {
    "gpt-5.1": "gpt5.1 gpt-5-1 gpt5-1 gpt-5_1 gpt5_1 openai/gpt-5.1 openai/gpt5.1 openai/gpt-5-1",
    "gpt-4o-2024-05-13": "openai/gpt-4o-2024-05-13",
    "o3-mini-high": "openai/o3-mini-high",
    "claude-opus-4": "opus-4 anthropic/claude-opus-4",
    "claude-opus-4.1": "opus-4.1",
    "claude-opus-4.5": "opus-4.5 claude-opus-4.5-20250514 claude-4-5-opus-20250514 claude-4.5-opus-20250514",
    "claude-sonnet-4": "sonnet-4 anthropic/claude-sonnet-4",
    "claude-sonnet-4.5": "sonnet-4.5 claude-sonnet-4.5-20250514 claude-4-5-sonnet-20250514 claude-4.5-sonnet-20250514",
    "claude-3.5-sonnet": "claude-3-5-sonnet-20241022 anthropic/claude-3.5-sonnet",
    "claude-3.5-haiku": "claude-3-5-haiku-20241022",
    "claude-haiku-4.5": "haiku-4.5 anthropic/claude-haiku-4.5",
    "deepseek-r1": "r1 deepseek/deepseek-r1 deepseek-ai/deepseek-r1",
    "deepseek-v3.2": "deepseek/deepseek-v3.2",
    "llama-4-scout": "meta-llama/llama-4-scout",
    "gemini-3-flash-preview": "gemini-3 gemini-3-flash google/gemini-3-flash",
    "gemini-3-pro-preview": "gemini-3-pro google/gemini-3-pro",
    "gemini-2.5-flash": "gemini-1.5-pro google/gemini-2.5-flash-preview",
    "grok-4.1-fast": "x-ai/grok-4.1-fast",
    "grok-3": "grok-3-beta x-ai/grok-3 grok-beta grok-2 grok-2-1212 xai/grok-2-1212 x-ai/grok-2 xai/grok-beta "
    "grok-vision-beta",
    "glm-4.7": "z-ai/glm-4.7 zai/glm-4.7 z-ai/glm-4-7 glm4.7",
    "deepseek-chat-v3-0324": "deepseek-chat deepseek-chat-v3 deepseek/deepseek-chat deepseek/deepseek-chat-v2 "
    "deepseek-ai/deepseek-chat deepseek/deepseek-chat-v3-0324",
}
"""A model: names that stand for it."""


@pytest.mark.parametrize(("model", "names"), ALIASES.items())
def test_names_stand_for_their_model_in_any_case(shipped: Snapshot, model: str, names: str) -> None:
    for name in (model, *names.split()):
        for spelled in (name, name.upper(), f" {name}"):
            found = follow_name(shipped, spelled)
            assert found is not None and found.model.name == model, spelled


def test_dated_names_stand_for_the_version_they_say(shipped: Snapshot) -> None:
    """The predecessor sent callers of these two to version 4.5."""
    for version in ("sonnet-4", "opus-4"):
        found = follow_name(shipped, f"claude-{version}-20250514")
        assert found is not None and found.model.name == f"claude-{version}"


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("mistralai/mistral-tiny-9", ["openrouter/mistralai/mistral-tiny-9"]),
        ("deepseek/deepseek-r1:free", ["openrouter/deepseek/deepseek-r1:free"]),
        ("meta-llama/llama-3.3-70b-instruct:free", ["openrouter/meta-llama/llama-3.3-70b-instruct:free"]),
        ("z-ai/glm-4.6:exacto", ["openrouter/z-ai/glm-4.6:exacto"]),
        ("deepseek-coder", ["openrouter/deepseek/deepseek-coder"]),
        ("deepseek-ai/deepseek-v2.5", ["openrouter/deepseek/deepseek-v2.5"]),
        ("openai/gpt-99", ["openai/gpt-99"]),
        ("accounts/fireworks/models/new-1", ["fireworks/accounts/fireworks/models/new-1"]),
        ("@cf/meta/new-1", ["cloudflare-workers-ai/@cf/meta/new-1"]),
        ("projects/p/locations/l/models/new-1", ["google-vertex/new-1"]),
        ("@google/models/gemini-9", ["google-vertex/gemini-9"]),
        ("gemini-9-ultra", ["google-vertex/gemini-9-ultra", "google-gemini/gemini-9-ultra"]),
        (
            "google/gemini-9",
            ["google-vertex/gemini-9", "google-gemini/gemini-9", "openrouter/google/gemini-9"],
        ),
        ("@someone/else", ["openrouter/@someone/else"]),
        ("z-ai/glm-9", ["zai/glm-9", "openrouter/z-ai/glm-9"]),
        ("grok-9", ["xai/grok-9"]),
        ("x-ai/grok-9", ["xai/grok-9", "openrouter/x-ai/grok-9"]),
        ("qwen/qwen-new", ["alibaba/qwen-new", "openrouter/qwen/qwen-new"]),
        ("stabilityai/new-1", ["fal/stabilityai/new-1"]),
    ],
)
def test_shapes_of_names_lead_to_their_providers(shipped: Snapshot, name: str, targets: list[str]) -> None:
    absent = [target for target in targets if target.partition("/")[0] not in shipped.providers]
    if len(absent) == len(targets):
        pytest.skip(f"no such provider yet: {absent[0]}")
    found = follow_name(shipped, name)
    assert found is not None
    assert [target.name for target in found.model.targets] == [name for name in targets if name not in absent]


def test_a_retired_model_is_first_asked_for_at_its_reseller(shipped: Snapshot) -> None:
    plan = make_plan(shipped, Caller("k", "u"), "deepseek-chat", "chat")
    assert plan.targets[0].name == "openrouter/deepseek/deepseek-chat-v3-0324"


def test_a_free_variant_costs_nothing(shipped: Snapshot) -> None:
    plan = make_plan(shipped, Caller("k", "u"), "deepseek/deepseek-r1:free", "chat")
    assert plan.targets[0].price is not None
    assert (plan.targets[0].price.input, plan.targets[0].price.output) == (0, 0)


def test_a_listed_target_asked_for_by_provider_has_its_price(shipped: Snapshot) -> None:
    plan = make_plan(shipped, Caller("k", "u"), "openrouter/openai/gpt-4o", "chat")
    assert plan.targets[0].price == shipped.models["gpt-4o"].price
