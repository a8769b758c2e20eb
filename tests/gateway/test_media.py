"""Images and speech through the whole gateway: passed as they come, priced by their units."""

import json
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.gateway.replay import JSON, SSE, Replay, Script, replaying
from tests.harness import ADMIN_KEY, Gateway, running, write_files

PROVIDER = """
provider: studio
format: openai-chat
base_url: URL
auth: {bearer: key-of-studio}
allow_private: true
passthrough: true
unknown_price: {input: "1", output: "10", per_image: "0.02", per_character: "0.001", per_second: "0.0001"}
endpoints:
  images: {format: openai-images}
  speech: {format: openai-speech}
"""
POLICY = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, min_requests: 1000}
"""
MODELS = """
models:
  picture:
    price: {per_image: "0.02"}
    targets: [{provider: studio, model: away}, {provider: studio, model: here}]
  painter:
    capabilities: [images]
    price: {per_image: "0.02"}
    targets: [{provider: studio, model: here}]
  voice:
    capabilities: [speech]
    price: {per_character: "0.001"}
    targets: [{provider: studio, model: away}, {provider: studio, model: here}]
"""
PICTURES = {"created": 1, "data": [{"b64_json": "aGk="}, {"b64_json": "aG8="}]}
SOUND = bytes(range(256)) * 300


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    files = {
        "policies.d/default.yaml": POLICY,
        "models.d/media.yaml": MODELS,
        "providers.d/studio.yaml": PROVIDER.replace("URL", upstream.url),
    }
    started = Gateway(write_files(tmp_path_factory.mktemp("media"), files))
    with running(started):
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as official:
        yield official


@pytest.fixture(autouse=True)
def forget(upstream: Replay) -> None:
    upstream.requests.clear()
    upstream.scripts["away"] = Script(b'{"error": {"message": "down"}}', JSON, status=503)


def test_images_are_charged_by_the_image_wherever_they_were_made(
    upstream: Replay, gateway: Gateway, client: openai.OpenAI
) -> None:
    upstream.scripts["here"] = Script(json.dumps(PICTURES).encode(), JSON)
    raw = client.images.with_raw_response.generate(model="picture", prompt="a cat", n=2, size="1024x1024")
    assert [image.b64_json for image in raw.parse().data or []] == ["aGk=", "aG8="]
    assert (raw.headers["x-attempts"], raw.headers["x-cost-usd"]) == ("2", "0.04")
    head, body = upstream.requests[-1]
    assert head.startswith(b"POST /images/generations HTTP/1.1\r\n")
    assert json.loads(body) == {"model": "here", "prompt": "a cat", "n": 2, "size": "1024x1024"}
    record = gateway.find_record(raw.headers["x-request-id"])
    assert record["tokens"] == {"input": 0, "output": 0, "images": 2}


def test_a_streamed_image_is_charged_by_the_tokens_that_it_reports(
    upstream: Replay, gateway: Gateway, client: openai.OpenAI
) -> None:
    events = [
        {"type": "image_generation.partial_image", "b64_json": "aA==", "partial_image_index": 0},
        {
            "type": "image_generation.completed",
            "b64_json": "aGk=",
            "usage": {"input_tokens": 5, "output_tokens": 7},
        },
    ]
    text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    upstream.scripts["one"] = Script(text.encode())
    raw = client.images.with_raw_response.generate(model="studio/one", prompt="a cat", stream=True)
    assert [event.b64_json for event in raw.parse()] == ["aA==", "aGk="]
    record = gateway.find_record(raw.headers["x-request-id"])
    assert (record["tokens"]["input"], record["tokens"]["image_output"]) == (5, 7)


def test_sound_is_passed_byte_for_byte_with_its_media_type_and_charged_by_the_character(
    upstream: Replay, gateway: Gateway, client: openai.OpenAI
) -> None:
    upstream.scripts["here"] = Script(SOUND, "audio/mpeg", pieces=4096)
    answer = client.audio.speech.create(model="voice", voice="alloy", input="Hallo Welt")
    assert answer.read() == SOUND
    assert answer.response.headers["content-type"] == "audio/mpeg"
    record = gateway.find_record(answer.response.headers["x-request-id"])
    assert (record["tokens"]["characters"], record["cost_usd"], record["status"]) == (10, "0.01", "ok")
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["503", "ok"]


def test_sound_that_breaks_off_is_not_presented_as_whole(upstream: Replay, gateway: Gateway) -> None:
    upstream.scripts["one"] = Script(SOUND, "audio/mpeg", cut=1000)
    with gateway.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/audio/speech", json={"model": "studio/one", "input": "hi", "voice": "alloy"})


def test_an_empty_sound_goes_on_at_the_next_provider_and_a_refusal_keeps_its_status(
    upstream: Replay, gateway: Gateway
) -> None:
    upstream.scripts["away"] = Script(b"", "audio/mpeg")
    upstream.scripts["here"] = Script(SOUND, "audio/mpeg")
    upstream.scripts["one"] = Script(b'{"error": {"message": "no such voice"}}', JSON, status=400)
    with gateway.client() as client:
        answer = client.post("/v1/audio/speech", json={"model": "voice", "input": "hi", "voice": "alloy"})
        refused = client.post("/v1/audio/speech", json={"model": "studio/one", "input": "hi", "voice": "x"})
    assert answer.content == SOUND and answer.headers["x-attempts"] == "2"
    assert refused.status_code == 400 and "no such voice" in refused.json()["error"]["message"]


def test_sound_in_events_is_charged_by_the_tokens_that_they_report(
    upstream: Replay, gateway: Gateway
) -> None:
    events = [
        {"type": "speech.audio.delta", "audio": "aGk="},
        {"type": "speech.audio.done", "usage": {"input_tokens": 3, "output_tokens": 20, "total_tokens": 23}},
    ]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    upstream.scripts["one"] = Script(text.encode(), SSE)
    question = {"model": "studio/one", "input": "hi", "voice": "alloy", "stream_format": "sse"}
    with gateway.client() as client:
        answer = client.post("/v1/audio/speech", json=question)
    assert answer.text == text and answer.headers["content-type"] == SSE
    tokens = gateway.find_record(answer.headers["x-request-id"])["tokens"]
    assert (tokens["input"], tokens["audio_output"], tokens["characters"]) == (3, 20, 2)


def test_a_model_that_is_for_something_else_is_not_found_and_those_that_would_do_are_named(
    upstream: Replay, gateway: Gateway
) -> None:
    with gateway.client() as client:
        told = client.post("/v1/images/generations", json={"model": "voice", "prompt": "a cat"})
        spoken = client.post("/v1/audio/speech", json={"model": "painter", "input": "hi"})
    assert (told.status_code, told.json()["error"]["code"]) == (404, "model_not_found")
    assert "'painter'" in told.text and "'voice' would" in spoken.text
    assert upstream.requests == []
