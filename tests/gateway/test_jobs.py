"""Images from providers that take a request as a job: waited for, ended when nobody waits, asked at home only."""

import base64
import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from engine.wire.forms import FormReader, read_boundary
from tests.gateway.job_upstream import JobUpstream
from tests.harness import ADMIN_KEY, Gateway, running, write_files

PROVIDER = """
provider: NAME
format: {extends: FORMAT, poll: {every_s: 0.05, give_up_s: 1.5}}
base_url: URL
auth: {header: {name: Authorization, value: Key secret-of-NAME}}
allow_private: true
passthrough: true
unknown_price: {per_image: "0.03"}
"""
PREDICTS = """
provider: predicts
format: vertex-images
base_url: URL
auth: none
allow_private: true
passthrough: true
unknown_price: {per_image: "0.03"}
"""
FORMS = """
provider: forms
format: stability-images
base_url: URL/v2beta
auth: {bearer: key-of-forms}
headers: {accept: application/json}
allow_private: true
passthrough: true
unknown_price: {per_image: "0.03"}
params: {drop: [style_preset]}
"""
POLICY = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, min_requests: 1000}
"""
MODELS = """
models:
  brush:
    capabilities: [images]
    price: {per_image: "0.03"}
    targets: [{provider: queue, model: a/broken}, {provider: queue, model: a/good}]
