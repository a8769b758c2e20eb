"""One pair at work: what a client asks becomes what a provider is sent, and what the provider answers comes back."""

from typing import Any, cast

import orjson

from engine.call import Call
from engine.config.snapshot import Snapshot
from engine.wire.doors import Door
from engine.wire.translation import Translation, open_translation
from tests.wire.formats_at_hand import load_format

PIECE = 97
"""Streams come in reads of so many bytes, which fit no event."""


def translate(surface: str, provider: str, body: dict[str, Any], *, stream: bool = False) -> Translation:
    call = Call(
        id="answer1",
        request_id="req_1",
        door=cast(Door, None),
        started_at=1700000000.5,
        began=0.0,
        snapshot=cast(Snapshot, None),
        request=body,
        requested_model="m",
        stream=stream,
        usage_asked=True,
        input_estimate=9,
    )
    form = load_format(provider)
    facts = {
        "model": "up",
        "provider": "p",
        "stream": stream,
        "limits": {"output": 8000},
        "capabilities": [],
        "traits": {**form.traits},
    }
    return open_translation(call, load_format(surface), form, facts)


def write_sent(translation: Translation) -> dict[str, Any]:
    sent: dict[str, Any] = orjson.loads(translation.render({}))
    return sent


def answer_plainly(translation: Translation, doc: Any) -> dict[str, Any]:
    reader = translation.reader(b"application/json")
    assert reader.feed(orjson.dumps(doc)) == b""
    reader.close()
    answer: dict[str, Any] = orjson.loads(reader.tail)
    return answer


def answer_in_pieces(translation: Translation, raw: bytes, size: int = PIECE) -> bytes:
    reader, out = translation.reader(b"text/event-stream"), b""
    for place in range(0, len(raw), size):
        if not reader.ended:
            out += reader.feed(raw[place : place + size])
    if not reader.ended:
        out += reader.close()
    assert reader.failure is None and reader.ended
    assert reader.damaged == 0
    return out + reader.tail
