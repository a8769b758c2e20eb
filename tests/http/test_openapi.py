"""The description of the API says what the gateway answers: its routes, its doors, its shapes of errors."""

import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import jsonschema_rs
import orjson
import pytest

from engine.app import WorkerApp
from engine.http.api_page import write_page
from engine.http.api_schemas import infer_schema, keep_common
from tests.http import test_every_route

worker = test_every_route.worker
METHODS = ("get", "post", "put", "patch", "delete")


async def ask(
    worker: WorkerApp, method: str, path: str, media_type: str = "application/json"
) -> tuple[int, dict[str, str], bytes]:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", media_type.encode())]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    await worker.asgi({**scope, "client": ("192.0.2.1", 1), "extensions": {}}, receive, send)
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
async def document(worker: WorkerApp) -> dict[str, Any]:
    status, head, body = await ask(worker, "GET", "/openapi.json")
    assert (status, head["content-type"]) == (200, "application/json")
    described: dict[str, Any] = orjson.loads(body)
    return described


def list_operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        yield from ((method, path, operations[method]) for method in METHODS if method in operations)


def list_references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for below in value.values():
            yield from list_references(below)
    elif isinstance(value, list):
        for below in value:
            yield from list_references(below)


async def test_it_has_every_route_and_every_door(worker: WorkerApp, document: dict[str, Any]) -> None:
    described = {f"{method.upper()} {path}" for method, path, _ in list_operations(document)}
    routes = {f"{route.method} {route.path}" for route in worker.asgi.declared}
    routes |= {f"POST {path}" for path in worker.asgi.inference.list_paths()}
    routes |= {f"{method} {path}" for path, methods in worker.asgi.exact.items() for method in methods}
    assert not routes - described
    assert len(described) > 50


async def test_its_references_lead_somewhere_and_its_names_are_single(document: dict[str, Any]) -> None:
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(list_references(document)) <= names
    ids = [operation["operationId"] for _, _, operation in list_operations(document)]
    assert len(ids) == len(set(ids))


async def test_every_schema_of_it_is_a_schema(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(schema), name


async def test_a_body_is_described_with_its_limits(document: dict[str, Any]) -> None:
    body = document["paths"]["/user/api-keys"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert schema["additionalProperties"] is False and schema["required"] == ["key_name"]
    chat = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    assert chat["schema"]["required"] == ["model", "messages"]
    assert chat["schema"]["properties"]["messages"]["minItems"] == 1


async def test_it_says_who_may(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert paths["/admin/config/reload"]["post"]["x-need"]["scope"] == "admin"
    assert paths["/admin/audit"]["get"]["x-need"]["permission"]
    assert paths["/v1/messages"]["post"]["x-need"] == {"scope": "inference", "role": "user"}
    assert paths["/health"]["get"]["security"] == [] and "x-need" not in paths["/health"]["get"]


async def test_without_a_key_every_operation_answers_401_in_the_shape_that_is_described(
    worker: WorkerApp,
    document: dict[str, Any],
) -> None:
    asked = 0
    for method, path, operation in list_operations(document):
        if operation.get("security") == []:
            continue
        body = operation.get("requestBody", {}).get("content", {"application/json": {}})
        media_type = next(iter(body)).replace("form-data", "form-data; boundary=b")
        status, head, content = await ask(worker, method.upper(), re.sub(r"\{\w+\}", "x", path), media_type)
        assert (status, head["content-type"]) == (401, "application/json"), (method, path)
        schema = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
        named = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        jsonschema_rs.validate(named, orjson.loads(content))
        asked += 1
    assert asked > 45


async def test_the_page_is_complete_by_itself(worker: WorkerApp, document: dict[str, Any]) -> None:
    status, head, body = await ask(worker, "GET", "/docs")
    text = body.decode()
    assert (status, head["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in head["content-security-policy"]
    assert not re.search(r"<script|<link|<img|src=|@import|url\(|https?://", text.replace("https://*.", ""))
    assert all(f"<code>{path}</code>" in text for path in document["paths"])


def test_the_page_writes_names_as_text() -> None:
    operation = {"tags": ["<t>"], "summary": "<script>", "responses": {"200": {"x": "</pre><b>"}}}
    info = {"title": "<t>", "version": "1", "description": "<d>"}
    page = write_page({"info": info, "paths": {"/<p>": {"get": operation}}, "components": {"schemas": {}}})
    assert not re.search(rb"<t>|<script>|</pre><b>|/<p>|<d>", page)


def test_a_shape_is_read_off_examples() -> None:
    shape = keep_common(
        infer_schema({"a": "x", "b": {"c": 1, "d": [True]}}), infer_schema({"a": "x", "b": {"c": 2}})
    )
    assert shape["required"] == ["a", "b"] and shape["properties"]["b"]["required"] == ["c"]
    jsonschema_rs.validate(shape, {"a": "", "b": {"c": 3}})
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(shape, {"a": 1, "b": {"c": 3}})
