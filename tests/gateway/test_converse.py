"""The official SDK of a dialect with binary streams: before its own wire, before another, and failures of both."""

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import boto3
import httpx
import openai
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import EventStreamError

from engine.wire.eventstream import write_eventstream_frame
from tests.gateway.replay import JSON, Replay, Script, replaying
from tests.harness import ADMIN_KEY, Gateway, running, write_files

EVENTS = "application/vnd.amazon.eventstream"
ARN = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.some-1:0"
PROVIDERS = {
    "binary": """
provider: binary
format: bedrock-converse
base_url: URL
auth: {sigv4: {access_key: AKIDEXAMPLE, secret_key: s3cr3t-Canary, region: eu-west-1, service: bedrock}}
allow_private: true
passthrough: true
unknown_price: free
""",
    "chunks": """
provider: chunks
format: openai-chat
base_url: URL
auth: {bearer: key-of-chunks}
allow_private: true
passthrough: true
unknown_price: free
""",
}
POLICY = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, min_requests: 1000}
"""
USAGE = {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}
ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Grüezi"}]}},
    "stopReason": "end_turn",
    "usage": USAGE,
    "metrics": {"latencyMs": 12},
    "trace": {"guardrail": {"modelOutput": ["x"]}},
}


def say(*events: dict[str, Any]) -> bytes:
    return b"".join(write_eventstream_frame(event, None) for event in events)


def add(text: str) -> dict[str, Any]:
    return {"contentBlockDelta": {"delta": {"text": text}, "contentBlockIndex": 0, "p": "abc"}}


BEGIN = say({"messageStart": {"role": "assistant"}}, add("Grü"))
END = say(
    add("ezi"),
    {"contentBlockStop": {"contentBlockIndex": 0}},
    {"messageStop": {"stopReason": "end_turn"}},
    {"metadata": {"usage": USAGE, "metrics": {"latencyMs": 9}, "trace": {}}},
)
SLOW = say({"exception": {"type": "throttlingException", "message": "Too many tokens, please wait"}})


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    files = {
        f"providers.d/{name}.yaml": text.replace("URL", upstream.url) for name, text in PROVIDERS.items()
    }
    files |= {"gateway.yaml": "include: {builtin: false}\n", "policies.d/default.yaml": POLICY}
    started = Gateway(write_files(tmp_path_factory.mktemp("converse"), files))
    with running(started):
        yield started


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[Any]:
    # The SDK sends a bearer key over https alone; here it is put into the request as it leaves.
    made = boto3.client(
        "bedrock-runtime",
        region_name="eu-west-1",
        endpoint_url=gateway.url,
        config=Config(
            retries={"total_max_attempts": 1}, parameter_validation=False, signature_version=UNSIGNED
        ),
    )
    made.meta.events.register("before-send.*", add_key)
    yield made
    made.close()


def add_key(request: Any, **_: Any) -> None:
    request.headers["Authorization"] = f"Bearer {ADMIN_KEY}"


@pytest.fixture(autouse=True)
def forget(upstream: Replay) -> None:
    upstream.requests.clear()


def test_a_client_that_signs_has_its_key_as_the_id_of_its_access_key(
    upstream: Replay, gateway: Gateway
) -> None:
    upstream.scripts["m"] = Script(json.dumps(ANSWER).encode(), JSON)
    with closing(
        boto3.client(
            "bedrock-runtime",
            region_name="eu-west-1",
            endpoint_url=gateway.url,
            aws_access_key_id=ADMIN_KEY,
            aws_secret_access_key="anything",
        )
    ) as client:
        assert client.converse(**ask())["stopReason"] == "end_turn"


def ask(**more: Any) -> dict[str, Any]:
    return {"modelId": "binary/m", "messages": [{"role": "user", "content": [{"text": "hi"}]}], **more}


def read_stream(client: Any, said: list[Any], **more: Any) -> None:
    with closing(client.converse_stream(**ask(**more))["stream"]) as stream:
        said.extend(stream)


def test_a_plain_answer_of_its_own_wire_passes_whole(upstream: Replay, client: Any) -> None:
    upstream.scripts["m"] = Script(json.dumps(ANSWER).encode(), JSON)
    answer = client.converse(**ask(guardrailConfig={"guardrailIdentifier": "g", "guardrailVersion": "1"}))
    assert {name: answer[name] for name in ("output", "stopReason", "usage")} == {
        name: ANSWER[name] for name in ("output", "stopReason", "usage")
    }
    ((head, body),) = upstream.requests
    assert head.startswith(b"POST /model/m/converse HTTP/1.1\r\n")
    assert b"authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/" in head
    assert json.loads(body) == {
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
    }


def test_a_model_s_name_with_slashes_and_colons_stays_one_step_of_the_path(
    upstream: Replay, client: Any
) -> None:
    upstream.scripts[ARN] = Script(json.dumps(ANSWER).encode(), JSON)
    assert client.converse(**ask(modelId=f"binary/{ARN}"))["stopReason"] == "end_turn"
    ((head, _),) = upstream.requests
    path = head.split(b" ", 2)[1].decode()
    assert path.startswith("/model/arn:aws:bedrock:") and path.count("/") == 3 and "%2F" in path


@pytest.mark.parametrize("pieces", [None, 1])
def test_a_stream_of_its_own_wire_passes_byte_for_byte(
    pieces: int | None, upstream: Replay, gateway: Gateway
) -> None:
    upstream.scripts["m"] = Script(BEGIN + END, EVENTS, pieces=pieces)
    answer = httpx.post(
        f"{gateway.url}/model/binary%2Fm/converse-stream",
        headers={"authorization": f"Bearer {ADMIN_KEY}"},
        json={"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
    )
    assert answer.headers["content-type"] == EVENTS
    assert answer.content == BEGIN + END
    assert upstream.requests[0][0].startswith(b"POST /model/m/converse-stream HTTP/1.1\r\n")


def test_the_sdk_reads_a_stream_of_another_wire(upstream: Replay, client: Any) -> None:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Grü"}}]},
        {"choices": [{"index": 0, "delta": {"content": "ezi"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
    ]
    body = b"".join(b"data: %s\n\n" % json.dumps({"id": "c", **chunk}).encode() for chunk in chunks)
    upstream.scripts["m"] = Script(body + b"data: [DONE]\n\n")
    said: list[Any] = []
    read_stream(client, said, modelId="chunks/m")
    deltas = [event["contentBlockDelta"]["delta"]["text"] for event in said if "contentBlockDelta" in event]
    assert "".join(deltas) == "Grüezi"
    assert said[-1]["metadata"]["usage"]["totalTokens"] == 7


def test_a_client_of_another_wire_reads_its_stream(upstream: Replay, gateway: Gateway) -> None:
    upstream.scripts["m"] = Script(BEGIN + END, EVENTS)
    with openai.OpenAI(api_key=ADMIN_KEY, base_url=f"{gateway.url}/v1", max_retries=0) as client:
        image = f"data:image/png;base64,{base64.b64encode(b'x').decode()}"
        content: Any = [
            {"type": "text", "text": "hi"},
            {"type": "image_url", "image_url": {"url": image}},
        ]
        stream = client.chat.completions.create(
            model="binary/m",
            messages=[{"role": "user", "content": content}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Grüezi"
    assert [c.usage.total_tokens for c in chunks if c.usage] == [7]
    sent = json.loads(upstream.requests[0][1])
    assert sent["messages"][0]["content"][1] == {"image": {"format": "png", "source": {"bytes": "eA=="}}}


def test_a_refusal_is_the_sdk_s_own_error(upstream: Replay, client: Any) -> None:
    upstream.scripts["m"] = Script(b'{"message": "Malformed input request"}', JSON, status=400)
    with pytest.raises(client.exceptions.ValidationException, match="Malformed input request"):
        client.converse(**ask())
    with pytest.raises(client.exceptions.ValidationException, match="Malformed input request"):
        client.converse_stream(**ask())


def test_a_request_that_the_dialect_forbids_names_its_field(client: Any) -> None:
    with pytest.raises(client.exceptions.ValidationException, match="toolConfig"):
        client.converse(**ask(modelId="chunks/m", toolConfig={}))
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="nowhere"):
        client.converse(**ask(modelId="nowhere/m"))


@pytest.mark.parametrize("model", ["binary/m", "chunks/m"])
def test_a_stream_that_is_cut_ends_in_an_exception(model: str, upstream: Replay, client: Any) -> None:
    if model == "binary/m":
        upstream.scripts["m"] = Script(BEGIN + END[:40], EVENTS)
    else:
        chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "Grü"}}]}
        upstream.scripts["m"] = Script(b"data: %s\n\n" % json.dumps(chunk).encode())
    said: list[Any] = []
    with pytest.raises(EventStreamError, match="internalServerException"):
        read_stream(client, said, modelId=model)


def test_an_exception_within_a_stream_reaches_the_sdk(upstream: Replay, client: Any) -> None:
    said: list[Any] = []
    long = add("x" * 1000)  # more than is read at once, so that some of it has gone out
    upstream.scripts["m"] = Script(BEGIN + say(long) * 2000 + SLOW, EVENTS)
    with pytest.raises(EventStreamError, match="Too many tokens, please wait"):
        read_stream(client, said)
    assert len(said) > 1


def test_an_exception_before_the_first_word_has_a_true_status(upstream: Replay, client: Any) -> None:
    upstream.scripts["m"] = Script(say({"messageStart": {"role": "assistant"}}) + SLOW, EVENTS)
    with pytest.raises(client.exceptions.ThrottlingException, match="Too many tokens, please wait"):
        client.converse_stream(**ask())


def test_bytes_that_are_no_event_stream_are_a_failure_of_the_provider(upstream: Replay, client: Any) -> None:
    upstream.scripts["m"] = Script(b"<html>not at all what was asked for</html>", EVENTS)
    with pytest.raises(client.exceptions.InternalServerException):
        client.converse_stream(**ask())
