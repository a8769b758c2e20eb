"""Doors: which path leads to which format, and whose words an error at a wrong path is told in."""

from typing import Any

import pytest

from engine.wire.doors import Door, DoorTable
from engine.wire.formats import Format, FormatRefused, compile_format

BASE = {"operation": "chat", "framing": "sse", "read_request": {}, "write_reply": {}, "write_error": {}}


def make_format(name: str, *rows: dict[str, Any], **sections: Any) -> Format:
    return compile_format({"format": name, **BASE, "serves": list(rows), **sections})


SAY = make_format("say", {"path": "/v1/say"}, {"path": "/say"})
NOTE = make_format("note", {"path": "/v1/notes"})
SING = make_format(
    "sing",
    {"path": "/v1beta/models/{model}:say", "stream": False},
    {"path": "/v1beta/models/{model}:sing", "stream": True, "query": {"alt": "sse"}},
    {"path": "/v1beta/models/{model}:sing", "stream": True, "framing": "json_array"},
    {"path": "/model/{model}/say", "stream": False},
    {"path": "/model/{model}/say-loud", "stream": True},
)
TABLE = DoorTable([Door(each, row) for each in (SAY, NOTE, SING) for row in each.client.serves], SAY)


@pytest.mark.parametrize(
    ("path", "query", "found"),
    [
        ("/v1/say", b"", ("say", None, "sse", "")),
        ("/say", b"x=1", ("say", None, "sse", "")),
        ("/v1beta/models/m:say", b"", ("sing", False, "sse", "m")),
        ("/v1beta/models/openai/gpt-4o:say", b"", ("sing", False, "sse", "openai/gpt-4o")),
        ("/v1beta/models/llama:free:say", b"", ("sing", False, "sse", "llama:free")),
        ("/v1beta/models/m:sing", b"alt=sse", ("sing", True, "sse", "m")),
        ("/v1beta/models/m:sing", b"key=k&alt=sse", ("sing", True, "sse", "m")),
        ("/v1beta/models/m:sing", b"alt=json", ("sing", True, "json_array", "m")),
        ("/v1beta/models/m:sing", b"", ("sing", True, "json_array", "m")),
        ("/model/arn:aws:x/y/say", b"", ("sing", False, "sse", "arn:aws:x/y")),
        ("/model/say/say-loud", b"", ("sing", True, "sse", "say")),
    ],
)
def test_a_path_leads_to_its_door(path: str, query: bytes, found: tuple[Any, ...]) -> None:
    match = TABLE.find(path, query)
    assert match is not None
    door, model = match
    assert (door.format.name, door.serving.stream, door.serving.framing, model) == found


@pytest.mark.parametrize(
    "path",
    ["/v1/say/", "/v1", "/v1beta/models/:say", "/v1beta/models/m:shout", "/model//say", "/model/say", ""],
)
def test_any_other_path_leads_nowhere(path: str) -> None:
    assert TABLE.find(path) is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/notes/x", "note"),
        ("/v1beta/what", "sing"),
        ("/model/m/what", "sing"),
        ("/v1/what", "say"),
        ("/what", "say"),
        ("", "say"),
    ],
)
def test_an_error_at_a_wrong_path_is_told_in_the_nearest_dialect(path: str, name: str) -> None:
    format = TABLE.guess_format(path)
    assert format is not None and format.name == name


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({"path": "v1"}, ("serves", 0, "path")),
        ({"path": "/{modle}/x"}, ("serves", 0, "path")),
        ({"path": "/{model}/{model}"}, ("serves", 0, "path")),
        ({"path": "/x?y"}, ("serves", 0, "path")),
        ({}, ("serves", 0, "path")),
        ({"path": "/x", "stream": "yes"}, ("serves", 0, "stream")),
        ({"path": "/x", "framing": "see"}, ("serves", 0, "framing")),
        ({"path": "/x", "query": {"a": 1}}, ("serves", 0, "query")),
        ({"path": "/x", "querry": {}}, ("serves", 0, "querry")),
        ("/x", ("serves", 0)),
    ],
)
def test_a_row_that_is_none_is_refused(row: Any, path: tuple[Any, ...]) -> None:
    with pytest.raises(FormatRefused) as refused:
        make_format("x", row)
    assert refused.value.problems[0][0] == path


def test_what_cannot_answer_cannot_serve() -> None:
    with pytest.raises(FormatRefused, match="without read_request, write_reply, write_error"):
        compile_format({"format": "x", "operation": "chat", "serves": [{"path": "/x"}]})


@pytest.mark.parametrize("name", ["Authorization", "authorization", "host", "a b", 5])
def test_headers_of_the_connection_are_not_handed_through(name: Any) -> None:
    with pytest.raises(FormatRefused):
        make_format("x", passes_headers=[name])


def test_the_media_type_of_a_stream_is_its_framings() -> None:
    plain, _ = TABLE.find("/v1/say") or (None, "")
    array, _ = TABLE.find("/v1beta/models/m:sing") or (None, "")
    assert plain is not None and plain.stream_head[0][1].startswith(b"text/event-stream")
    assert array is not None and array.stream_head[0][1] == b"application/json"
