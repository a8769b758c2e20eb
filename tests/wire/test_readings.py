"""Usage and errors of every shape that providers send."""

from decimal import Decimal
from typing import Any

import pytest

from engine.errors import ProviderError
from engine.wire.formats import compile_format
from engine.wire.templates import merge_trees
from engine.wire.usage import Usage
from tests.wire.formats_at_hand import load_format, load_tree

CHAT = load_format("openai-chat")


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, Usage(input=10, output=5)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(input=5, cached_input=4, audio_input=1, output=2, reasoning=3),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": None,
                "prompt_cache_hit_tokens": 6,
            },
            Usage(input=4, cached_input=6, output=5),
        ),
        # the grand total says that reasoning is beside the completion
        (
            {
                "prompt_tokens": 12,
                "completion_tokens": 1,
                "total_tokens": 303,
                "completion_tokens_details": {"reasoning_tokens": 290},
            },
            Usage(input=12, output=1, reasoning=290),
        ),
        (
            {
                "prompt_tokens": 12,
                "completion_tokens": 400,
                "total_tokens": 702,
                "completion_tokens_details": {"reasoning_tokens": 290},
            },
            Usage(input=12, output=400, reasoning=290),
        ),
        ({"prompt_tokens": 8.0, "completion_tokens": "5"}, Usage(input=8)),
    ],
)
def test_usage_is_read_in_disjoint_classes(usage: dict[str, Any], read: Usage) -> None:
    assert CHAT.read_usage({"usage": usage}) == read


@pytest.mark.parametrize(
    "doc", [{}, {"usage": None}, {"usage": {}}, {"usage": []}, {"usage": {"prompt_tokens": -1}}, [], None]
)
def test_no_usage_is_none(doc: Any) -> None:
    assert CHAT.read_usage(doc) is None


UNITS: dict[str, Any] = {
    "from": "$",
    "counts": {
        "prompt": "$.usage.tokens",
        "searches": ["$.billed.searches", "$.billed.search_units"],
        "images": {"count": "$.data"},
        "characters": {"length": "$.text"},
        "seconds": {"sum": ["$.audio.heard", "$.audio.silent"]},
    },
}


def test_units_are_counted_beside_tokens_exactly_as_they_were_written() -> None:
    form = compile_format(merge_trees(load_tree("openai-chat"), {"usage": UNITS}))
    doc = {
        "usage": {"tokens": 3},
        "billed": {"search_units": 2},
        "data": [{}, {}],
        "text": "grüß",
        "audio": {"heard": 8.47, "silent": "0.1"},
    }
    usage = form.read_usage(doc)
    assert usage is not None
    assert usage.units == {
        "images": 2,
        "seconds": Decimal("8.57"),
        "characters": 4,
        "searches": 2,
    }
    assert usage.as_record() == {
        "input": 3,
        "output": 0,
        "images": 2,
        "seconds": 8.57,
        "characters": 4,
        "searches": 2,
    }


@pytest.mark.parametrize(
    ("counted", "items", "units"),
    [
        ({"distinct": True}, ["a", "", "b", "a", None], {"searches": 2}),
        ({"distinct": True, "most": 1}, ["a", "b"], {"searches": 1}),
        ({"distinct": True, "most": 1}, ["", ""], {}),
        ({"where": {"type": "seen"}}, [{"type": "seen"}, {"type": "x"}, {"type": "seen", "id": 2}, 3], {"searches": 2}),
        ({"where": {"type": "seen"}}, [{"type": "x"}], {}),
        ({"most": 2}, [1, 2, 3], {"searches": 2}),
        ({"distinct": True}, "a", {}),
        ({"distinct": True}, None, {}),
    ],
)  # fmt: skip
def test_items_are_counted_as_a_format_says(counted: Any, items: Any, units: dict[str, int]) -> None:
    beside = {"searches": {"count": ["$.nowhere", "$.items"], **counted}}
    form = compile_format(merge_trees(load_tree("openai-chat"), {"usage": {"beside": beside}}))
    usage = form.read_usage({"usage": {"prompt_tokens": 3}, "items": items})
    assert usage is not None and usage.units == units