"""
JOB = {
    "status": "IN_QUEUE",
    "request_id": "r1",
    "status_url": "{url}/a/requests/r1/status?x=1",
    "response_url": "{url}/a/requests/r1",
    "cancel_url": "{url}/a/requests/r1/cancel",
}
STATUS = ("GET", "/a/requests/r1/status?x=1")
RESULT = ("GET", "/a/requests/r1")
CANCEL = ("PUT", "/a/requests/r1/cancel")
PICTURES = {"images": [{"url": "{url}/files/1.png", "content_type": "image/png"}], "seed": 1}


@pytest.fixture(scope="module")
def upstream() -> Iterator[JobUpstream]:
    with JobUpstream() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(upstream: JobUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    files = {"policies.d/default.yaml": POLICY, "models.d/brush.yaml": MODELS}
    for name, form in (("queue", "fal-queue"), ("lab", "replicate-images")):
        files[f"providers.d/{name}.yaml"] = (
            PROVIDER.replace("NAME", name).replace("FORMAT", form).replace("URL", upstream.url)
        )
    files["providers.d/forms.yaml"] = FORMS.replace("URL", upstream.url)
    files["providers.d/predicts.yaml"] = PREDICTS.replace("URL", upstream.url)
    started = Gateway(write_files(tmp_path_factory.mktemp("jobs"), files))
    with running(started):
        yield started


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as official:
        yield official


@pytest.fixture(autouse=True)
def lay_down(upstream: JobUpstream) -> None:
    upstream.seen.clear()
    upstream.answers.clear()
    upstream.answers |= {
        ("POST", "/a/good"): [(200, JOB)],
        STATUS: [
            (200, {"status": "IN_QUEUE"}),
            (500, {}),
            (200, {"status": "IN_PROGRESS"}),
            (200, {"status": "COMPLETED"}),
        ],
        RESULT: [(200, PICTURES)],
        CANCEL: [(202, {"status": "CANCELLATION_REQUESTED"})],
        ("GET", "/files/1.png"): [(200, b"picture")],
    }


def test_a_job_is_waited_for_and_charged_by_the_image(
    upstream: JobUpstream, gateway: Gateway, client: openai.OpenAI
) -> None:
    raw = client.images.with_raw_response.generate(model="queue/a/good", prompt="a cat", n=1, size="1024x512")
    image = (raw.parse().data or [])[0]
    assert image.url == f"{upstream.url}/files/1.png" and image.b64_json is None
    assert raw.headers["x-cost-usd"] == "0.03"
    assert upstream.asked("POST", "/a/good") == [
        {"prompt": "a cat", "num_images": 1, "image_size": {"width": 1024, "height": 512}}
    ]
    assert len(upstream.asked(*STATUS)) == 4 and not upstream.asked(*CANCEL)
    assert all(headers["authorization"] == "Key secret-of-queue" for *_, headers in upstream.seen)
    record = gateway.find_record(raw.headers["x-request-id"])
    assert (record["tokens"]["images"], record["provider"]) == (1, "queue")


def test_who_wants_the_image_itself_gets_it_fetched_without_a_credential(
    upstream: JobUpstream, client: openai.OpenAI
) -> None:
    answer = client.images.generate(model="queue/a/good", prompt="a cat", response_format="b64_json")
    assert base64.b64decode((answer.data or [])[0].b64_json or "") == b"picture"
    ((*_, headers),) = [seen for seen in upstream.seen if seen[1] == "/files/1.png"]
    assert "authorization" not in headers


def test_an_image_elsewhere_in_the_clear_is_not_fetched(upstream: JobUpstream, gateway: Gateway) -> None:
    upstream.answers[RESULT] = [(200, {"images": [{"url": "http://127.0.0.1:9/secret"}]})]
    told = paint(gateway, "queue/a/good", response_format="b64_json")
    assert told.status_code == 502 and "cannot be fetched" in told.text


def paint(gateway: Gateway, model: str, **more: object) -> httpx.Response:
    with gateway.client() as plain:
        return plain.post("/v1/images/generations", json={"model": model, "prompt": "a cat", **more})


def test_a_job_that_fails_goes_on_at_the_next_provider(upstream: JobUpstream, gateway: Gateway) -> None:
    broken = {name: str(value).replace("r1", "r2") for name, value in JOB.items()}
    upstream.answers[("POST", "/a/broken")] = [(200, broken)]
    upstream.answers[("GET", "/a/requests/r2/status?x=1")] = [(200, {"status": "COMPLETED"})]
    upstream.answers[("GET", "/a/requests/r2")] = [(500, {"detail": "the runner died"})]
    told = paint(gateway, "brush")
    assert told.status_code == 200, told.text
    assert told.headers["x-attempts"] == "2"


def test_a_result_that_is_a_refusal_keeps_its_status_and_words(
    upstream: JobUpstream, gateway: Gateway
) -> None:
    upstream.answers[RESULT] = [
        (422, {"detail": [{"loc": ["body"], "msg": "prompt is too odd", "type": "v"}]})
    ]
    told = paint(gateway, "queue/a/good")
    assert told.status_code == 422 and "prompt is too odd" in told.text


def test_a_job_that_takes_too_long_is_ended(upstream: JobUpstream, gateway: Gateway) -> None:
    upstream.answers[STATUS] = [(200, {"status": "IN_PROGRESS"})]
    told = paint(gateway, "queue/a/good")
    assert told.status_code == 504
    wait_until(lambda: bool(upstream.asked(*CANCEL)))


def test_a_job_whose_client_left_is_ended(upstream: JobUpstream, gateway: Gateway) -> None:
    upstream.answers[STATUS] = [(200, {"status": "IN_PROGRESS"})]
    with gateway.client() as plain, pytest.raises(httpx.ReadTimeout):
        plain.post("/v1/images/generations", json={"model": "queue/a/good", "prompt": "x"}, timeout=0.5)
    wait_until(lambda: bool(upstream.asked(*CANCEL)), within_s=1.0)


def wait_until(fact: Callable[[], bool], within_s: float = 5.0) -> None:
    until = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_a_job_at_another_host_is_not_asked_for(upstream: JobUpstream, gateway: Gateway) -> None:
    upstream.answers[("POST", "/a/good")] = [(200, {**JOB, "status_url": "http://127.0.0.1:9/steal"})]
    told = paint(gateway, "queue/a/good")
    assert told.status_code == 502 and "another host" in told.text


def test_a_prediction_is_its_own_result(upstream: JobUpstream, gateway: Gateway) -> None:
    job = {
        "id": "p1",
        "status": "starting",
        "output": None,
        "urls": {"get": "{url}/predictions/p1", "cancel": "{url}/c"},
    }
    done = {
        **job,
        "status": "succeeded",
        "output": ["{url}/1.png", "{url}/2.png"],
        "metrics": {"image_count": 2},
    }
    upstream.answers[("POST", "/models/b/c/predictions")] = [(201, job)]
    upstream.answers[("GET", "/predictions/p1")] = [(200, job), (200, done)]
    told = paint(gateway, "lab/b/c", size="1792x1024", n=2)
    assert [row["url"] for row in told.json()["data"]] == [f"{upstream.url}/1.png", f"{upstream.url}/2.png"]
    assert upstream.asked("POST", "/models/b/c/predictions") == [
        {"input": {"prompt": "a cat", "num_outputs": 2, "aspect_ratio": "16:9"}}
    ]
    assert told.headers["x-cost-usd"] == "0.06"
    upstream.answers[("GET", "/predictions/p1")] = [
        (200, {**job, "status": "failed", "error": "NSFW content"})
    ]
    refused = paint(gateway, "lab/b/c")
    assert "NSFW" in refused.text and refused.status_code == 400
    upstream.answers[("POST", "/models/b/c/predictions")] = [(201, done)]  # it was waited for
    assert paint(gateway, "lab/b/c").status_code == 200


def test_predictions_of_images_are_bytes_and_become_data_urls_where_urls_are_wanted(
    upstream: JobUpstream, gateway: Gateway
) -> None:
    path = "/publishers/google/models/imagen:predict"
    upstream.answers[("POST", path)] = [
        (200, {"predictions": [{"bytesBase64Encoded": "aGk=", "mimeType": "image/png"}]})
    ]
    told = paint(gateway, "predicts/imagen", n=1, size="1024x1792")
    assert told.json()["data"] == [{"b64_json": "aGk="}], told.text
    assert upstream.asked("POST", path) == [
        {"instances": [{"prompt": "a cat"}], "parameters": {"sampleCount": 1, "aspectRatio": "9:16"}}
    ]
    linked = paint(gateway, "predicts/imagen", response_format="url")
    assert linked.json()["data"] == [{"url": "data:image/png;base64,aGk="}]


def test_a_provider_that_takes_forms_is_asked_with_one(upstream: JobUpstream, gateway: Gateway) -> None:
    path = "/v2beta/stable-image/generate/sd3"
    upstream.answers[("POST", path)] = [(200, {"image": "aGk=", "finish_reason": "SUCCESS", "seed": 1})]
    told = paint(gateway, "forms/sd3.5-large", size="1024x1536", style="anime", seed=7, n=2)
    assert told.json()["data"] == [{"b64_json": "aGk="}], told.text
    assert (told.headers["x-cost-usd"], told.headers["x-loss"]) == ("0.03", "/n")
    ((_, _, body, headers),) = upstream.seen
    assert headers["accept"] == "application/json"
    boundary = read_boundary(headers["content-type"])
    assert boundary is not None
    form = FormReader(boundary)
    form.feed(body)
    assert form.ended and form.as_request() == {
        "model": "sd3.5-large",
        "prompt": "a cat",
        "aspect_ratio": "2:3",
        "seed": "7",
    }
    refusal = {"id": "e", "name": "content_moderation", "errors": ["your prompt was flagged"]}
    upstream.answers[("POST", path)] = [(403, refusal)]
    refused = paint(gateway, "forms/sd3.5-large")
    assert "flagged" in refused.text and refused.status_code == 400
