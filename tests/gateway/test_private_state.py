"""Claude's and Gemini's signatures survive tool loops and changes of the model, whatever dialect the client speaks.

The simulator knows its own signatures again and refuses others, as the providers do.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.gateway.speakers import SPEAKERS, ChatSpeaker, MessagesSpeaker, Speaker
from tests.gateway.test_routing import create_key
from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files

PROVIDER = """
provider: NAME
format: FORMAT
base_url: URL
auth: {header: {name: x-api-key, value: key-of-NAME}}
allow_private: true
passthrough: true
unknown_price: free
TRAITS
"""
POLICY = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, min_requests: 1000}
"""
TAG = "gwzForeign01"
CLAUDE, GEMINI, OTHER = "claude/sim/tools+think", "gem/sim/tools+think", "other/sim/tools"
RESPONSES, CONVERSE = "resp/sim/tools+think", "rock/sim/tools+think"
SILENT, STAND_IN = "claude/sim/tools", "gem3/sim/tools+think"


def write_config(folder: Path, simulator_url: str) -> Path:
    def provide(name: str, format: str, path: str, traits: str = "") -> str:
        text = PROVIDER.replace("NAME", name).replace("FORMAT", format).replace("TRAITS", traits)
        return text.replace("URL", simulator_url + path)

    return write_files(
        folder,
        {
            "providers.d/claude.yaml": provide(
                "claude", "anthropic-messages", "", "traits: {thinking: budget}"
            ),
            "providers.d/gem.yaml": provide("gem", "gemini", "/v1beta"),
            "providers.d/gem3.yaml": provide(
                "gem3", "gemini", "/v1beta", "traits: {stand_in_signature: skip_thought_signature_validator}"
            ),
            "providers.d/resp.yaml": provide("resp", "openai-responses", "/v1"),
            "providers.d/rock.yaml": provide(
                "rock", "bedrock-converse", "", "traits: {thinking: budget, issuer: rock}"
            ),
            "providers.d/other.yaml": provide("other", "openai-chat", "/v1"),
            "policies.d/default.yaml": POLICY,
        },
    )


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    started = Simulator(tmp_path_factory.mktemp("simulator"))
    with running(started):
        yield started