def test_units_that_the_request_says_are_read_from_it() -> None:
    form = compile_format(
        merge_trees(
            load_tree("openai-chat"),
            {"usage": {"asked": {"characters": {"length": "$.input"}, "images": "$.n"}}},
        )
    )
    assert form.read_asked({"input": "grüß", "n": 2}) == {"characters": 4, "images": 2}
    assert form.read_asked({"input": 7}) == {}
    assert CHAT.read_asked({"input": "grüß"}) == {}


@pytest.mark.parametrize("odd", ["many", True, -1, float("inf"), [], {}, None])
def test_an_amount_that_is_no_number_is_no_amount(odd: Any) -> None:
    form = compile_format(merge_trees(load_tree("openai-chat"), {"usage": UNITS}))
    assert form.read_usage({"usage": {"tokens": 3}, "billed": {"searches": odd}}) == Usage(input=3)


def test_usage_beside_the_totals_is_added_to_them() -> None:
    doc = {
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 3,
            "output_tokens": 2,
        }
    }
    usage = load_format("anthropic-messages").read_usage(doc)
    assert usage == Usage(input=10, cached_input=5, cache_write=3, output=2) and usage.prompt == 18


def test_another_place_of_the_usage_is_one_overridden_leaf() -> None:
    form = compile_format(merge_trees(load_tree("openai-chat"), {"usage": {"from": "$.x.usage"}}))
    assert form.read_usage({"x": {"usage": {"prompt_tokens": 1}}}) == Usage(input=1)


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}, "m", "c"),
        ({"error": "text"}, "text", None),
        ({"message": "flat", "type": "t", "code": 1113}, "flat", "1113"),
        ({"object": "error", "message": "m"}, "m", None),
        ({"detail": "why"}, "why", None),
        ({"detail": [{"loc": ["body", "x"], "msg": "missing"}]}, "missing", None),
        ({"detail": {"message": "deep"}}, "deep", None),
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            "Overloaded",
            None,
        ),
        ({"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}, "bad", "400"),
        ([{"error": {"code": 400, "message": "in a list"}}], "in a list", "400"),
        ({"code": "x", "error": "said"}, "said", "x"),
        ({"code": 3, "reason": "R", "message": "m"}, "m", "3"),
        ({"success": False, "errors": [{"code": 3036, "message": "quota"}]}, "quota", "3036"),
        ({"base_resp": {"status_code": 1008, "status_msg": "poor"}}, "poor", "1008"),
        ({"type": "about:blank", "title": "Bad", "status": 400, "detail": "problem"}, "problem", None),
        ({}, "the provider answered with status 500", None),
        ({"error": {"message": ["odd"]}}, "odd", None),
    ],
)
def test_every_shape_of_error_is_read(body: Any, message: str, code: str | None) -> None:
    error = CHAT.read_error(500, body, "")
    assert (error.message, error.code) == (message, code)


def test_an_error_that_is_not_json_gives_its_text() -> None:
    html = "<html><head><title>502 Bad Gateway</title></head>\n<body>nginx</body></html>"
    assert CHAT.read_error(502, None, html).message.split() == ["502", "Bad", "Gateway", "nginx"]
    assert CHAT.read_error(503, None, "").message == "the provider answered with status 503"
    assert len(CHAT.read_error(500, None, "x" * 100_000).message) == 2000


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, ProviderError("m", code="context_length_exceeded"), "context_length_exceeded"),
        (
            400,
            ProviderError("This model's maximum context length is 8192 tokens."),
            "context_length_exceeded",
        ),
        (403, ProviderError("prompt is too long: 210000 tokens > 200000 maximum"), "context_length_exceeded"),
        (
            400,
            ProviderError("triggering our content management policy", code="content_filter"),
            "content_filter",
        ),
        (429, ProviderError("You exceeded your current quota", type="insufficient_quota"), "402"),
        (0, ProviderError("slow", type="rate_limit_error"), "429"),
        (429, ProviderError("slow"), None),
        (400, ProviderError("bad temperature"), "invalid_request"),
        (500, ProviderError("invalid_request_error"), None),
        (0, ProviderError("Overloaded", type="overloaded_error"), "503"),
    ],
)
def test_errors_are_of_the_kind_that_policies_name(
    status: int, error: ProviderError, kind: str | None
) -> None:
    assert CHAT.kind_of_error(status, error) == kind
