"""The official client's images and sound through the whole gateway, with the simulator as the provider."""

from collections.abc import Iterator

import openai
import pytest

from tests.harness import ADMIN_KEY, Gateway, running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    started = Gateway(tmp_path_factory.mktemp("media"))
    with running(started):
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as official:
        yield official


def test_images_are_made_as_base64_as_addresses_and_as_a_stream(client: openai.OpenAI) -> None:
    plain = client.images.generate(model="sim/echo", prompt="a cat", n=2)
    assert len(plain.data or []) == 2 and all(image.b64_json for image in plain.data or [])
    linked = client.images.generate(model="sim/echo", prompt="a cat", response_format="url")
    assert (linked.data or [])[0].url
    events = list(client.images.generate(model="sim/echo", prompt="a cat", stream=True, partial_images=1))
    assert events[-1].type == "image_generation.completed" and events[-1].b64_json


def test_an_image_is_changed(client: openai.OpenAI) -> None:
    edited = client.images.edit(model="sim/echo", prompt="a hat", image=("a.png", b"\x89PNG"))
    assert (edited.data or [])[0].b64_json


def test_sound_is_made_and_written_down(gateway: Gateway, client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="sim/echo", voice="alloy", input="Hello there"
    ) as spoken:
        sound = b"".join(spoken.iter_bytes())
        assert spoken.headers["content-type"].startswith("audio/")
    assert sound
    assert gateway.find_record(spoken.headers["x-request-id"])["tokens"]["characters"] == 11
    heard = client.audio.transcriptions.create(model="sim/echo", file=("a.mp3", sound), prompt="hello")
    assert "hello" in heard.text
    lines = client.audio.transcriptions.create(model="sim/echo", file=("a.mp3", sound), response_format="srt")
    assert "-->" in str(lines)
    streamed = list(client.audio.transcriptions.create(model="sim/echo", file=("a.mp3", sound), stream=True))
    assert streamed[-1].type == "transcript.text.done"


def test_a_refusal_is_the_clients_own_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.images.generate(model="sim/echo", prompt="")
