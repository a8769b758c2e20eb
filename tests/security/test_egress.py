"""A provider's credential goes to its provider and to nobody else, and no client chooses where the gateway connects."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.gateway.job_upstream import JobUpstream
from tests.gateway.keyed_upstream import KeyedUpstream, Saying
from tests.harness import Gateway, running, write_files

SECRET, SECOND = "sk-home-1234567890abcdef", "sk-away-1234567890abcdef"
CHAT = "/v1/chat/completions"
FILES = {
    "gateway.yaml": "",
    "policies.d/default.yaml": """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, ratio: 1}
""",
    "providers.d/home.yaml": """
provider: home
format: openai-chat
base_url: ${HOME_URL}
allow_private: true
passthrough: true
auth:
  bearer:
    - {key: '${HOME_KEY}', models: [m, moved]}
    - {key: '${SECOND_KEY}', base_url: '${SECOND_URL}', models: [n]}
unknown_price: free
""",
    "providers.d/walled.yaml": """
provider: walled
format: openai-chat
base_url: https://rebind.invalid/v1
auth: {bearer: '${HOME_KEY}'}
""",
    "providers.d/jobs.yaml": """
provider: jobs
extends: fal
base_url: ${JOBS_URL}
allow_private: true
auth: {header: {name: authorization, value: '${HOME_KEY}'}}
""",
    "models.d/mine.yaml": """
models:
  here: {price: {input: "1", output: "2"}, targets: [{provider: home, model: m}]}
  there: {price: {input: "1", output: "2"}, targets: [{provider: home, model: n}]}
  moved: {price: {input: "1", output: "2"}, targets: [{provider: home, model: moved}]}
  picture: {price: {per_image: "1"}, targets: [{provider: jobs, model: fal-ai/flux}]}
""",
}

SEER = """
provider: seer
format: openai-chat
base_url: {url}/v1
allow_private: true
auth: none
passthrough: true
unknown_price: free
"""


class Place:
    """The gateway, the provider, the provider's second address, and somebody who should hear nothing."""

    gateway: Gateway
    home: KeyedUpstream
    second: KeyedUpstream
    thief: JobUpstream
    jobs: JobUpstream

    def chat(self, model: str, **more: object) -> httpx.Response:
        return self.gateway.chat(model, **more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place, folder = Place(), tmp_path_factory.mktemp("egress")
    with ExitStack() as stack:
        place.home = stack.enter_context(KeyedUpstream({}).serving())
        place.second = stack.enter_context(KeyedUpstream({}).serving())
        place.thief = stack.enter_context(JobUpstream())
        place.jobs = stack.enter_context(JobUpstream())
        urls = {
            "HOME_URL": f"{place.home.url}/v1",
            "SECOND_URL": f"{place.second.url}/v1",
            "JOBS_URL": place.jobs.url,
        }
        keys = {"HOME_KEY": SECRET, "SECOND_KEY": SECOND}
        place.gateway = Gateway(write_files(folder, FILES), **urls, **keys)
        stack.enter_context(running(place.gateway))
        yield place


@pytest.fixture(autouse=True)
def nobody_else_was_asked(place: Place) -> Iterator[None]:
    for upstream in (place.home, place.second):
        upstream.keys.clear()
        upstream.rules.clear()
    place.thief.seen.clear()
    yield
    assert not place.thief.seen
    assert set(place.home.keys) <= {SECRET} and set(place.second.keys) <= {SECOND}


def test_a_credential_with_an_address_of_its_own_is_sent_there_only(place: Place) -> None:
    for _ in range(5):
        assert place.chat("here").status_code == 200
        assert place.chat("there").status_code == 200
    assert place.home.keys == [SECRET] * 5 and place.second.keys == [SECOND] * 5


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_is_not_followed(place: Place, status: int, stream: bool) -> None:
    place.home.rules[SECRET] = Saying(status, "{}", {"location": f"{place.thief.url}/v1/chat/completions"})
    answer = place.chat("here", stream=stream)
    assert answer.status_code == 502 and place.home.keys == [SECRET]
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    "where",
    ["{thief}/requests/1", "//{host}/requests/1", "{thief}@127.0.0.1/x", "http://u:p@{host}/requests/1"],
)
def test_a_job_that_is_said_to_be_elsewhere_is_not_asked_for(place: Place, where: str) -> None:
    status = where.format(thief=place.thief.url, host=place.thief.url.removeprefix("http://"))
    job = {
        "request_id": "1",
        "status": "IN_QUEUE",
        "status_url": status,
        "response_url": status,
        "cancel_url": status,
    }
    place.jobs.answers[("POST", "/fal-ai/flux")] = [(200, job)]
    with place.gateway.client() as client:
        answer = client.post("/v1/images/generations", json={"model": "picture", "prompt": "a cat"})
    assert answer.status_code >= 400
    assert place.jobs.asked("POST", "/fal-ai/flux")


