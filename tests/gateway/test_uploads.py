"""Forms through the whole gateway: passed on as they arrive, changed where they must be, never held whole in memory."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.gateway.form_upstream import FormUpstream, Seen
from tests.harness import ADMIN_KEY, Gateway, running, write_files

PROVIDER = """
provider: NAME
format: openai-chat
base_url: URL
auth: {bearer: key-of-NAME}
allow_private: true
passthrough: true
unknown_price: {input: "1", output: "10", per_image: "0.02", per_second: "0.001"}
params: {drop: [language]}
endpoints:
  transcriptions: {format: openai-transcriptions}
  translations: {format: openai-translations}
  image_edits: {format: openai-image-edits}
"""
POLICY = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, min_requests: 1000}
"""
MODELS = """
models:
  ears:
    price: {per_second: "0.001"}
    targets: [{provider: studio, model: away}, {provider: studio, model: here}]
"""
MIB = 1024 * 1024
TRANSCRIPTIONS = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FormUpstream]:
    with FormUpstream() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(upstream: FormUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    files = {
        "policies.d/default.yaml": POLICY,
        "models.d/ears.yaml": MODELS,
        "providers.d/studio.yaml": PROVIDER.replace("NAME", "studio").replace("URL", upstream.url),
    }
    started = Gateway(write_files(tmp_path_factory.mktemp("uploads"), files))
    with running(started):
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as official:
        yield official


@pytest.fixture(autouse=True)
def forget(upstream: FormUpstream) -> None:
    upstream.seen.clear()
    upstream.answers.clear()
    upstream.answers["away"] = (503, "application/json", b'{"error": {"message": "down"}}')


def answer(upstream: FormUpstream, model: str, body: object, media_type: str = "application/json") -> None:
    upstream.answers[model] = (
        200,
        media_type,
        body if isinstance(body, bytes) else json.dumps(body).encode(),
    )


def test_the_official_client_gets_a_transcript_that_is_charged_by_the_second(
    upstream: FormUpstream, gateway: Gateway, client: openai.OpenAI
) -> None:
    answer(upstream, "here", {"text": "hello", "usage": {"type": "duration", "seconds": 7}})
    raw = client.audio.transcriptions.with_raw_response.create(
        model="ears", file=("a.mp3", b"\x00\r\n--sound"), language="de", prompt="names"
    )
    assert raw.parse().text == "hello"
    assert (raw.headers["x-attempts"], raw.headers["x-cost-usd"]) == ("2", "0.007")
    first, second = upstream.seen
    assert (first.fields["model"], second.fields["model"]) == ("away", "here")
    assert second.fields == {"model": "here", "prompt": "names"}  # the language was dropped, as declared
    assert second.sizes == {"file": 10} and second.path == "/audio/transcriptions"
    assert gateway.find_record(raw.headers["x-request-id"])["tokens"]["seconds"] == 7


def test_a_transcript_that_is_text_is_passed_and_its_seconds_are_estimated(
    upstream: FormUpstream, gateway: Gateway, client: openai.OpenAI
) -> None:
    answer(upstream, "one", b"hello", "text/plain; charset=utf-8")
    raw = client.audio.transcriptions.with_raw_response.create(
        model="studio/one", file=("a.mp3", bytes(160_000)), response_format="text"
    )
    assert raw.text == "hello"
    record = gateway.find_record(raw.headers["x-request-id"])
    assert 10 <= record["tokens"]["seconds"] < 10.1 and record["usage_source"] == "estimated"


def test_a_streamed_transcript_is_charged_by_the_tokens_that_it_reports(
    upstream: FormUpstream, gateway: Gateway, client: openai.OpenAI
) -> None:
    usage = {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": {"audio_tokens": 14},
        "output_tokens": 2,
    }
    events = [
        {"type": "transcript.text.delta", "delta": "hello"},
        {"type": "transcript.text.done", "text": "hello", "usage": usage},
    ]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    answer(upstream, "one", text.encode(), "text/event-stream")
    raw = client.audio.transcriptions.with_raw_response.create(
        model="studio/one", file=("a.mp3", b"sound"), stream=True
    )
    assert [event.type for event in raw.parse()] == ["transcript.text.delta", "transcript.text.done"]
    tokens = gateway.find_record(raw.headers["x-request-id"])["tokens"]
    assert (tokens["audio_input"], tokens["output"]) == (14, 2)


def test_translations_and_edits_of_images_are_forms_too(
    upstream: FormUpstream, gateway: Gateway, client: openai.OpenAI
) -> None:
    answer(upstream, "one", {"text": "hello"})
    told = post(gateway, form(field("model", "studio/one"), file(10)), "/v1/audio/translations")
    assert told.json() == {"text": "hello"}
    answer(upstream, "two", {"created": 1, "data": [{"b64_json": "aGk="}]})
    edit = client.images.with_raw_response.edit(
        model="studio/two", prompt="more", image=[("a.png", b"1"), ("b.png", b"22")], n=1
    )
    assert edit.headers["x-cost-usd"] == "0.02"
    assert [seen.path for seen in upstream.seen] == ["/audio/translations", "/images/edits"]
    assert upstream.seen[-1].fields["prompt"] == "more"


def form(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def field(name: str, value: str) -> bytes:
    return f'content-disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()


def file(size: int) -> bytes:
    return b'content-disposition: form-data; name="file"; filename="f"\r\n\r\n' + bytes(size)


def post(gateway: Gateway, body: bytes | Iterator[bytes], path: str = TRANSCRIPTIONS) -> httpx.Response:
    with gateway.client() as plain:
        return plain.post(path, content=body, headers={"content-type": "multipart/form-data; boundary=b"})


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_file_may_stand_before_the_model_and_is_kept_for_the_next_provider(
    upstream: FormUpstream, gateway: Gateway, size: int
) -> None:
    answer(upstream, "here", {"text": "hello"})
    told = post(gateway, form(file(size), field("model", "ears"), field("prompt", "p")))
    assert told.json() == {"text": "hello"}, told.text
    assert [seen.fields["model"] for seen in upstream.seen] == ["away", "here"]
    assert upstream.seen[-1].sizes == {"file": size} and upstream.seen[-1].fields["prompt"] == "p"
    assert upstream.seen[-1].length is not None


def test_a_large_form_that_has_begun_to_flow_is_asked_once_only(
    upstream: FormUpstream, gateway: Gateway
) -> None:
    answer(upstream, "here", {"text": "hello"})
    told = post(gateway, form(field("model", "ears"), file(3 * MIB)))
    assert told.status_code in (502, 503), told.text
    assert [seen.fields["model"] for seen in upstream.seen] == ["away"]
    answer(upstream, "away", {"text": "whole"})
    assert post(gateway, form(field("model", "ears"), file(3 * MIB))).json() == {"text": "whole"}


def test_a_second_model_behind_the_file_is_refused(upstream: FormUpstream, gateway: Gateway) -> None:
    answer(upstream, "one", {"text": "hello"})
    told = post(gateway, form(field("model", "studio/one"), file(3 * MIB), field("model", "dear")))
    assert told.status_code == 400 and "once" in told.text
    assert not any(seen.whole for seen in upstream.seen)


def test_what_is_no_form_is_refused(gateway: Gateway) -> None:
    with gateway.client() as plain:
        wrong = plain.post("/v1/audio/transcriptions", json={"model": "ears"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert post(gateway, form(file(10))).json()["error"]["param"] == "model"
    assert post(gateway, form(field("model", "ears"))[:-8]).status_code == 400


def test_a_client_that_leaves_in_its_form_takes_the_upstream_along(
    upstream: FormUpstream, gateway: Gateway
) -> None:
    answer(upstream, "one", {"text": "hello"})
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN_KEY}\r\n"
        "content-type: multipart/form-data; boundary=b\r\ncontent-length: 9999999\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(head.encode() + form(field("model", "studio/one"), file(2 * MIB))[:-9])
        wait_for(upstream, lambda seen: True)
    wait_for(upstream, lambda seen: seen.gone)


def wait_for(upstream: FormUpstream, fact: Callable[[Seen], bool]) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if upstream.seen and fact(upstream.seen[-1]):
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_memory_stays_flat_under_a_form_of_200_mib(upstream: FormUpstream, gateway: Gateway) -> None:
    answer(upstream, "one", {"text": "hello"})

    def body() -> Iterator[bytes]:
        yield b"--b\r\n" + field("model", "studio/one") + b"\r\n--b\r\n" + file(0)
        for _ in range(200):
            yield bytes(MIB)
        yield b"\r\n--b--\r\n"

    family = find_family(gateway.process.pid)
    before = sum(map(read_peak_mib, family))
    assert post(gateway, body()).json() == {"text": "hello"}
    assert upstream.seen[-1].sizes == {"file": 200 * MIB} and upstream.seen[-1].length is None
    assert sum(map(read_peak_mib, family)) - before < 40, "the form was held in memory"


def find_family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in find_family(int(child)))]


def read_peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)