@pytest.fixture(scope="module")
def gateway(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    started = Gateway(write_config(tmp_path_factory.mktemp("state"), simulator.url))
    with running(started):
        yield started


@pytest.fixture(autouse=True)
def forget(simulator: Simulator) -> None:
    simulator.reset()


def find_last_body(simulator: Simulator, part_of_path: str) -> Any:
    return [call["body"] for call in simulator.list_calls() if part_of_path in call["path"]][-1]


def count_thoughts(simulator: Simulator) -> int:
    """The signed thoughts in the last request to Claude."""
    messages = find_last_body(simulator, "/messages")["messages"]
    blocks = [
        block for message in messages if isinstance(message["content"], list) for block in message["content"]
    ]
    return sum(block["type"] == "thinking" and bool(block["signature"]) for block in blocks)


def count_signed_calls(simulator: Simulator) -> int:
    contents = find_last_body(simulator, "enerateContent")["contents"]
    parts = [part for content in contents for part in content["parts"]]
    return sum("functionCall" in part and bool(part.get("thoughtSignature")) for part in parts)


@pytest.mark.parametrize("speaks", SPEAKERS)
def test_claude_has_its_thoughts_back_over_three_turns(
    gateway: Gateway, simulator: Simulator, speaks: type[Speaker]
) -> None:
    speaker = speaks(gateway.url)
    for turn in range(1, 4):
        speaker.say(f"turn {turn}")
        speaker.ask(CLAUDE)
        assert len(speaker.calls) == 2
        speaker.give_results()
        speaker.ask(CLAUDE)
        assert count_thoughts(simulator) >= turn


@pytest.mark.parametrize("speaks", SPEAKERS)
def test_gemini_has_its_call_signatures_back_over_three_turns(
    gateway: Gateway, simulator: Simulator, speaks: type[Speaker]
) -> None:
    speaker = speaks(gateway.url)
    for turn in range(1, 4):
        speaker.say(f"turn {turn}")
        speaker.ask(GEMINI)
        assert len(speaker.calls) == 2
        speaker.give_results()
        speaker.ask(GEMINI)
        assert count_signed_calls(simulator) == turn


@pytest.mark.parametrize("speaks", SPEAKERS)
def test_openai_has_its_encrypted_reasoning_back_over_three_turns(
    gateway: Gateway, simulator: Simulator, speaks: type[Speaker]
) -> None:
    speaker = speaks(gateway.url)
    for turn in range(1, 4):
        speaker.say(f"turn {turn}")
        speaker.ask(RESPONSES)
        assert len(speaker.calls) == 2
        speaker.give_results()
        speaker.ask(RESPONSES)
        items = find_last_body(simulator, "/responses")["input"]
        sealed = [item for item in items if item.get("type") == "reasoning" and item["encrypted_content"]]
        assert len(sealed) >= turn and all(item["id"].startswith("rs_") for item in sealed)


@pytest.mark.parametrize("speaks", SPEAKERS)
def test_a_provider_may_be_an_issuer_of_its_own(
    gateway: Gateway, simulator: Simulator, speaks: type[Speaker]
) -> None:
    speaker = speaks(gateway.url)
    for turn in range(1, 4):
        speaker.say(f"turn {turn}")
        speaker.ask(CONVERSE)
        speaker.give_results()
        speaker.ask(CONVERSE)
        blocks = [
            block
            for message in find_last_body(simulator, "converse")["messages"]
            for block in message["content"]
        ]
        thoughts = [
            block["reasoningContent"]["reasoningText"] for block in blocks if "reasoningContent" in block
        ]
        assert len([thought for thought in thoughts if thought["signature"]]) >= turn
    speaker.say("now Claude of another house")
    speaker.ask(CLAUDE)
    assert count_thoughts(simulator) == 0


@pytest.mark.parametrize("speaks", SPEAKERS)
def test_the_model_may_change_in_every_turn(
    gateway: Gateway, simulator: Simulator, speaks: type[Speaker]
) -> None:
    speaker = speaks(gateway.url)
    for model in (CLAUDE, GEMINI, RESPONSES, OTHER, CONVERSE, CLAUDE, GEMINI):
        speaker.say(f"now {model}")
        speaker.ask(model)
        assert len(speaker.calls) == 2
        speaker.give_results()
        speaker.ask(model)
    assert count_signed_calls(simulator) == 2
    speaker.say("again")
    speaker.ask(CLAUDE)
    assert count_thoughts(simulator) >= 2
    sent = [call["body"] for call in simulator.list_calls()]
    assert len(sent) == 15 and TAG not in str(sent)


@pytest.mark.parametrize(
    ("first", "second"), [(CLAUDE, OTHER), (GEMINI, OTHER), (CLAUDE, STAND_IN), (GEMINI, SILENT)]
)
@pytest.mark.parametrize("speaks", SPEAKERS)
def test_the_model_may_change_between_a_call_and_its_result(
    gateway: Gateway, simulator: Simulator, speaks: type[Speaker], first: str, second: str
) -> None:
    speaker = speaks(gateway.url)
    speaker.say("go")
    speaker.ask(first)
    speaker.give_results()
    speaker.ask(second)
    assert TAG not in str([call["body"] for call in simulator.list_calls()])


def test_foreign_reasoning_in_a_request_of_the_same_wire_stays_here(
    gateway: Gateway, simulator: Simulator
) -> None:
    speaker = MessagesSpeaker(gateway.url)
    speaker.say("hi")
    speaker.ask(GEMINI)
    speaker.history[-1]["content"].insert(0, {"type": "thinking", "thinking": "", "signature": f"{TAG}AAAA"})
    speaker.give_results()
    speaker.ask(SILENT)
    assert count_thoughts(simulator) == 0 and TAG not in str(find_last_body(simulator, "/messages"))
    assert "/messages/*/content/*" in speaker.loss


def test_a_stream_carries_state_as_a_plain_answer_does(gateway: Gateway, simulator: Simulator) -> None:
    speaker = MessagesSpeaker(gateway.url)
    client = anthropic.Anthropic(api_key=ADMIN_KEY, base_url=gateway.url, max_retries=0)
    for model in (GEMINI, CLAUDE, GEMINI):
        speaker.say("go")
        for _ in range(2):
            with client.messages.stream(**speaker.body(model)) as stream:
                speaker.take(stream.get_final_message().model_dump(exclude_none=True, mode="json"))
            if speaker.calls:
                speaker.give_results()
    assert count_signed_calls(simulator) == 2 and count_thoughts(simulator) == 1


def test_a_streamed_chat_has_its_state_put_back(gateway: Gateway, simulator: Simulator) -> None:
    speaker = ChatSpeaker(gateway.url)
    client = openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0)
    for model in (CLAUDE, GEMINI):
        speaker.say("go")
        for _ in range(2):
            with client.chat.completions.stream(**speaker.body(model)) as stream:
                message: Any = stream.get_final_completion().model_dump(mode="json")
            speaker.take(message)
            speaker.give_results()
    assert count_thoughts(simulator) == 1 and count_signed_calls(simulator) == 1


