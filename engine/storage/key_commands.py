"""`gatewayz keys`: create, list, rotate and revoke API keys."""

import argparse
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config.reload import Loader
from engine.config.roles import ONLY_ADMINISTRATORS, Roles
from engine.config.settings import read_environment, read_settings
from engine.config.yamltree import parse_document
from engine.errors import ConfigRefused, GatewayError, InvalidRequest
from engine.storage.command_line import (
    StorageSettings,
    Subparsers,
    finish_parser,
    load_ring,
    run_work,
    say,
    show,
)
from engine.storage.issuing import DEFAULT_USER, IssuedKey, KeyRequest, issue_key
from engine.storage.key_changes import Which, revoke_key, rotate_keys
from engine.storage.key_listing import list_keys
from engine.storage.key_rules import KeyRules, read_scopes, word_problem
from engine.storage.postgres import Connection
from engine.storage.secrets import ENVIRONMENTS

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 10 * 366 * 86400


def add_key_commands(subparsers: Subparsers) -> None:
    keys = subparsers.add_parser("keys", help="create, list, rotate and revoke API keys").add_subparsers(
        required=True
    )
    _add_create(keys.add_parser("create", help="create a key and print it, once"))
    finish_parser(keys.add_parser("list", help="list all keys"), show_keys)
    rotate = keys.add_parser("rotate", help="give keys new texts and print them, once")
    rotate.add_argument(
        "id", metavar="ID", nargs="?", help="a key's id; without it, all that the options name"
    )
    rotate.add_argument("--user", metavar="EMAIL", help="all active keys of this user")
    rotate.add_argument("--environment", choices=ENVIRONMENTS, help="only keys of this environment")
    rotate.add_argument(
        "--grace", type=read_span_s, default=0.0, metavar="SPAN", help="the old text stays valid"
    )
    finish_parser(rotate, rotate_some)
    revoke = keys.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("id", metavar="ID")
    finish_parser(revoke, end_key)


def _add_create(create: argparse.ArgumentParser) -> None:
    add = create.add_argument
    add("--name", required=True, help="what the key is for")
    add("--user", default=DEFAULT_USER, metavar="EMAIL", help="who pays (default: %(default)s)")
    add(
        "--role",
        default="user",
        metavar="ROLE",
        help="user, developer, admin or one of your files; a user with less gets it",
    )
    add("--credit", type=_read_amount, default=Decimal(0), metavar="USD", help="given to the user")
    add("--environment", choices=ENVIRONMENTS, default="live")
    add(
        "--scope",
        action="append",
        metavar="SCOPE",
        help="inference, models:GLOB, read or admin; may be repeated",
    )
    add("--models", metavar="A,B", help="globs of the models it may use (default: all)")
    add("--providers", metavar="A,B", help="globs of the providers it may reach (default: all)")
    add("--expires", type=read_end, metavar="WHEN", help="a span such as 30d, or a time with its zone")
    add("--allow-ip", action="append", metavar="CIDR", help="a network it may be used from")
    add("--referrer", action="append", metavar="HOST", help="a host whose pages may use it")
    add("--max-requests", type=int, metavar="N", help="calls in all its life")
    add("--max-spend", metavar="USD", help="US dollars in all its life")
    add(
        "--limits",
        type=Path,
        metavar="FILE",
        help="its own limits: YAML in the shape of a policy's limits.key, and its `budgets`",
    )
    finish_parser(create, create_key)


def _read_amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount such as 12.50") from None
    if not amount.is_finite() or not 0 <= amount < 10**12:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 10^12")
    return amount


