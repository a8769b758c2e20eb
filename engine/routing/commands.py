"""`gatewayz explain MODEL` and `gatewayz render PROVIDER`: what would happen, without anything happening."""

import argparse
import json
import sys
import time
from typing import Any

import orjson

from engine.billing.books import estimate_input_tokens, format_usd
from engine.call import Call, Caller
from engine.config.reload import Loader
from engine.config.settings import read_environment, read_settings
from engine.config.snapshot import Credential, Provider, Snapshot, Target
from engine.errors import GatewayError
from engine.routing.attempts import describe_target
from engine.routing.balance import Latencies, estimate_cost, order_targets
from engine.routing.resolve import Plan, make_plan
from engine.secret import Secret
from engine.upstream.exchange import render_body, render_head, render_headers
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
        parser.add_argument("--operation", choices=("chat", "completions", "embeddings"), default="chat")
        parser.add_argument("--format", choices=("text", "json"), default="text")
        parser.set_defaults(run=run)


def run_explain(args: argparse.Namespace) -> int:
    snapshot = load_snapshot(args.config)
    call = read_call(snapshot, args.operation, args.model)
    try:
        plan = make_plan(snapshot, Caller("cli", "cli", unlimited=True), args.model, args.operation)
    except GatewayError as error:
        print(error.message, file=sys.stderr)
        return 1
    document = explain_plan(call, plan)
    if args.format == "json":
        print(json.dumps(document))
    else:
        print("\n".join(word_explanation(document)))
    return 0


def explain_plan(call: Call, plan: Plan) -> dict[str, Any]:
    """Which targets are asked in which order, and the most that the call could cost at each."""
    model, tokens = plan.model, estimate_input_tokens(call.request)
    wanted = call.request.get("max_completion_tokens") or call.request.get("max_tokens")
    output = wanted if isinstance(wanted, int) else model.output or plan.policy.assume_output_tokens
    ordered = order_targets(plan, Latencies(), lambda: 0.5, input_tokens=tokens, output_tokens=output)
    targets = [
        {
            "provider": target.provider.name,
            "model": target.model,
            "weight": target.weight,
            "prefill": target.prefill,
            "at_most_usd": format_usd(estimate_cost(plan, target, tokens, output)),
        }
        for target in ordered
    ]
    left_out = [
        {"provider": target.provider.name, "model": target.model, "reason": target.provider.reason}
        for target in model.targets
        if target not in plan.targets
    ]
    return {
        "requested_model": call.requested_model,
        "model": model.name,
        "rule": name_rule(call.snapshot, call.requested_model),
        "strategy": model.strategy,
        "policy": plan.policy.name,
        "targets": targets,
        "left_out": left_out,
    }


def name_rule(snapshot: Snapshot, name: str) -> str:
    """How the name was found."""
    if name in snapshot.models:
        return "models.d lists it"
    return "an alias in models.d" if name in snapshot.names else "passthrough: provider/model-id"


def word_explanation(document: dict[str, Any]) -> list[str]:
    lines = [
        f"{document['requested_model']} -> {document['model']} ({document['rule']}; "
        f"strategy {document['strategy']}, policy {document['policy']})"
    ]
    for number, target in enumerate(document["targets"], 1):
        extra = ", prefill" if target["prefill"] else ""
        cost = f"at most {target['at_most_usd']} USD"
        lines.append(
            f"  {number}. {target['provider']}: {target['model']} (weight {target['weight']:g}{extra}; {cost})"
        )
    for target in document["left_out"]:
        lines.append(f"  -  {target['provider']}: {target['model']} (left out: {target['reason']})")
    return lines


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
    surface = call.snapshot.surfaces[call.operation]
    if endpoint.format.name == surface.name:
        body = render_body(call, target, endpoint)
    else:
        translation = open_translation(call, surface, endpoint.format, describe_target(call, target))
        body = translation.render(provider.params.edits(translation.body))
    credential = Credential("masked", _MASKED)
    origin, head = render_head(provider, credential, endpoint.path_for(target))
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
    call = Call("cli", "cli", operation, "cli", now, 0.0, snapshot, body=orjson.dumps(body))
    read_request(call)
    return call
