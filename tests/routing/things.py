"""Hand-made parts of a snapshot: what a test does not name has the contract's default."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from engine.config.build import build_policy
from engine.config.schema_policy import PolicyFile
from engine.config.snapshot import (
    Auth,
    Credential,
    Endpoint,
    Model,
    ParamFixes,
    Policy,
    Price,
    Provider,
    ServerSettings,
    Snapshot,
    Target,
)
from engine.secret import Secret
from engine.wire.doors import Door, DoorTable, open_side_door
from engine.wire.formats import Format, compile_format

FORMAT: Format = compile_format(
    {
        "format": "plain",
        "operation": "chat",
        "framing": "sse",
        "serves": [{"path": "/v1/chat/completions"}],
        "stream_flag": {"stream": True},
        "asked_output": ["$.max_completion_tokens", "$.max_tokens"],
        "keepalive": ": keep-alive\n\n",
        "read_request": {"model": "{{ body.model }}", "turns": []},
        "write_reply": {"id": "{{ answer.id }}"},
        "write_stream": {},
        "write_error": {
            "error": {
                "message": "{{ error.message }}",
                "type": "{{ error.type }}",
                "param": "{{ error.param or null }}",
                "code": "{{ error.code }}",
            },
            "request_id": "{{ error.request_id }}",
        },
    }
)


def make_door(operation: str) -> Door:
    """A door for another operation than chat."""
    return open_side_door(compile_format({"format": "plain", "operation": operation}), "/")


DOOR = Door(FORMAT, FORMAT.client.serves[0])


def make_price(input: str = "1", output: str = "2", **classes: str) -> Price:
    """Amounts are US dollars per token; a class that is left out costs what its nearest one does."""
    read, written = Decimal(input), Decimal(output)
    nearest = {
        "cached_input": read,
        "cache_write": read,
        "cache_write_1h": read,
        "audio_input": read,
        "image_input": read,
    }
    nearest |= {"reasoning": written, "audio_output": written, "image_output": written, "request": Decimal(0)}
    own = {name: Decimal(amount) for name, amount in classes.items()}
    return Price(input=read, output=written, **{**nearest, **own})


def make_policy(**entries: Any) -> Policy:
    return build_policy(PolicyFile.model_validate({"policy": "default", **entries}))


def make_credentials(provider: str, *secrets: str, **facts: Any) -> tuple[Credential, ...]:
    return tuple(
        Credential(f"{provider}#{index}", Secret(secret), **facts) for index, secret in enumerate(secrets)
    )


def make_provider(name: str, **facts: Any) -> Provider:
    endpoint = Endpoint(FORMAT, "/chat/completions")
    defaults: dict[str, Any] = {
        "base_url": f"https://{name}.example/v1",
        "auth": Auth("bearer", "authorization", make_credentials(name, f"key-of-{name}")),
        "endpoints": {"chat": endpoint},
        "headers": {},
        "params": ParamFixes(),
        "stream_usage": "ask",
        "allow_private": False,
        "passthrough": False,
        "simulator": False,
        "enabled": True,
        "reason": "",
        "configured": True,
        "unknown_price": None,
        "prefill": None,
        "models_listing": None,
    }
    return Provider(name=name, **{**defaults, **facts})


def make_target(provider: Provider | str, model: str = "m", **facts: Any) -> Target:
    owner = make_provider(provider) if isinstance(provider, str) else provider
    defaults: dict[str, Any] = {
        "weight": 1,
        "prefill": False,
        "price": None,
        "context": None,
        "output": None,
    }
    return Target(provider=owner, model=model, **{**defaults, **facts})


def make_model(name: str, *targets: Target, **facts: Any) -> Model:
    policy = facts.pop("policy", None) or make_policy()
    defaults: dict[str, Any] = {
        "aliases": (),
        "capabilities": frozenset({"chat"}),
        "context": None,
        "output": None,
        "price": make_price(),
        "strategy": "failover",
        "timeouts": policy.timeouts,
        "created": 0,
        "owned_by": "somebody",
    }
    return Model(name=name, policy=policy, targets=targets, **{**defaults, **facts})


def make_snapshot(*models: Model, providers: Mapping[str, Provider] | None = None) -> Snapshot:
    found = {target.provider.name: target.provider for model in models for target in model.targets}
    return Snapshot(
        version="0" * 64,
        loaded_at=0.0,
        server=ServerSettings("127.0.0.1", 8000, 1, 1 << 20, 1 << 20, 1 << 16, 10, 60, 75, 0, 120),
        models={model.name: model for model in models},
        names={name: model for model in models for name in (model.name, *model.aliases)},
        providers={**found, **(providers or {})},
        policies={"default": make_policy()},
        formats={"plain": FORMAT},
        doors=DoorTable([DOOR], FORMAT),
        surfaces={"chat": FORMAT},
        settings=None,
    )