def test_another_key_never_gets_what_was_kept(gateway: Gateway, simulator: Simulator) -> None:
    speaker = ChatSpeaker(gateway.url, create_key(gateway, "--role", "admin"))
    speaker.say("what only this key has said")  # the simulator gives the same call the same id
    speaker.ask(SILENT)
    speaker.give_results()
    history = list(speaker.history)
    speaker.ask(SILENT)
    assert count_thoughts(simulator) == 1
    speaker.key, speaker.history = ADMIN_KEY, history
    speaker.ask(SILENT)
    assert count_thoughts(simulator) == 0


def test_a_reload_forgets_nothing(gateway: Gateway, simulator: Simulator) -> None:
    speaker = ChatSpeaker(gateway.url)
    speaker.say("go")
    speaker.ask(CLAUDE)
    speaker.give_results()
    with gateway.client() as client:
        assert client.post("/admin/config/reload").status_code == 200
    speaker.ask(CLAUDE)
    assert count_thoughts(simulator) == 1


def test_what_is_kept_survives_a_kill_and_is_known_to_every_worker(
    simulator: Simulator, tmp_path: Path
) -> None:
    folder = write_config(tmp_path, simulator.url)
    speaker = ChatSpeaker("")
    first = Gateway(folder, workers=2)
    with running(first):
        speaker.url = first.url
        speaker.say("go")
        speaker.ask(CLAUDE)
        speaker.give_results()
        history = list(speaker.history)
        await_stored(first)
        for _ in range(8):  # each on a new connection: one worker or the other
            speaker.history = list(history)
            speaker.ask(CLAUDE)
            assert count_thoughts(simulator) == 1
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()
    again = Gateway(folder)
    with running(again):
        speaker.url, speaker.history = again.url, list(history)
        speaker.ask(CLAUDE)
        assert count_thoughts(simulator) == 1
        assert read_count(again, "read") == 1


def read_count(gateway: Gateway, outcome: str) -> int:
    shown = httpx.get(f"{gateway.url}/metrics").text
    found = re.search(rf'gatewayz_provider_state_total\{{outcome="{outcome}"\}} (\d+)', shown)
    return int(found[1]) if found else 0


def await_stored(gateway: Gateway) -> None:
    until = time.monotonic() + 5
    while not read_count(gateway, "stored"):
        assert time.monotonic() < until, "nothing was stored"
        time.sleep(0.05)
