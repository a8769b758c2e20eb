"""OpenAI's audio: speech as bytes or events, transcriptions of a form's file in five shapes or as events."""

import base64
import struct
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.compose import compose_choices
from engine.upstream.simulator.dialog import (
    FINISH,
    JSON,
    TOKEN,
    Ask,
    Choice,
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
from engine.upstream.simulator.reading import read_model, read_number, require
from engine.upstream.simulator.text import mix
from engine.upstream.simulator.wires.messages import frame
from engine.upstream.simulator.wires.prompt import Prompt

RATE = 8000
SECONDS_PER_WORD = 0.25
_MEDIA = {"mp3": b"audio/mpeg", "wav": b"audio/wav", "opus": b"audio/ogg", "aac": b"audio/aac", "flac": b"audio/flac",
          "pcm": b"audio/pcm"}  # fmt: skip
_SHAPES = ("json", "text", "verbose_json", "srt", "vtt", "diarized_json")
_TEXT = b"text/plain; charset=utf-8"
Body = Mapping[str, Any]


def read_speech(body: Body) -> Ask:
    """Validate a request for speech."""
    prompt, kind = Prompt(), body.get("response_format") or "mp3"
    require(body, "voice")
    read_number(body, "speed", 0.25, 4)
    if kind not in _MEDIA:
        raise Refused(400, f"Invalid value: '{kind}'. Supported values are: {', '.join(_MEDIA)}.",
                      param="response_format", code="invalid_value")  # fmt: skip
    prompt.open("prompt")
    prompt.add_text(str(require(body, "input")))
    stream = body.get("stream_format") == "sse"
    return Ask(read_model(body), [prompt.turns], stream=stream, raw=kind, digest=prompt.digest())


def write_speech(ask: Ask, script: Script, ticket: Ticket) -> Written:
    said = ask.conversations[0][0]
    sound = make_sound(said.text, said.counted - 1, ask.raw)
    counts = Counts(said.counted - 1, len(sound) // 64)
    events = partial(_write_speech_events, sound, counts)
    return Written(counts, counts.completion, lambda: sound, events, media=_MEDIA[ask.raw])


def make_sound(text: str, words: int, kind: str) -> bytes:
    """A quarter of a second for each word; a real file only where that needs no compression."""
    samples = bytes([128 + mix(text) % 64]) * int(max(1, words) * SECONDS_PER_WORD * RATE)
    if kind != "wav":
        return (b"" if kind == "pcm" else b"\xff\xfb\x90\x00") + samples
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE, 1, 8)
    data = b"WAVE" + head + struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(data)) + data


def _write_speech_events(sound: bytes, counts: Counts) -> Iterator[Event]:
    for at in range(0, len(sound), 1024):
        audio = base64.b64encode(sound[at : at + 1024]).decode()
        yield TOKEN, orjson.dumps({"type": "speech.audio.delta", "audio": audio})
    yield FINISH, orjson.dumps({"type": "speech.audio.done", "usage": _write_usage(counts)})


def _write_usage(counts: Counts) -> dict[str, int]:
    return {
        "input_tokens": counts.prompt,
        "output_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
    }


def read_recording(body: Body) -> Ask:
    """Validate a form with a recording."""
    file, prompt, shape = body.get("file"), Prompt(), body.get("response_format") or "json"
    if not isinstance(file, dict):
        raise Refused(
            400, "Missing required parameter: 'file'.", param="file", code="missing_required_parameter"
        )
    if shape not in _SHAPES:
        raise Refused(400, f"Invalid value: '{shape}'. Supported values are: {', '.join(_SHAPES)}.",
                      param="response_format", code="invalid_value")  # fmt: skip
    prompt.open("prompt")
    prompt.add_text(str(body.get("prompt") or ""))
    prompt.add_other({"digest": file["digest"], "bytes": file["bytes"]})
    stream = str(body.get("stream", "")).lower() == "true"
    raw = (shape, max(1.0, file["bytes"] / RATE), body.get("language") or "english")
    return Ask(read_model(body), [prompt.turns], stream=stream, raw=raw, digest=prompt.digest())


def write_transcript(ask: Ask, script: Script, ticket: Ticket) -> Written:
    choice = compose_choices(ask, script)[0]
    shape, seconds, _ = ask.raw
    counts = Counts(int(seconds * 10), len(choice.text))
    usage = {"type": "tokens", "input_token_details": {"audio_tokens": counts.prompt, "text_tokens": 0},
             **_write_usage(counts)}  # fmt: skip
    told: dict[str, Any] = {} if "no-usage" in script.parts else {"usage": usage}
    return Written(
        counts,
        counts.completion,
        plain=partial(_write_shape, ask, choice, told),
        events=partial(_write_transcript_events, choice, told),
        media=JSON if shape.endswith("json") else _TEXT,
    )


def _write_shape(ask: Ask, choice: Choice, told: Body) -> bytes:
    shape, seconds, language = ask.raw
    text = "".join(choice.text)
    match shape:
        case "text":
            return f"{text}\n".encode()
        case "srt":
            return f"1\n00:00:00,000 --> {_clock(seconds, ',')}\n{text}\n\n".encode()
        case "vtt":
            return f"WEBVTT\n\n00:00:00.000 --> {_clock(seconds, '.')}\n{text}\n\n".encode()
        case "verbose_json":
            segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": text, "tokens": [], "temperature": 0.0,
                       "avg_logprob": -0.2, "compression_ratio": 1.0, "no_speech_prob": 0.01}  # fmt: skip
            billed = {"usage": {"type": "duration", "seconds": int(-(-seconds // 1))}} if told else {}
            return orjson.dumps({"task": "transcribe", "language": language, "duration": seconds, "text": text,
                                 "segments": [segment], **billed})  # fmt: skip
    return orjson.dumps({"text": text, **told})


def _clock(seconds: float, comma: str) -> str:
    whole, parts = divmod(int(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}{comma}{parts:03d}"


def _write_transcript_events(choice: Choice, told: Body) -> Iterator[Event]:
    for token in choice.text:
        yield TOKEN, orjson.dumps({"type": "transcript.text.delta", "delta": token})
    yield FINISH, orjson.dumps({"type": "transcript.text.done", "text": "".join(choice.text), **told})


SPEECH = Wire(read_speech, write_speech, write_error, frame=frame)
TRANSCRIPTS = Wire(read_recording, write_transcript, write_error, frame=frame, parse=parse_form)
