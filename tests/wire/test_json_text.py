"""JSON that orjson refuses and providers do not."""

import pytest

from engine.wire.json_text import parse_json, write_json


def test_half_a_surrogate_pair_is_read_and_written_as_an_escape() -> None:
    parsed = parse_json(rb'{"content": "cut \ud83d", "n": 1}')
    assert parsed == {"content": "cut \ud83d", "n": 1}
    assert write_json(parsed) == rb'{"content":"cut \ud83d","n":1}'


@pytest.mark.parametrize("text", [b"{", b'{"a": NaN, "b": "\\ud83d"}', b'"\\ud83d" x', b"\xff"])
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    with pytest.raises(ValueError):
        parse_json(b"[" * 100_000 + b'"\\ud83d"' + b"]" * 100_000)
