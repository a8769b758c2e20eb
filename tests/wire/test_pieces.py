"""Answers that clients hand back in the pieces that a stream brought are one answer again."""

from engine.wire.pieces import join_texts
from tests.wire.formats_at_hand import load_format

ASKED = {"model": "m", "stream": False}


def test_neighbours_that_differ_in_their_text_alone_are_one() -> None:
    pieces = [{"text": "a", "k": 1}, {"text": " "}, {"text": "b"}, {"text": "", "s": "end"}, {"text": "c"}]
    before = [dict(piece) for piece in pieces]
    assert join_texts(pieces, "s") == [{"text": "a", "k": 1}, {"text": " b", "s": "end"}, {"text": "c"}]
    assert pieces == before
    assert join_texts(pieces) == [*pieces[:1], {"text": " b"}, *pieces[3:]]


def test_what_has_no_text_stands_between() -> None:
    pieces = [{"text": "a"}, {"call": 1}, {"text": None}, 3, {"text": "b"}]
    assert join_texts(pieces) == pieces


def test_an_answer_that_came_as_a_stream_of_contents_is_one_turn() -> None:
    def said(**part: object) -> dict[str, object]:
        return {"role": "model", "parts": [part]}

    contents = [
        {"role": "user", "parts": [{"text": "hi"}]},
        {"role": "user", "parts": [{"text": "there"}]},
        said(text="I ", thought=True),
        said(text="see", thought=True),
        said(text="", thought=True, thoughtSignature="c2ln"),
        said(text="One"),
        said(text=" two"),
        said(functionCall={"id": "a", "name": "look", "args": {}}),
        said(functionCall={"id": "b", "name": "wait", "args": {}}),
    ]
    chat = load_format("gemini").read_request({"contents": contents}, ASKED)
    first, second, answer = chat["turns"]
    assert [first["parts"][0]["text"], second["parts"][0]["text"]] == ["hi", "there"]
    assert answer["parts"][:2] == [
        {"type": "reasoning", "text": "I see", "signature": "c2ln"},
        {"type": "text", "text": "One two"},
    ]
    assert [part["name"] for part in answer["parts"][2:]] == ["look", "wait"]