def test_a_picture_at_a_private_address_is_not_fetched(place: Place) -> None:
    own = place.jobs.url
    job = {"request_id": "2", "status": "IN_QUEUE", "status_url": f"{own}/s", "response_url": f"{own}/r"}
    place.jobs.answers |= {
        ("POST", "/fal-ai/flux"): [(200, job)],
        ("GET", "/s"): [(200, {**job, "status": "COMPLETED"})],
        ("GET", "/r"): [(200, {"images": [{"url": place.thief.url.replace("http", "https") + "/a.png"}]})],
    }
    body = {"model": "picture", "prompt": "a cat", "response_format": "b64_json"}
    with place.gateway.client() as client:
        answer = client.post("/v1/images/generations", json=body)
    assert answer.status_code == 502


@pytest.mark.parametrize(
    "name",
    [
        "{thief}/v1/m",
        "home/{thief}/v1",
        "home/@{host}/",
        "home//{host}/m",
        "home/../../{host}",
        "home/m#@{host}",
        "home/m?host={host}",
        "home@{host}/m",
        "{host}/m",
        "home/\\\\{host}\\m",
        "home/m\r\nhost: {host}",
        "home/m%0d%0ahost:%20{host}",
        "walled/@{host}",
    ],
)
def test_a_name_of_a_model_chooses_no_host(place: Place, name: str) -> None:
    host = place.thief.url.removeprefix("http://")
    answer = place.chat(name.format(thief=place.thief.url, host=host))
    assert answer.status_code in (200, 400, 404, 502, 503)
    assert "\n" not in answer.headers.get("x-requested-model", "")


@pytest.mark.parametrize(
    "name",
    ["host", "x-forwarded-host", "forwarded", "x-forwarded-server", "x-original-url", "x-rewrite-url", "x-host", "via",
     "x-base-url", "x-api-base", "x-portkey-custom-host", "x-target-url", "proxy-authorization", "x-forwarded-proto"],
)  # fmt: skip
def test_a_header_chooses_no_host(place: Place, name: str) -> None:
    host = place.thief.url.removeprefix("http://")
    value = f"host={host}" if name == "forwarded" else host
    with place.gateway.client() as client:
        body = {"model": "here", "messages": [{"role": "user", "content": "hi"}]}
        answer = client.post(CHAT, json=body, headers={name: value})
        listed = client.get("/v1/models", headers={name: value})
    assert answer.status_code == 200 and place.home.keys == [SECRET]
    assert listed.status_code == 200 and host not in listed.text


@pytest.mark.parametrize(
    "name",
    ["api_base", "base_url", "api_key", "custom_llm_provider", "extra_headers", "organization", "proxy"],
)
def test_a_field_or_a_parameter_chooses_no_host(place: Place, name: str) -> None:
    body = {"model": "here", "messages": [{"role": "user", "content": "hi"}], name: place.thief.url}
    nested = {**body, "metadata": {name: place.thief.url}, "extra_body": {name: place.thief.url}}
    with place.gateway.client() as client:
        for sent in (body, nested):
            assert client.post(f"{CHAT}?{name}={place.thief.url}", json=sent).status_code == 200
    assert place.home.keys == [SECRET] * 2


def test_a_user_brings_a_key_and_no_address(place: Place) -> None:
    with place.gateway.client() as client:
        for more in ({"base_url": place.thief.url}, {"api_base": place.thief.url}, {"headers": {}}):
            asked = {"provider_slug": "home", "api_key": "sk-mine-0123456789", **more}
            assert client.post("/user/provider-keys", json=asked).status_code in (400, 403)


def test_nothing_of_a_caller_is_passed_on_but_its_body(place: Place) -> None:
    """Cookies, addresses, keys and agents of a client are nobody else's business."""
    with JobUpstream() as upstream:
        upstream.answers[("POST", "/v1/chat/completions")] = [(500, {"error": {"message": "no"}})]
        folder = place.gateway.folder
        write_files(folder, {"providers.d/seer.yaml": SEER.format(url=upstream.url)})
        with place.gateway.client() as client:
            assert client.post("/admin/config/reload").status_code == 200
            headers = {
                "cookie": "a=b",
                "x-forwarded-for": "192.0.2.7",
                "user-agent": "mine/1",
                "referer": "https://x.org",
            }
            client.post(
                CHAT,
                json={"model": "seer/m", "messages": [{"role": "user", "content": "hi"}]},
                headers=headers,
            )
        (folder / "providers.d/seer.yaml").unlink()
        sent = json.dumps(upstream.seen)
        assert upstream.seen
    assert not any(text in sent for text in ("a=b", "192.0.2.7", "mine/1", "x.org", "gw_test_"))
