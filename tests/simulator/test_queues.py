"""Work that is fetched later: the addresses in the answers lead to it."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest


@pytest.fixture
def client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as made:
        yield made


def _wait(client: httpx.Client, url: str, *ended: str) -> tuple[list[str], Any]:
    """The stages that were seen, in their order, and the last document."""
    seen: list[str] = []
    for _ in range(200):
        document = client.get(url).json()
        if not seen or seen[-1] != document["status"]:
            seen.append(document["status"])
        if document["status"] in ended:
            return seen, document
        time.sleep(0.02)
    raise AssertionError(seen)


def test_a_queue_tells_where_the_work_is_and_then_what_came_of_it(client: httpx.Client) -> None:
    asked = {"prompt": "a red fox", "num_images": 2}
    began = client.post("/queue/sim/work@300ms", json=asked).json()
    assert began["status"] == "IN_QUEUE"
    assert client.get(began["response_url"]).status_code == 400
    assert _wait(client, began["status_url"], "COMPLETED")[0] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    images = client.get(began["response_url"]).json()["images"]
    assert len(images) == 2
    assert client.get(images[0]["url"]).content.startswith(b"\x89PNG")
    assert [one["url"] for one in client.post("/fal/sim/echo", json=asked).json()["images"]] == [
        one["url"] for one in images
    ]


def test_pictures_can_be_in_the_answer_itself(client: httpx.Client) -> None:
    made = client.post("/fal/sim/echo", json={"prompt": "x", "sync_mode": True}).json()
    assert made["images"][0]["url"].startswith("data:image/png;base64,")


def test_completed_is_not_success(client: httpx.Client) -> None:
    began = client.post("/queue/sim/refuse", json={"prompt": "x"}).json()
    _wait(client, began["status_url"], "COMPLETED")
    result = client.get(began["response_url"])
    assert (result.status_code, list(result.json())) == (422, ["detail"])


def test_work_that_runs_can_be_cancelled_once(client: httpx.Client) -> None:
    began = client.post("/queue/sim/work@9s", json={"prompt": "x"}).json()
    assert client.put(began["cancel_url"]).status_code == 202
    assert client.put(began["cancel_url"]).status_code == 400


def test_errors_of_the_queue_are_details(client: httpx.Client) -> None:
    refused = client.post("/queue/sim/echo", json={})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "prompt"]
    assert client.post("/queue/sim/429", json={"prompt": "x"}).json().keys() == {"detail"}
    assert client.get("/queue/sim/echo/requests/none/status").status_code == 404


def test_a_prediction_ends_with_its_output(client: httpx.Client) -> None:
    began = client.post("/v1/models/sim/tokens@4/predictions", json={"input": {"prompt": "hello there"}})
    assert (began.status_code, began.json()["status"]) == (201, "starting")
    stages, done = _wait(client, began.json()["urls"]["get"], "succeeded")
    assert stages[-1] == "succeeded" and len(done["output"]) == 4
    assert done["metrics"]["output_token_count"] == 4


def test_a_prediction_can_fail_or_be_cancelled(client: httpx.Client) -> None:
    failing = client.post("/v1/predictions", json={"version": "sim/refuse", "input": {}}).json()
    _, failed = _wait(client, failing["urls"]["get"], "failed")
    assert failed["error"] and failed["output"] is None
    running = client.post("/v1/predictions", json={"version": "sim/work@9s", "input": {}}).json()
    client.post(running["urls"]["cancel"])
    assert client.get(running["urls"]["get"]).json()["status"] == "canceled"
    assert client.post("/v1/predictions", json={"version": "sim/echo"}).json()["status"] == 422
