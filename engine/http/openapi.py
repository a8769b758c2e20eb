"""`GET /openapi.json` and `GET /docs`: what this gateway answers, read from the declarations that it answers by.

Both are open to all: the list of routes is in the source that everybody can read. They say nothing of an installation
but its inference doors, which are those of the configuration in force.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from pydantic import BaseModel

from engine import __version__
from engine.config.snapshot import Snapshot
from engine.errors import GatewayError
from engine.http.api_doors import Paths, describe_doors, describe_error_shape, list_error_formats, name_error
from engine.http.api_page import PAGE_POLICY, write_page
from engine.http.api_schemas import describe_models, infer_schema, resolve
from engine.http.bodies import NoQuery
from engine.http.endpoints import KEPT_A_WHILE, Answer, Ask, Route
from engine.policies.access import CATALOG, find_need

_JSON = "application/json"
_KEYS: Mapping[str, Any] = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key of this gateway: gw_live_..."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "x-goog-api-key": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
}
_HEALTH = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
Operation = dict[str, Any]


class ApiDescription:
    """Written once for each configuration and set of routes."""

    def __init__(
        self, read_routes: Callable[[], Sequence[Route]], read_snapshot: Callable[[], Snapshot]
    ) -> None:
        self._read_routes, self._read_snapshot = read_routes, read_snapshot
        self._written: tuple[Any, bytes, bytes] = (None, b"", b"")

    def list(self) -> Sequence[Route]:
        return (
            Route("GET", "/openapi.json", self.show, "This description.", public=True),
            Route(
                "GET", "/docs", self.show_page, "This description, to be read.", public=True,
                media_type="text/html; charset=utf-8",
            ),
        )  # fmt: skip

    async def show(self, ask: Ask) -> Answer:
        return Answer((await self._write())[0], headers=KEPT_A_WHILE)

    async def show_page(self, ask: Ask) -> Answer:
        return Answer(
            (await self._write())[1],
            headers=PAGE_POLICY + KEPT_A_WHILE,
            media_type=b"text/html; charset=utf-8",
        )

    async def _write(self) -> tuple[bytes, bytes]:
        """It takes a tenth of a second, in which calls go on."""
        snapshot, routes = self._read_snapshot(), tuple(self._read_routes())
        of = (snapshot.version, len(routes))
        if self._written[0] != of:
            document = await asyncio.to_thread(describe_api, routes, snapshot)
            self._written = (of, orjson.dumps(document), write_page(document))
        return self._written[1:]


def describe_api(routes: Sequence[Route], snapshot: Snapshot) -> dict[str, Any]:
    """The OpenAPI document of these routes and of the snapshot's doors."""
    models, definitions = describe_models(_list_models(routes))
    paths: Paths = {**_describe_plain(), **describe_doors(snapshot)}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _describe(route, models, definitions)
    errors = {name_error(format): describe_error_shape(format) for format in list_error_formats(snapshot)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gatewayz",
            "version": __version__,
            "description": "An LLM gateway. Inference is spoken in the dialects of its formats.",
        },
        "security": [{name: []} for name in _KEYS],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": _KEYS,
            "schemas": {"Error": describe_own_error(snapshot), **errors, **definitions},
        },
    }


def describe_own_error(snapshot: Snapshot) -> dict[str, Any]:
    """The error of our own routes, with the codes that the classes of errors have."""
    common = snapshot.doors.common
    shape = describe_error_shape(common) if common is not None else infer_schema({"message": ""})
    codes = ", ".join(f"{status} {code}" for status, code in sorted(set(_list_codes(GatewayError))))
    return {**shape, "description": f"`message` is for people, `code` for programs; among them: {codes}."}


def _list_codes(kind: type[GatewayError]) -> Iterable[tuple[int, str]]:
    if kind.code is not None and kind.status != GatewayError.status:
        yield kind.status, kind.code
    for below in kind.__subclasses__():
        yield from _list_codes(below)


