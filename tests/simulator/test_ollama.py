"""Ollama's lines, as its documentation shows them: there is no SDK of it at hand."""

import json
from typing import Any

import pytest

from tests.simulator.launch import listen_to, make_request

USER = [{"role": "user", "content": "hello there"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("a", "b")
]


def _plain(port: int, body: dict[str, Any], path: str = "/api/chat") -> Any:
    return json.loads(listen_to(port, make_request({**body, "stream": False}, path)).body)


def _lines(port: int, body: dict[str, Any]) -> list[Any]:
    heard = listen_to(port, make_request(body, "/api/chat"))
    assert b"content-type: application/x-ndjson" in heard.head
    return [json.loads(line) for line in heard.chunks.splitlines()]


@pytest.mark.parametrize("model", ["sim/tokens@12", "sim/tokens@5+think@3", "sim/tools@3", "sim/json"])
def test_the_lines_add_up_to_the_plain_answer(port: int, model: str) -> None:
    body = {"model": model, "messages": USER, "tools": TOOLS if "tools" in model else []}
    plain, lines = _plain(port, body), _lines(port, body)
    for held in ("content", "thinking"):
        joined = "".join(line["message"].get(held, "") for line in lines)
        assert joined == plain["message"].get(held, "")
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert calls == plain["message"].get("tool_calls", [])
    assert [line["done"] for line in lines].index(True) == len(lines) - 1
    ending = ("done_reason", "eval_count", "prompt_eval_count")
    assert [lines[-1][key] for key in ending] == [plain[key] for key in ending]


def test_what_only_this_wire_refuses(port: int) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    assert "cannot unmarshal" in _plain(port, {"model": "sim/echo", "messages": parts})["error"]
    image = [{"role": "user", "content": "x", "images": ["data:image/png;base64,aGk="]}]
    assert "illegal base64" in _plain(port, {"model": "sim/echo", "messages": image})["error"]


def test_an_error_follows_a_200_as_a_line(port: int) -> None:
    lines = _lines(port, {"model": "sim/error-in-stream@2", "messages": USER})
    assert "error" in lines[-1] and len(lines) == 3


def test_texts_are_embedded(port: int) -> None:
    made = _plain(port, {"model": "sim/echo", "input": ["one", "two three"], "dimensions": 3}, "/api/embed")
    assert [len(vector) for vector in made["embeddings"]] == [3, 3]
    assert made["prompt_eval_count"] == 3