def read_span_s(text: str) -> float:
    """`90s`, `15m`, `24h` or `30d` in seconds."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None or int(found[1]) * _UNITS_S[found[2]] > _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a span such as 24h or 30d, of ten years at most")
    return float(int(found[1]) * _UNITS_S[found[2]])


def read_end(text: str) -> datetime:
    """A span from now, or a moment with its time zone."""
    if re.fullmatch(r"\d+[smhd]", text):
        return datetime.now(UTC) + timedelta(seconds=read_span_s(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 30d or a time such as 2027-01-31T12:00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no time zone: write it as 2027-01-31T12:00:00Z")
    return moment


def read_roles(role: str) -> Roles:
    """The roles of the configuration, which is not read for those that every installation has."""
    if role in ONLY_ADMINISTRATORS:
        return ONLY_ADMINISTRATORS
    loader = Loader(read_settings(), read_environment())
    roles = loader.prepare(loader.read(), run_examples=False).roles
    if role not in roles:
        raise InvalidRequest(f"no file declares the role {role}: there are {', '.join(sorted(roles.files))}")
    return roles


def read_request(args: argparse.Namespace) -> KeyRequest:
    """What the arguments ask for. Raises InvalidRequest."""
    roles = read_roles(args.role)
    usual = ("inference", "admin") if args.role == "admin" else ("inference",)
    given: dict[str, Any] = {
        "providers": args.providers.split(",") if args.providers else None,
        "ip_allowlist": args.allow_ip or (),
        "referrers": args.referrer or (),
        "max_requests": args.max_requests,
        "max_spend_usd": args.max_spend,
    }
    if args.limits:
        given |= read_limits_file(args.limits)
    try:
        scopes, rules = read_scopes(args.scope or usual), KeyRules.model_validate(given)
    except ValidationError as problem:
        raise word_problem(problem) from None
    except ValueError as problem:
        raise InvalidRequest(str(problem)) from None
    return KeyRequest(
        name=args.name,
        user=args.user,
        role=args.role,
        raises_owner=roles,
        environment=args.environment,
        models=tuple(args.models.split(",")) if args.models else None,
        scopes=scopes,
        credit_usd=args.credit,
        expires_at=args.expires,
        rules=rules,
    )


def read_limits_file(path: Path) -> dict[str, Any]:
    """Limits and budgets, as they stand side by side in one file."""
    try:
        document = parse_document(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from None
    if document.problems:
        line, column, _, message = document.problems[0]
        raise InvalidRequest(f"{path}:{line}:{column} {message}")
    tree = document.tree
    if isinstance(tree, dict) and "budgets" in tree:
        limits = {name: value for name, value in tree.items() if name != "budgets"}
        return {"limits": limits or None, "budgets": tree["budgets"]}
    return {"limits": tree}


def create_key(args: argparse.Namespace) -> int:
    """`gatewayz keys create`: the key alone is the last line of stdout."""
    try:
        asked = read_request(args)
    except GatewayError as refusal:
        say(refusal.message)
        return 2
    except ConfigRefused as refusal:
        say(str(refusal))
        return 2

    async def work(connection: Connection, settings: StorageSettings) -> int:
        _show_issued(await issue_key(connection, load_ring(settings), asked), args.format)
        return 0

    return run_work(work)


def _show_issued(issued: IssuedKey, format: str) -> None:
    if format == "json":
        show(json.dumps(issued.show()))
    else:
        say(f"{issued.id} {issued.name} ({issued.role}), shown once:")
        show(issued.key.reveal())


def show_keys(args: argparse.Namespace) -> int:
    """`gatewayz keys list`."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        for key in await list_keys(connection):
            show(json.dumps(key) if args.format == "json" else _show_row(key))
        return 0

    return run_work(work)


def rotate_some(args: argparse.Namespace) -> int:
    """`gatewayz keys rotate`: running gateways take the new text at once, and the old one for as long as was said."""
    which = Which(args.id, environment=args.environment, email=args.user)
    if which == Which():
        say("name a key, --user or --environment: all keys at once are never meant")
        return 2

    async def work(connection: Connection, settings: StorageSettings) -> int:
        issued = await rotate_keys(connection, load_ring(settings), which, args.grace)
        for each in issued:
            _show_issued(each, args.format)
        if not issued:
            say("there is no such active key: see `gatewayz keys list`")
        return 0 if issued else 1

    return run_work(work)


def end_key(args: argparse.Namespace) -> int:
    """`gatewayz keys revoke`: running gateways refuse the key within a second."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        if not await revoke_key(connection, load_ring(settings), args.id):
            say(f"there is no key {args.id}: see `gatewayz keys list`")
            return 1
        ended = {"id": args.id, "revoked": True}
        show(json.dumps(ended) if args.format == "json" else f"{args.id} revoked")
        return 0

    return run_work(work)


def _show_row(key: dict[str, Any]) -> str:
    state = "revoked" if key["revoked_at"] else "active"
    used = key["last_used_at"] or "never"
    what = f"{key['id']}  ...{key['last4']}  {key['role']:<5}  {state:<7}"
    return f"{what}  {key['user']}  {key['name']}  last used {used}"