def _list_models(routes: Sequence[Route]) -> Iterable[type[BaseModel]]:
    for route in routes:
        models = (route.query, route.body, route.answer)
        yield from (model for model in models if model is not None and model is not NoQuery)


def _describe(
    route: Route, models: Mapping[type[BaseModel], dict[str, Any]], definitions: Mapping[str, Any]
) -> Operation:
    described: Operation = {
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_')}",
        "summary": route.summary,
        "tags": [name_tag(route.path)],
        "parameters": [*_list_names(route), *_list_query(route, models, definitions)],
        "responses": _describe_answers(route, models),
    }
    if route.body is not None:
        described["requestBody"] = {"required": True, "content": {_JSON: {"schema": models[route.body]}}}
    elif route.takes_raw:
        described["requestBody"] = {"required": True, "content": {_JSON: {}}}
    if route.public:
        described["security"] = []
    else:
        need = route.need or find_need(route.method, route.path)
        permission = {"permission": need.permission} if need.permission else {}
        described["x-need"] = {"scope": need.scope, "role": need.role, **permission}
    return described


def name_tag(path: str) -> str:
    first = path.lstrip("/").split("/", 1)[0]
    return first if "{" not in first and "." not in first else "gateway"


def _list_names(route: Route) -> Iterable[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1, "maxLength": 300}
    for name in route.pattern.groupindex:
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _list_query(
    route: Route, models: Mapping[type[BaseModel], dict[str, Any]], definitions: Mapping[str, Any]
) -> Iterable[dict[str, Any]]:
    if route.query is NoQuery:
        return
    schema = resolve(models[route.query], definitions)
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        told = {"description": field["description"]} if "description" in field else {}
        yield {"name": name, "in": "query", "required": name in required, "schema": field, **told}


def _describe_answers(route: Route, models: Mapping[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    media_type = route.media_type.partition(";")[0]
    is_json = media_type == _JSON
    schema = (
        models[route.answer] if route.answer is not None else {"type": ["object", "array"]} if is_json else {}
    )
    good: dict[str, Any] = {"description": "Done."}
    if route.status != 204:
        good["content"] = {media_type: {"schema": schema} if schema else {}}
    error = {"$ref": "#/components/schemas/Error"}
    refused = {"description": "Refused.", "content": {_JSON: {"schema": error}}}
    return {str(route.status): good, "4XX": refused, "503": refused}


def _describe_plain() -> Paths:
    """Routes that are no declarations: they ask nobody, or their paths end in names with slashes."""
    return {
        "/health": {"get": _open("The process lives.", "health", {"200": _HEALTH})},
        "/health/ready": {"get": _open("It can serve.", "health", {"200": _HEALTH, "503": _HEALTH})},
        "/metrics": {
            "get": {
                **_open("Prometheus text of the whole gateway.", "metrics", {}),
                "responses": {"200": {"description": "Samples.", "content": {"text/plain": {}}}},
            }
        },
        "/v1/models": {"get": _listed("The models that this key may ask for.", "get_v1_models")},
        "/models": {"get": _listed("The same.", "get_models")},
        "/v1/models/{id}": {
            "get": {
                **_listed("One model; its id may hold slashes.", "get_v1_models_id"),
                "parameters": [
                    {
                        "name": "id",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "minLength": 1},
                    }
                ],
            }
        },
    }


def _open(summary: str, tag: str, statuses: Mapping[str, Any]) -> Operation:
    answers = {
        status: {"description": summary, "content": {_JSON: {"schema": schema}}}
        for status, schema in statuses.items()
    }
    return {
        "operationId": f"get_{summary.split()[-1].strip('.')}",
        "summary": summary,
        "tags": [tag],
        "security": [],
        "responses": answers,
    }


def _listed(summary: str, name: str) -> Operation:
    error = {
        "description": "Refused.",
        "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    good = {"description": "It.", "content": {_JSON: {"schema": {"type": "object"}}}}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["catalog"],
        "responses": {"200": good, "4XX": error, "503": error},
        "x-need": {"scope": CATALOG, "role": "user"},
    }
