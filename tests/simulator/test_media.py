"""Pictures and sound, by OpenAI's own SDK."""

import base64
import io
import wave
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.simulator.launch import fetch

RECORDING: Any = ("a.wav", b"--\r\n\x00\xff" * 4000, "audio/wav")
PNG = b"\x89PNG\r\n"


@pytest.fixture
async def client(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(api_key="sk-test-1234", base_url=url, max_retries=0) as made:
        yield made


async def test_images_come_as_base64_or_at_an_address(client: openai.AsyncOpenAI) -> None:
    inline: Any = await client.images.generate(model="sim/echo", prompt="a red fox", n=2, size="1024x1024")
    pictures = [base64.b64decode(row.b64_json) for row in inline.data]
    assert pictures[0].startswith(PNG) and pictures[0] != pictures[1]
    assert (inline.usage.input_tokens, inline.usage.output_tokens) == (3, 544)
    placed: Any = await client.images.generate(model="sim/echo", prompt="a red fox", response_format="url")
    async with httpx.AsyncClient() as plain:
        found = await plain.get(placed.data[0].url)
    assert (found.headers["content-type"], found.content) == ("image/png", pictures[0])


async def test_an_edit_is_a_form_and_the_log_shows_its_fields(client: openai.AsyncOpenAI, port: int) -> None:
    images: Any = [("a.png", PNG, "image/png"), ("b.png", PNG, "image/png")]
    made: Any = await client.images.edit(model="sim/echo", prompt="a red fox", image=images)
    assert made.usage.input_tokens == 3 + 2 * 85
    body = fetch(port, "/_sim/calls")["calls"][0]["body"]
    assert (body["prompt"], [one["filename"] for one in body["image"]]) == ("a red fox", ["a.png", "b.png"])


async def test_images_stream_partial_ones_before_the_whole(client: openai.AsyncOpenAI) -> None:
    stream: Any = await client.images.generate(model="sim/echo", prompt="fox", stream=True, partial_images=2)
    events = [event async for event in stream]
    assert [event.type.partition(".")[2] for event in events] == [
        "partial_image",
        "partial_image",
        "completed",
    ]
    assert events[-1].usage.output_tokens == 272


async def test_speech_is_bytes_or_events_of_the_same_sound(client: openai.AsyncOpenAI) -> None:
    asked: Any = {
        "model": "sim/echo",
        "voice": "alloy",
        "input": "one two three four",
        "response_format": "wav",
    }
    sound = (await client.audio.speech.create(**asked)).content
    with wave.open(io.BytesIO(sound)) as opened:
        assert opened.getnframes() / opened.getframerate() == 1.0
    async with client.audio.speech.with_streaming_response.create(**asked, stream_format="sse") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert b"speech.audio.done" in await answer.read()


@pytest.mark.parametrize(
    ("shape", "begins"), [("text", ""), ("srt", "1\n00:00:00,000 --> "), ("vtt", "WEBVTT\n\n")]
)
async def test_transcripts_come_as_text(client: openai.AsyncOpenAI, shape: Any, begins: str) -> None:
    create = client.audio.transcriptions.create
    plain = await create(model="sim/tokens@5", file=RECORDING)
    said: Any = await create(model="sim/tokens@5", file=RECORDING, response_format=shape)
    assert said.startswith(begins) and plain.text in said


async def test_transcripts_come_with_their_seconds_and_as_a_stream(client: openai.AsyncOpenAI) -> None:
    create = client.audio.transcriptions.create
    plain: Any = await create(model="sim/tokens@5", file=RECORDING)
    assert plain.usage.type == "tokens" and plain.usage.output_tokens == 5
    rich: Any = await create(model="sim/tokens@5", file=RECORDING, response_format="verbose_json")
    assert (rich.text, rich.duration, rich.usage.seconds) == (plain.text, 3.0, 3)
    stream: Any = await create(model="sim/tokens@5", file=RECORDING, stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == plain.text


async def test_a_form_without_its_file_is_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'file'"):
        await client.post("/audio/transcriptions", body={"model": "sim/echo"}, cast_to=object)
