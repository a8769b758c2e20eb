"""Every official SDK before every provider's wire: an application notices no difference between providers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import Gateway, Simulator
from tests.sdk.talks.anthropic_talk import AnthropicTalk
from tests.sdk.talks.bedrock_talk import BedrockTalk
from tests.sdk.talks.cohere_talk import CohereTalk
from tests.sdk.talks.google_talk import GoogleTalk
from tests.sdk.talks.langchain_talks import (
    LangChainAnthropicTalk,
    LangChainOpenAITalk,
    LangChainResponsesTalk,
)
from tests.sdk.talks.openai_talks import ChatTalk, ResponsesTalk
from tests.sdk.talks.talk import Plan, Talk, Told, Wanted
from tests.sdk.wires import WIRES

TALKS: dict[str, type[Talk]] = {
    "openai-chat": ChatTalk,
    "openai-responses": ResponsesTalk,
    "anthropic": AnthropicTalk,
    "google": GoogleTalk,
    "boto3": BedrockTalk,
    "cohere": CohereTalk,
    "langchain-openai": LangChainOpenAITalk,
    "langchain-responses": LangChainResponsesTalk,
    "langchain-anthropic": LangChainAnthropicTalk,
}
pytestmark = [pytest.mark.parametrize("sdk", TALKS), pytest.mark.parametrize("wire", WIRES)]
Begin = Callable[..., Talk]
IMAGE = b"\xfb\xff\xbf" * 40


@pytest.fixture(scope="session")
def clients(gateway: Gateway, api_key: str) -> Iterator[dict[str, Any]]:
    made = {sdk: talk.connect(gateway.url, api_key) for sdk, talk in TALKS.items()}
    yield made
    for sdk, client in made.items():
        TALKS[sdk].disconnect(client)


@pytest.fixture
def begin(clients: dict[str, Any], sdk: str, wire: str) -> Begin:
    """Begins a conversation of the SDK with a model behind the wire."""
    return lambda model, **wanted: TALKS[sdk](clients[sdk], f"{wire}/{model}", Wanted(**wanted))


def ask_both_ways(begin: Begin, model: str, **wanted: Any) -> Told:
    """The answer, which is the same plain and added up from its stream."""
    told = []
    for stream in (False, True):
        talk = begin(model, **wanted)
        talk.say("Hello there.")
        told.append(talk.answer(stream=stream))
    assert told[0] == told[1]
    return told[0]


def test_a_stream_adds_up_to_the_plain_answer(begin: Begin) -> None:
    told = ask_both_ways(begin, "sim/tokens@12")
    assert len(told.text.split()) == 12
    assert (told.calls, told.finish, told.written) == ([], "stop", 12)
    assert told.read >= 4


def test_thoughts_and_their_tokens_are_told(begin: Begin, sdk: str) -> None:
    told = ask_both_ways(begin, "sim/think@7+tokens@5", thoughts=True)
    assert len(told.text.split()) == 5 and len(told.thoughts.split()) == (
        7 if TALKS[sdk].shows_thoughts else 0
    )
    assert (told.finish, told.written) == ("stop", 12)


def test_an_answer_ends_at_its_limit(begin: Begin) -> None:
    told = ask_both_ways(begin, "sim/words", limit=16)
    assert (told.finish, told.written, len(told.text.split())) == ("length", 16, 16)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("thoughts", [False, True], ids=["", "thinking"])
def test_tools_are_called_over_three_turns(begin: Begin, stream: bool, thoughts: bool) -> None:
    talk = begin(
        "sim/tools+think+tokens@9" if thoughts else "sim/tools+tokens@9", tools=True, thoughts=thoughts
    )
    for question in ("How is it in Rome?", "And in Oslo?"):
        talk.say(question)
        called = talk.answer(stream=stream)
        assert [name for name, _ in called.calls] == ["weather", "clock"]
        assert set(called.calls[0][1]) == {"city", "days"} and called.calls[1][1] == {}
        assert called.finish == "tool_calls" and bool(called.thoughts) is (thoughts and talk.shows_thoughts)
        talk.give_results()
        told = talk.answer(stream=stream)
        assert len(told.text.split()) == 9 and (told.calls, told.finish) == ([], "stop")
    talk.say("Thank you.")
    assert talk.answer(stream=stream).finish == "tool_calls"


def converse(talk: Talk) -> list[str]:
    said = []
    for stream, words in ((False, "One."), (True, "Two."), (False, "Three.")):
        talk.say(words)
        said.append(talk.answer(stream=stream).text)
    return said


@pytest.fixture(scope="session")
def said_directly(simulator: Simulator) -> list[str]:
    """What the simulator says to a conversation that reached it without a gateway."""
    client = ChatTalk.connect(simulator.url, "anything")
    said = converse(ChatTalk(client, "sim/words@9", Wanted()))
    client.close()
    return said


def test_a_conversation_reaches_every_provider_as_it_was_said(begin: Begin, said_directly: list[str]) -> None:
    assert converse(begin("sim/words@9")) == said_directly


def test_a_stop_sequence_ends_an_answer(begin: Begin, wire: str) -> None:
    whole = begin("sim/words@30")
    if not whole.has_stops:
        pytest.skip("the SDK has no word for it")
    whole.say("Hello there.")
    text = whole.answer(stream=False).text
    stop = " ".join(text.split()[10:12])
    told = ask_both_ways(begin, "sim/words@30", stops=(stop,))
    # Responses have no word for it: the header x-loss says so.
    heard = text if wire == "responses" else text[: text.index(stop)].rstrip()
    assert (told.text.rstrip(), told.finish) == (heard, "stop")


def test_an_image_arrives(begin: Begin) -> None:
    talk = begin("sim/tokens@3")
    talk.say("What is this?", IMAGE)
    assert talk.answer(stream=False).read >= 85


def test_an_answer_keeps_to_a_schema(begin: Begin) -> None:
    talk = begin("sim/json")
    talk.say("Make a plan.")
    assert isinstance(talk.parse(), Plan)


# --- errors

REFUSALS = {
    "sim/400": 400,
    "sim/context-length": 400,
    "sim/content-filter": 400,
    "sim/500": 502,
    "sim/503": 503,
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_refusal_is_the_sdk_s_own_error(begin: Begin, stream: bool) -> None:
    for model, status in REFUSALS.items():
        talk = begin(model)
        talk.say("Hello there.")
        with pytest.raises(talk.find_error(status)) as caught:
            talk.answer(stream=stream)
        assert talk.read_status(caught.value) == status, model
        assert talk.find_request_id(caught.value), model
        assert len(str(caught.value)) > 20, model


@pytest.mark.parametrize("model", ["sim/error-in-stream@5", "sim/cut@5", "sim/cut-clean@5"])
def test_an_error_inside_a_stream_is_raised(begin: Begin, model: str) -> None:
    talk = begin(f"{model}+tokens@9+chunk-ms@4")
    talk.say("Hello there.")
    with pytest.raises(talk.broken) as caught:
        talk.answer(stream=True)
    assert len(str(caught.value)) > 10
