"""`gatewayz rls`: row-level security and privileges, so that nobody but the gateway reads its tables."""

import argparse
import json

from engine.storage.command_line import StorageSettings, Subparsers, finish_parser, run_work, say, show
from engine.storage.postgres import Connection
from engine.storage.row_security import Found, close_schema, read_catalogue, write_statements


def add_rls_commands(subparsers: Subparsers) -> None:
    rls = subparsers.add_parser("rls", help="close the tables to every role but the gateway's own")
    which = rls.add_mutually_exclusive_group(required=True)
    which.add_argument("--print", action="store_true", help="write the SQL, run nothing")
    which.add_argument("--apply", action="store_true", help="run it, in one transaction")
    finish_parser(rls, close_or_print)


def close_or_print(args: argparse.Namespace) -> int:
    """`gatewayz rls`: 1 when something of the schema belongs to another role and was left as it is."""

    async def work(connection: Connection, settings: StorageSettings) -> int:
        if args.apply:
            found = await close_schema(connection)
            _report(found, args.format)
        else:
            found = await read_catalogue(connection)
            _print_sql(connection, found, args.format)
        if found.left_alone:
            say(f"these belong to other roles and are left as they are: {', '.join(found.left_alone)}")
        return 1 if found.left_alone else 0

    return run_work(work, migrated=args.apply)


def _print_sql(connection: Connection, found: Found, form: str) -> None:
    statements = [statement.as_string(connection) for statement in write_statements(found)]
    if form == "json":
        show(json.dumps({"statements": statements}))
    else:
        show("\n".join(["BEGIN;", *(f"{statement};" for statement in statements), "COMMIT;"]))


def _report(found: Found, form: str) -> None:
    relations = [relation.name for relation in found.relations if relation.ours]
    routines = [routine.name for routine in found.routines if routine.ours]
    if form == "json":
        closed_to = ["PUBLIC", *found.shut_out]
        show(json.dumps({"relations": relations, "routines": routines, "closed_to": closed_to}))
        return
    show(
        f"{len(relations)} tables, views and sequences and {len(routines)} functions of {found.schema} are closed"
        f" to {', '.join(['PUBLIC', *found.shut_out])}"
    )
