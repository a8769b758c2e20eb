"""`gatewayz explain MODEL` and `gatewayz render PROVIDER`: what would happen, without anything happening."""

import argparse
import json
import sys
import time
from decimal import Decimal
from typing import Any

import orjson

from engine.billing.books import estimate_input_tokens, format_usd
from engine.call import Call, Caller
from engine.config.naming import Decision
from engine.config.reload import Loader
from engine.config.settings import read_environment, read_settings
from engine.config.snapshot import Credential, Model, Provider, Snapshot, Target
from engine.errors import GatewayError, InvalidRequest
from engine.routing.attempts import describe_target, must_be_told_anew
from engine.routing.balance import Latencies, estimate_cost, order_targets
from engine.routing.names import Found, follow_name
from engine.routing.resolve import Plan, find_price, make_plan
from engine.secret import Secret
from engine.upstream.exchange import MADE_FOR_EACH_REQUEST, render_body, render_head, render_headers
from engine.wire.doors import open_side_door
from engine.wire.operations import OPERATIONS
from engine.wire.requests import read_request
from engine.wire.translation import open_translation
from engine.wire.usage import UNITS

_CHAT = {"messages": [{"role": "user", "content": "hi"}]}
SAMPLES: dict[str, dict[str, Any]] = {
    "chat": _CHAT,
    "count_tokens": _CHAT,
    "completions": {"prompt": "hi"},
    "images": {"prompt": "hi"},
    "image_edits": {"prompt": "hi"},
    "rerank": {"query": "hi", "documents": ["hi"]},
    "speech": {"input": "hi", "voice": "alloy"},
}
"""A small request for each operation; of the others: an input."""
_MASKED = Secret("***")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    explain = subparsers.add_parser(
        "explain", help="which targets would be tried, in what order, why, and the cost"
    )
    explain.add_argument("model")
    render = subparsers.add_parser("render", help="the exact upstream request for a chat on standard input")
    render.add_argument("provider")
    render.add_argument("--model", help="the provider's own name for the model (default: the chat's)")
    for parser, run in ((explain, run_explain), (render, run_render)):
        parser.add_argument("-c", "--config", metavar="FILE", help="gateway.yaml")
        parser.add_argument("--operation", choices=OPERATIONS, default="chat" if run is run_render else None)
        parser.add_argument("--format", choices=("text", "json"), default="text")
        parser.set_defaults(run=run)


def run_explain(args: argparse.Namespace) -> int:
    snapshot = load_snapshot(args.config)
    found = follow_name(snapshot, args.model)
    operation = args.operation or name_operation(found.model if found else None)
    plan, refusal = None, ""
    try:
        plan = make_plan(snapshot, Caller("cli", "cli", unlimited=True), args.model, operation)
    except GatewayError as error:
        refusal = error.message
    try:
        body = read_body(operation, args.model)
    except InvalidRequest as wrong:
        print(wrong.message, file=sys.stderr)
        return 1
    if found is not None:
        document = explain_name(args.model, found, operation, plan, body)
        print(json.dumps(document) if args.format == "json" else "\n".join(word_explanation(document)))
    if refusal:
        print(refusal, file=sys.stderr)
    return 1 if refusal else 0


def name_operation(model: Model | None) -> str:
    """What a model is for, as its capabilities say; chat, when they do not."""
    capabilities = model.capabilities if model is not None else frozenset()
    fitting = (
        operation
        for operation in OPERATIONS
        if operation.rstrip("s") in {w.rstrip("s") for w in capabilities}
    )
    return next(fitting, "chat")


def explain_name(
    name: str, found: Found, operation: str, plan: Plan | None, request: dict[str, Any]
) -> dict[str, Any]:
    """How the name was found, who is asked in which order, who is not and why, and the most it could cost.
    Without a plan nobody is asked.
    """
    model = found.model
    asked = list_asked(request, plan) if plan is not None else []
    usable = {target.name for target in plan.targets} if plan is not None else set()
    costs = [Decimal(target["at_most_usd"]) for target in asked]
    return {
        "requested_model": name,
        "model": model.name,
        "operation": operation,
        "rule": found.steps[0][1].why,
        "steps": [describe_step(step, decision) for step, decision in found.steps],
        "strategy": model.strategy,
        "policy": model.policy.name,
        "targets": asked,
        "left_out": [
            {
                "provider": target.provider.name,
                "model": target.model,
                "reason": name_reason(operation, target),
            }
            for target in model.targets
            if target.name not in usable
        ],
        "at_most_usd": format_usd(max(costs)) if costs else None,
    }


def list_asked(request: dict[str, Any], plan: Plan) -> list[dict[str, Any]]:
    """The plan's targets in order, the most that the call could cost at each in tokens, and prices of units."""
    tokens = estimate_input_tokens(request)
    wanted = request.get("max_completion_tokens") or request.get("max_tokens")
    output = wanted if isinstance(wanted, int) else plan.model.output or plan.policy.assume_output_tokens
    ordered = order_targets(plan, Latencies(), lambda: 0.5, input_tokens=tokens, output_tokens=output)
    return [
        {
            "provider": target.provider.name,
            "model": target.model,
            "weight": target.weight,
            "prefill": target.prefill,
            "at_most_usd": format_usd(estimate_most(plan, target, tokens, output)),
            "unit_prices": {
                UNITS[unit]: format_usd(amount)
                for unit, amount in find_price(plan.model, target).units.items()
            },
        }
        for target in ordered
    ]


