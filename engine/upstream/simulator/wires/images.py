"""OpenAI's images: made and edited, as base64 or as an address of this server, also streamed with partial ones."""

import base64
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.dialog import (
    FINISH,
    TOKEN,
    TOKENS_PER_IMAGE,
    Ask,
    Counts,
    Event,
    Refused,
    Ticket,
    Wire,
    Written,
)
from engine.upstream.simulator.errors import write_error
from engine.upstream.simulator.forms import parse_form
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.pictures import draw_png
from engine.upstream.simulator.reading import read_model
from engine.upstream.simulator.wires.messages import frame
from engine.upstream.simulator.wires.prompt import Prompt

TOKENS_PER_PICTURE = 272
Body = Mapping[str, Any]


def read(body: Body, *, edits: bool = False) -> Ask:
    """Validate a request; a form says numbers and truths as text."""
    prompt, text = Prompt(), body.get("prompt")
    if not isinstance(text, str) or not text:
        raise Refused(
            400, "Missing required parameter: 'prompt'.", param="prompt", code="missing_required_parameter"
        )
    prompt.open("prompt")
    prompt.add_text(text)
    given = body.get("image") if edits else []
    if given is None:
        raise Refused(
            400, "Missing required parameter: 'image'.", param="image", code="missing_required_parameter"
        )
    for one in given if isinstance(given, list) else [given]:
        prompt.add_other(one)
    count = str(body.get("n") or 1)
    if not count.isdecimal() or not 1 <= int(count) <= 10:
        raise Refused(400, "Invalid 'n': integer above maximum value. Expected a value <= 10.", param="n",
                      code="integer_above_max_value")  # fmt: skip
    return Ask(
        read_model(body),
        [prompt.turns],
        stream=str(body.get("stream", "")).lower() == "true",
        n=int(count),
        raw=dict(body),
        digest=prompt.digest(),
    )


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    prompt = ask.conversations[0][0]
    counts = Counts(prompt.counted - 1, TOKENS_PER_PICTURE * ask.n)
    told = (
        {}
        if "no-usage" in script.parts
        else {"usage": _write_usage(prompt.counted - 1, prompt.extra, counts)}
    )
    return Written(
        counts,
        ask.n,
        plain=partial(_write_plain, ask, ticket, prompt.text, told),
        events=partial(_write_events, ask, ticket, prompt.text, told),
    )


def _write_usage(tokens: int, others: int, counts: Counts) -> dict[str, Any]:
    images = TOKENS_PER_IMAGE if others else 0
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"text_tokens": tokens - images, "image_tokens": images},
        "output_tokens": counts.completion,
        "total_tokens": tokens + counts.completion,
    }


def _look(ask: Ask) -> dict[str, Any]:
    wanted = ask.raw
    return {
        "size": wanted.get("size") or "1024x1024",
        "quality": wanted.get("quality") or "medium",
        "background": wanted.get("background") or "opaque",
        "output_format": wanted.get("output_format") or "png",
    }


def _write_plain(ask: Ask, ticket: Ticket, text: str, told: Body) -> bytes:
    rows: list[dict[str, Any]] = []
    for number in range(ask.n):
        picture = draw_png(text, number)
        if ask.raw.get("response_format") == "url":
            rows.append({"url": name_picture(ticket, picture), "revised_prompt": text})
        else:
            rows.append({"b64_json": base64.b64encode(picture).decode()})
    return orjson.dumps({"created": ticket.created, "data": rows, **_look(ask), **told})


def name_picture(ticket: Ticket, picture: bytes) -> str:
    """An address at which this server shows the picture: it holds the whole of it."""
    return f"http://{ticket.host}/_sim/pictures/{base64.urlsafe_b64encode(picture).decode()}"


def _write_events(ask: Ask, ticket: Ticket, text: str, told: Body) -> Iterator[Event]:
    name = "image_edit" if "image" in ask.raw else "image_generation"
    shown = {
        "b64_json": base64.b64encode(draw_png(text)).decode(),
        "created_at": ticket.created,
        **_look(ask),
    }
    for number in range(int(ask.raw.get("partial_images") or 0)):
        partly = {"type": f"{name}.partial_image", "partial_image_index": number, **shown}
        yield TOKEN, orjson.dumps(partly)
    yield FINISH, orjson.dumps({"type": f"{name}.completed", **shown, **told})


WIRE = Wire(read, write, write_error, frame=frame)
EDITS = Wire(partial(read, edits=True), write, write_error, frame=frame, parse=parse_form)
