"""Bodies and queries of our own routes, checked against their models. Unknown fields are errors."""

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ValidationError

from engine.config.schema_base import Strict
from engine.errors import InvalidRequest, WrongMediaType
from engine.http.inference import Receive, read_body
from engine.storage.key_rules import word_problem

MOST_BYTES = 64 * 1024
Body = TypeVar("Body", bound=BaseModel)


class NoQuery(Strict):
    """A route that takes no parameters."""


async def read_json(kind: type[Body], scope: Any, receive: Receive, most_bytes: int = MOST_BYTES) -> Body:
    """The body as this model. Raises InvalidRequest that names the first wrong field, never with its value."""
    fields = dict(scope["headers"])
    media_type = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise WrongMediaType("the content type must be application/json")
    content = await read_body(dict(scope["headers"]), receive, most_bytes)
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise InvalidRequest("the body is not JSON", code="invalid_json") from None
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    return check(kind, document)


def read_query(kind: type[Body], scope: Any) -> Body:
    pairs = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    query = dict(pairs)
    if len(query) != len(pairs):
        raise InvalidRequest("a parameter is given twice")
    return check(kind, query)


def check(kind: type[Body], document: Mapping[str, Any]) -> Body:
    try:
        return kind.model_validate(document)
    except ValidationError as problem:
        raise word_problem(problem) from None
