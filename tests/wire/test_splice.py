"""Editing a request's top-level members without touching the client's other bytes."""

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.splice import DROPPED, LARGE_BODY_BYTES, edit_members, list_names


def edit(body: bytes, **edits: Any) -> bytes:
    return edit_members(body, orjson.loads(body), edits)


def test_the_model_is_replaced_and_every_other_byte_stays() -> None:
    body = b'{ "model" : "a",\n "temperature": 1.0, "seed": 12345678901234567890, "x":"\xc3\xa9" }'
    assert edit(body, model="b/c") == body.replace(b'"a"', b'"b/c"')


def test_a_nested_key_of_the_same_name_is_left_alone() -> None:
    body = b'{"tools":[{"model":"x"}],"metadata":{"model":"y"},"model":"a","n":1e0}'
    assert edit(body, model="z") == b'{"tools":[{"model":"x"}],"metadata":{"model":"y"},"model":"z","n":1e0}'


def test_a_text_that_quotes_the_key_is_left_alone() -> None:
    body = rb'{"messages":[{"role":"user","content":"say \"model\": \"evil\""}],"model":"a"}'
    assert edit(body, model="b") == body.replace(b'"model":"a"', b'"model":"b"')


def test_a_value_equal_to_the_key_is_left_alone() -> None:
    body = b'{"role":"model","model":"model","list":["model"]}'
    assert orjson.loads(edit(body, model="b")) == {"role": "model", "model": "b", "list": ["model"]}


def test_a_key_written_twice_reaches_the_provider_once() -> None:
    edited = edit(b'{"model":"cheap","a":1,"model":"dear"}', model="allowed")
    assert edited.count(b'"model"') == 1
    assert orjson.loads(edited) == {"model": "allowed", "a": 1}


def test_a_key_written_with_escapes_cannot_smuggle_a_second_model() -> None:
    edited = edit(rb'{"mod\u0065l":"dear","model":"cheap"}', model="allowed")
    assert orjson.loads(edited) == {"model": "allowed"}
    assert edited.count(b"mod") == 1


def test_members_are_dropped_and_added() -> None:
    body = b'{"a": [1, {"b": 2}] , "stream":true, "c": "x"}'
    assert json.loads(edit(body, a=DROPPED, c=3, new={"k": True})) == {
        "stream": True,
        "c": 3,
        "new": {"k": True},
    }


def test_a_member_is_added_to_an_object_with_no_members() -> None:
    assert edit(b"{ }", a=1) == b'{ "a":1}'


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
names = st.sampled_from(["model", "stream", "messages", "a", "b", "é", 'q"uote', "model "])


@given(
    st.dictionaries(names, values),
    st.dictionaries(names, values | st.just(DROPPED), max_size=3),
    st.booleans(),
)
def test_an_edit_equals_the_edit_of_the_parsed_object(
    body: dict[str, Any], edits: dict[str, Any], ascii_only: bool
) -> None:
    text = json.dumps(body, ensure_ascii=ascii_only, indent=1).encode()
    expected = {k: v for k, v in {**body, **edits}.items() if v is not DROPPED}
    assert json.loads(edit_members(text, body, edits)) == expected


def test_a_large_body_is_edited_like_a_small_one() -> None:
    image = b"A" * 100_000
    body = b'{"messages":[{"content":"' + image + b'"}],"model":"a"}'
    assert edit(body, model="b") == body.replace(b'"model":"a"', b'"model":"b"')
    twice = b'{"model":"x","messages":"' + image + b'","model":"a"}'
    assert orjson.loads(edit(twice, model="b"))["model"] == "b"
    assert edit(twice, model="b").count(b'"model"') == 1


def test_a_word_is_found_in_the_names_of_a_body_with_an_image_as_in_a_short_one() -> None:
    image = b"QUJD" * LARGE_BODY_BYTES
    large = (
        b'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,' + image
    ) + b'"}},{"cache_control":{"type":"ephemeral"}}]}]}'
    prose = b'{"prompt":"' + b'they said \\"audio\\" ' * LARGE_BODY_BYTES + b'"}'
    for body, word, there in (
        (large, b"image", True),
        (large, b"cache", True),
        (large, b"audio", False),
        (large, b"QUJD", True),  # where the value begins
        (prose, b"audio", True),
        (b'{"a":"cached"}', b"cache", True),
        (b'{"a":"b"}', b"cache", False),
    ):
        assert (word in list_names(body)) is there, (body[:40], word)


@given(
    st.lists(st.sampled_from([b'"model"', b'"n"', b'"', b":", b"x" * 45, b"x" * 2000, b"\\"]), max_size=60)
)
def test_quoted_names_are_counted_in_a_large_body_as_in_all_of_it(pieces: list[bytes]) -> None:
    body = b"A" * LARGE_BODY_BYTES + b"".join(pieces)
    for key in (b'"model"', b'"n"', b'"xxxx'):
        assert list_names(body).count(key) == body.count(key)
