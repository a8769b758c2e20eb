"""Providers that speak several wires: which one a caller's dialect leads to, and what is refused."""

from tests.config.conftest import Folder, provider


def test_a_caller_is_led_to_its_own_wire_where_the_provider_speaks_it(folder: Folder) -> None:
    more = "also: {openai-responses: {path: /native}}"
    alpha = folder.load({"providers.d/a.yaml": provider(more=more)}).providers["alpha"]
    own = alpha.find_endpoint("chat", "openai-responses")
    assert (own.format.name, own.path) == ("openai-responses", "/native")
    assert alpha.find_endpoint("chat", "openai-chat").format.name == "openai-chat"
    assert alpha.find_endpoint("chat", "anthropic-messages").format.name == "openai-chat"


def test_the_path_of_another_wire_is_that_of_its_format(folder: Folder) -> None:
    alpha = folder.load({"providers.d/a.yaml": provider(more="also: {openai-responses: {}}")}).providers[
        "alpha"
    ]
    assert alpha.find_endpoint("chat", "openai-responses").path == "/responses"


def test_another_wire_has_its_own_traits(folder: Folder) -> None:
    more = "also: {openai-responses: {}}\ntraits: {summary: auto}"
    alpha = folder.load({"providers.d/a.yaml": provider(more=more)}).providers["alpha"]
    assert alpha.find_endpoint("chat", "openai-responses").traits["summary"] == "auto"


def test_a_wire_that_is_not_there_is_refused_with_its_place(folder: Folder) -> None:
    problems = folder.refuse({"providers.d/a.yaml": provider(more="also: {openai-response: {}}")})
    assert len(problems) == 1
    assert 'also.openai-response: no wire format "openai-response" (did you mean' in problems[0]
    assert problems[0].startswith("providers.d/a.yaml:5:")
