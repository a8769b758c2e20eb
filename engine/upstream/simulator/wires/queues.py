"""Work behind a queue, as fal has it, and predictions, as Replicate has them: asked for here, looked at later.

`refuse` makes the work fail; `work@2s` says how long it takes (0.15 s otherwise).
"""

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator.compose import compose_choices, count_tokens
from engine.upstream.simulator.dialog import Ask, Refused, Ticket, Wire, Written, no_events
from engine.upstream.simulator.jobs import Job
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.pictures import draw_png
from engine.upstream.simulator.wires.images import name_picture
from engine.upstream.simulator.wires.prompt import Prompt, dump, take_whole
from engine.upstream.simulator.wires.ranking import write_detail

TAKES_S = 0.15
FAILED = "The work was refused by the model."
Body = Mapping[str, Any]


def _read(body: Body, given: Body) -> Ask:
    prompt = Prompt()
    prompt.open("prompt")
    prompt.add_text(str(given.get("prompt") or ""))
    for name in ("image", "image_url", "audio_url", "video_url"):
        if given.get(name):
            prompt.add_other({name: given[name]})
    asked = {name: value for name, value in body.items() if name != "model"}
    return Ask(
        str(body["model"]),
        [prompt.turns],
        n=take_whole(given, "num_images") or take_whole(given, "num_outputs") or 1,
        limit=take_whole(given, "max_tokens"),
        raw=asked,
        digest=prompt.digest(take_whole(given, "seed") or 0),
    )


def read_fal(body: Body) -> Ask:
    """The whole body is the input."""
    if not body.get("prompt"):
        missing = {"loc": ["body", "prompt"], "msg": "field required", "type": "value_error.missing"}
        raise Refused(422, "field required", details={"detail": [missing]})
    return _read(body, body)


def read_replicate(body: Body) -> Ask:
    if not isinstance(body.get("input"), dict):
        raise Refused(422, "- input is required\n")
    model = body.get("model") or body.get("version")
    if not isinstance(model, str):
        raise Refused(422, "- version is required\n")
    return _read({**body, "model": model}, body["input"])


def _make_pictures(ask: Ask, ticket: Ticket) -> list[str]:
    text = ask.conversations[0][0].text
    if ask.raw.get("sync_mode"):
        drawn = (base64.b64encode(draw_png(text, number)).decode() for number in range(ask.n))
        return [f"data:image/png;base64,{picture}" for picture in drawn]
    return [name_picture(ticket, draw_png(text, number)) for number in range(ask.n)]


def _make_job(ask: Ask, script: Script, ticket: Ticket, result: Body) -> Job:
    takes = script.parts.get("work", TAKES_S)
    job = Job(f"job-{ticket.number}", ask.model, ask.raw, result, takes, "refuse" in script.parts)
    job.host = ticket.host
    return job


def _make_fal_result(ask: Ask, ticket: Ticket) -> dict[str, Any]:
    images = [
        {"url": url, "width": 8, "height": 8, "content_type": "image/png"}
        for url in _make_pictures(ask, ticket)
    ]
    prompt = ask.conversations[0][0].text
    return {"images": images, "timings": {"inference": TAKES_S}, "seed": 42, "has_nsfw_concepts": [False] * ask.n,
            "prompt": prompt}  # fmt: skip


def write_fal(ask: Ask, script: Script, ticket: Ticket) -> Written:
    """Put into the queue."""
    counts = count_tokens(ask, script, [])
    job = _make_job(ask, script, ticket, _make_fal_result(ask, ticket))
    told = {"status": "IN_QUEUE", "request_id": job.id, **_name_fal(job), "queue_position": 0}
    return Written(counts, 0, partial(orjson.dumps, told), no_events, job=job)


def write_fal_at_once(ask: Ask, script: Script, ticket: Ticket) -> Written:
    """Without the queue."""
    counts = count_tokens(ask, script, [])
    if "refuse" in script.parts:
        raise Refused(422, FAILED)
    return Written(counts, 0, partial(orjson.dumps, _make_fal_result(ask, ticket)), no_events)


def _name_fal(job: Job) -> dict[str, str]:
    """Addresses hold only the owner and the alias of a model."""
    owner = "/".join(job.model.split("/")[:2])
    place = f"http://{job.host}/queue/{owner}/requests/{job.id}"
    return {"response_url": place, "status_url": f"{place}/status", "cancel_url": f"{place}/cancel"}


def show_fal(job: Job, stage: str, what: str) -> tuple[int, dict[str, Any]]:
    """What a look at the queue finds: a status or a result."""
    named = {"request_id": job.id, **_name_fal(job)}
    if what == "/cancel":
        return (202, {"status": "CANCELLATION_REQUESTED"}) if stage in ("waiting", "running") else (
            400, {"status": "ALREADY_COMPLETED"})  # fmt: skip
    if what == "/status":
        if stage == "waiting":
            return 202, {"status": "IN_QUEUE", "queue_position": 1, **named}
        if stage == "running":
            return 202, {"status": "IN_PROGRESS", "logs": [], **named}
        return 200, {"status": "COMPLETED", "logs": [], "metrics": {"inference_time": job.takes_s}, **named}
    if stage in ("waiting", "running"):
        return 400, {"detail": "Request is still in progress"}
    return (200, dict(job.result)) if stage == "done" else (422, {"detail": FAILED})


def write_replicate(ask: Ask, script: Script, ticket: Ticket) -> Written:
    """A prediction that has begun: text for what reads like a language model, pictures otherwise."""
    wants_text = any(word in script.parts for word in ("tokens", "words", "echo", "large"))
    choices = compose_choices(ask, script) if wants_text else []
    counts = count_tokens(ask, script, choices)
    output = list(choices[0].text) if choices else _make_pictures(ask, ticket)
    job = _make_job(ask, script, ticket, {"output": output})
    job.counts = (
        {"input_token_count": counts.prompt, "output_token_count": counts.completion}
        if choices
        else {"image_count": ask.n}
    )
    _, told = show_replicate(job, "waiting", "")
    return Written(counts, counts.completion, partial(orjson.dumps, told), no_events, status=201, job=job)


_STATUS = {"waiting": "starting", "running": "processing", "done": "succeeded", "cancelled": "canceled"}


def show_replicate(job: Job, stage: str, _what: str) -> tuple[int, dict[str, Any]]:
    done = stage == "done"
    place = f"http://{job.host}/v1/predictions/{job.id}"
    return 200, {
        "id": job.id,
        "model": job.model,
        "version": "hidden",
        "input": job.asked.get("input", {}),
        "logs": "",
        "output": job.result["output"] if done else None,
        "error": FAILED if stage == "failed" else None,
        "status": _STATUS.get(stage, "failed"),
        "created_at": "2024-02-29T12:00:00Z",
        "metrics": {"predict_time": job.takes_s, **job.counts} if done else {},
        "urls": {"get": place, "cancel": f"{place}/cancel"},
    }


def write_problem(refused: Refused) -> bytes:
    title = refused.type.replace("_", " ").capitalize()
    return orjson.dumps(
        {"title": title, "detail": refused.message, "status": refused.status, "type": "about:blank"}
    )


def write_fal_error(refused: Refused) -> bytes:
    return dump(refused.details).encode() if refused.details.get("detail") else write_detail(refused)


FAL_QUEUE = Wire(read_fal, write_fal, write_fal_error)
FAL = Wire(read_fal, write_fal_at_once, write_fal_error)
REPLICATE = Wire(read_replicate, write_replicate, write_problem)