def estimate_most(plan: Plan, target: Target, input_tokens: int, output_tokens: int) -> Decimal:
    """As if every token that is written were of the dearer class."""
    price = find_price(plan.model, target)
    dearer = max(price.reasoning - price.output, Decimal(0))
    return estimate_cost(plan, target, input_tokens, output_tokens) + dearer * output_tokens


def describe_step(name: str, decision: Decision) -> dict[str, Any]:
    """One step of the way: a name, the rule that decided, where it is written, and what it made of the name."""
    asks = [{"provider": ask.provider, "model": ask.model} for ask in decision.asks]
    return {"name": name, "rule": decision.why, "place": decision.place, "use": decision.use, "ask": asks}


def name_reason(operation: str, target: Target) -> str:
    """Why nobody asks this target."""
    if operation not in target.provider.endpoints:
        return f"does not serve {operation}"
    return target.provider.reason or "its model cannot be asked"


def word_explanation(document: dict[str, Any]) -> list[str]:
    lines = [
        f"{document['requested_model']} -> {document['model']} ({document['rule']}; "
        f"strategy {document['strategy']}, policy {document['policy']})"
    ]
    if len(document["steps"]) > 1 or document["steps"][0]["place"]:
        lines += map(word_step, document["steps"])
    for number, target in enumerate(document["targets"], 1):
        extra = ", prefill" if target["prefill"] else ""
        units = [f"{price} USD {unit.replace('_', ' ')}" for unit, price in target["unit_prices"].items()]
        cost = ", ".join(units) or f"at most {target['at_most_usd']} USD"
        lines.append(
            f"  {number}. {target['provider']}: {target['model']} (weight {target['weight']:g}{extra}; {cost})"
        )
    for target in document["left_out"]:
        lines.append(f"  -  {target['provider']}: {target['model']} (left out: {target['reason']})")
    return lines


def word_step(step: dict[str, Any]) -> str:
    asked = ", ".join(f"{ask['provider']}/{ask['model']}" for ask in step["ask"])
    place = f", {step['place']}" if step["place"] else ""
    return f"  {step['name']} -> {asked or step['use']} ({step['rule']}{place})"


def run_render(args: argparse.Namespace) -> int:
    snapshot = load_snapshot(args.config)
    provider = snapshot.providers.get(args.provider)
    if provider is None or args.operation not in provider.endpoints:
        print(f"no provider {args.provider!r} that serves {args.operation}", file=sys.stderr)
        return 1
    try:
        call = read_call(snapshot, args.operation, args.model or "")
        document = render_request(call, provider, args.model or call.requested_model)
    except GatewayError as error:
        print(error.message, file=sys.stderr)
        return 1
    if args.format == "json":
        print(json.dumps(document))
    else:
        print(f"{document['method']} {document['url']}")
        print("\n".join(f"{name}: {value}" for name, value in document["headers"].items()))
        print(f"\n{json.dumps(document['body'], indent=2, ensure_ascii=False)}")
    return 0


def render_request(call: Call, provider: Provider, model: str) -> dict[str, Any]:
    """The upstream request of this call as a document, every secret masked."""
    target = Target(provider, model, weight=1, prefill=False, price=None, context=None, output=None)
    surface = call.door.format
    endpoint = provider.find_endpoint(call.operation, surface.name)
    if endpoint.format.name == surface.name and not must_be_told_anew(call, target, endpoint):
        body = render_body(call, target, endpoint)
    else:
        translation = open_translation(call, surface, endpoint.format, describe_target(call, target))
        body = translation.render(provider.params.edits(translation.body, model))
    credential = Credential("masked", _MASKED)
    origin, head = render_head(provider, credential, endpoint.path_for(target, stream=call.stream))
    path = head.split(b" ", 2)[1].decode()
    shown = {name: "***" if isinstance(value, Secret) else value for name, value in provider.headers.items()}
    return {
        "method": "POST",
        "url": f"{origin}{path}",
        "headers": {
            **render_headers(provider, credential),
            **({"authorization": "***"} if provider.auth.kind in MADE_FOR_EACH_REQUEST else {}),
            **{name.lower(): value for name, value in shown.items()},
        },
        "body": orjson.loads(body),
    }


def load_snapshot(config: str | None) -> Snapshot:
    loader = Loader(read_settings(config=config), read_environment())
    return loader.prepare(loader.read(), run_examples=False)


def read_body(operation: str, model: str) -> dict[str, Any]:
    """The request on standard input, or a small one when there is none. Raises InvalidRequest."""
    text = b"" if sys.stdin.isatty() else sys.stdin.buffer.read().strip()
    try:
        body = orjson.loads(text) if text else dict(SAMPLES.get(operation, {"input": "hi"}))
    except orjson.JSONDecodeError as wrong:
        raise InvalidRequest(f"what came on standard input is not JSON: {wrong}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("a JSON object is expected on standard input")
    body.setdefault("model", model)
    return body


def read_call(snapshot: Snapshot, operation: str, model: str) -> Call:
    """A call with that body, at the door of its operation."""
    body = read_body(operation, model)
    now = time.time()
    door = open_side_door(snapshot.surfaces[operation], "cli")
    call = Call("cli", "cli", door, now, 0.0, snapshot, body=orjson.dumps(body))
    read_request(call)
    return call
