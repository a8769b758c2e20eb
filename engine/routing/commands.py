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
from engine.config.snapshot import Credential, Provider, Snapshot, Target
from engine.errors import GatewayError
from engine.routing.attempts import describe_target
from engine.routing.balance import Latencies, estimate_cost, order_targets
from engine.routing.names import follow_name
from engine.routing.resolve import Plan, make_plan
from engine.secret import Secret
from engine.upstream.exchange import render_body, render_head, render_headers
from engine.wire.doors import open_side_door
from engine.wire.operations import OPERATIONS
from engine.wire.requests import read_request
from engine.wire.translation import open_translation

SAMPLE = b'{"messages":[{"role":"user","content":"hi"}]}'
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
        parser.add_argument("--operation", choices=OPERATIONS, default="chat")
        parser.add_argument("--format", choices=("text", "json"), default="text")
        parser.set_defaults(run=run)


def run_explain(args: argparse.Namespace) -> int:
    snapshot = load_snapshot(args.config)
    call = read_call(snapshot, args.operation, args.model)
    try:
        plan = make_plan(snapshot, Caller("cli", "cli", unlimited=True), args.model, args.operation)
    except GatewayError as error:
        refusal, plan = error.message, None
    else:
        refusal = ""
    document = explain_name(call, plan)
    if document is not None:
        print(json.dumps(document) if args.format == "json" else "\n".join(word_explanation(document)))
    if refusal:
        print(refusal, file=sys.stderr)
    return 1 if refusal else 0


def explain_name(call: Call, plan: Plan | None) -> dict[str, Any] | None:
    """How the name was found, who is asked in which order, who is not and why, and the most it could cost.
    None for a name that nobody has; without a plan nobody is asked.
    """
    found = follow_name(call.snapshot, call.requested_model)
    if found is None:
        return None
    model = found.model
    asked = list_asked(call, plan) if plan is not None else []
    usable = {target.name for target in plan.targets} if plan is not None else set()
    costs = [Decimal(target["at_most_usd"]) for target in asked]
    return {
        "requested_model": call.requested_model,
        "model": model.name,
        "rule": found.steps[0][1].why,
        "steps": [describe_step(name, decision) for name, decision in found.steps],
        "strategy": model.strategy,
        "policy": model.policy.name,
        "targets": asked,
        "left_out": [
            {"provider": target.provider.name, "model": target.model, "reason": name_reason(call, target)}
            for target in model.targets
            if target.name not in usable
        ],
        "at_most_usd": format_usd(max(costs)) if costs else None,
    }


def list_asked(call: Call, plan: Plan) -> list[dict[str, Any]]:
    """The plan's targets in order, and the most that the call could cost at each."""
    tokens = estimate_input_tokens(call.request)
    wanted = call.request.get("max_completion_tokens") or call.request.get("max_tokens")
    output = wanted if isinstance(wanted, int) else plan.model.output or plan.policy.assume_output_tokens
    ordered = order_targets(plan, Latencies(), lambda: 0.5, input_tokens=tokens, output_tokens=output)
    return [
        {
            "provider": target.provider.name,
            "model": target.model,
            "weight": target.weight,
            "prefill": target.prefill,
            "at_most_usd": format_usd(estimate_cost(plan, target, tokens, output)),
        }
        for target in ordered
    ]


def describe_step(name: str, decision: Decision) -> dict[str, Any]:
    """One step of the way: a name, the rule that decided, where it is written, and what it made of the name."""
    asks = [{"provider": ask.provider, "model": ask.model} for ask in decision.asks]
    return {"name": name, "rule": decision.why, "place": decision.place, "use": decision.use, "ask": asks}


def name_reason(call: Call, target: Target) -> str:
    """Why nobody asks this target."""
    if call.operation not in target.provider.endpoints:
        return f"does not serve {call.operation}"
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
        cost = f"at most {target['at_most_usd']} USD"
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
    call = read_call(snapshot, args.operation, args.model or "")
    try:
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
    endpoint = provider.endpoints[call.operation]
    surface = call.door.format
    if endpoint.format.name == surface.name:
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
            **{name.lower(): value for name, value in shown.items()},
        },
        "body": orjson.loads(body),
    }


def load_snapshot(config: str | None) -> Snapshot:
    loader = Loader(read_settings(config=config), read_environment())
    return loader.prepare(loader.read(), run_examples=False)


def read_call(snapshot: Snapshot, operation: str, model: str) -> Call:
    """A call from standard input, or a one-word chat when there is none."""
    text = SAMPLE if sys.stdin.isatty() else sys.stdin.buffer.read().strip() or SAMPLE
    body = orjson.loads(text)
    body.setdefault("model", model)
    if operation != "chat" and text == SAMPLE:
        body = {"model": body["model"], "prompt" if operation == "completions" else "input": "hi"}
    now = time.time()
    door = open_side_door(snapshot.surfaces[operation], "cli")
    call = Call("cli", "cli", door, now, 0.0, snapshot, body=orjson.dumps(body))
    read_request(call)
    return call
