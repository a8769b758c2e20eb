"""`gatewayz rls` on a real database whose gateway is no superuser, beside Supabase's roles and their grants."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from cryptography.fernet import Fernet
from psycopg import sql
from psycopg.conninfo import make_conninfo

from engine.errors import NotFound
from engine.storage.interfaces import StorageRefused
from engine.storage.issuing import KeyRequest, issue_key
from engine.storage.ledger import grant, read_balance
from engine.storage.migrations import Migration, list_migrations, migrate
from engine.storage.postgres import Connection
from engine.storage.row_security import close_schema, read_catalogue, write_statements
from engine.storage.secrets import KeyRing
from engine.storage.users import get_or_create_user

ROOT = Path(__file__).parents[2]
NAME = "rls_test"
OWNER = "Gate Way"
STRANGERS = ("anon", "authenticated")
LATER = Migration(
    "9999_later.sql",
    "CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, secret text);"
    "CREATE VIEW seen AS SELECT secret FROM later;"
    "INSERT INTO later (secret) VALUES ('s');"
    "CREATE FUNCTION tell_later() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT secret FROM later';",
)
SHAPE = """
SELECT 'r', relname::text, relacl::text, relrowsecurity::text, relforcerowsecurity::text FROM pg_class
  WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT 'f', oid::regprocedure::text, proacl::text, '', '' FROM pg_proc
  WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'p', polrelid::regclass::text, polname::text, polroles::text, oid::text FROM pg_policy
UNION ALL SELECT 'd', defaclobjtype::text, defaclacl::text, defaclnamespace::text, '' FROM pg_default_acl
ORDER BY 1, 2, 3, 4, 5
"""


@pytest.fixture
def admin(server_url: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection to the server; the database and the roles of these tests go with it."""
    with psycopg.connect(server_url, autocommit=True) as opened:
        drop_all(opened)
        for role in (*STRANGERS, OWNER):
            opened.execute(
                sql.SQL("CREATE ROLE {} NOLOGIN NOSUPERUSER NOBYPASSRLS").format(sql.Identifier(role))
            )
        opened.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(NAME), sql.Identifier(OWNER))
        )
        yield opened
        drop_all(opened)


def drop_all(admin: psycopg.Connection) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(NAME)))
    for role in (*STRANGERS, OWNER):
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def url_as(server_url: str, role: str) -> str:
    escaped = role.replace(" ", "\\ ")
    return make_conninfo(server_url, dbname=NAME, options=f"-c role={escaped}")


@pytest.fixture
async def gateway(admin: psycopg.Connection, server_url: str) -> AsyncIterator[Connection]:
    """The gateway's own role in a migrated database where everything is granted to strangers, as Supabase does."""
    async with await psycopg.AsyncConnection.connect(url_as(server_url, OWNER), autocommit=True) as opened:
        for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
            await opened.execute(
                f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {kind} TO anon, authenticated".encode()
            )
        await migrate(opened)
        await opened.execute("GRANT SELECT (email) ON users TO anon, PUBLIC")
        await opened.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO anon WITH GRANT OPTION")
        await opened.execute("SET ROLE anon")
        await opened.execute("GRANT SELECT ON api_keys TO authenticated")
        await opened.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(OWNER)))
        yield opened


async def list_attempts(gateway: Connection) -> list[sql.Composed]:
    """Everything that a stranger could try on what the catalogue holds, read by other words than the engine's."""
    relations = await gateway.execute(
        "SELECT relname, relkind::text, (SELECT attname FROM pg_attribute"
        "  WHERE attrelid = c.oid AND attnum > 0 AND attidentity = '' AND NOT attisdropped LIMIT 1)"
        " FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')"
    )
    tried: list[sql.Composed] = []
    for name, kind, column in await relations.fetchall():
        forms = [
            "SELECT * FROM {0}", "INSERT INTO {0} DEFAULT VALUES", "UPDATE {0} SET {1} = {1}", "DELETE FROM {0}",
            "TRUNCATE {0} CASCADE", "SELECT {1} FROM {0}",
        ]  # fmt: skip
        if kind == "S":
            forms = ["SELECT * FROM {0}", "SELECT nextval({2})", "SELECT setval({2}, 1)"]
        if kind == "v":
            forms.remove("TRUNCATE {0} CASCADE")
        for form in forms:
            names = (sql.Identifier(name), sql.Identifier(column), sql.Literal(f'public."{name}"'))
            tried.append(sql.SQL(form).format(*names))  # type: ignore[arg-type]
    routines = await gateway.execute(
        "SELECT proname, pronargs, ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) t)"
        " FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prorettype <> 'trigger'::regtype"
    )
    for name, _, types in await routines.fetchall():
        nulls = ", ".join(f"NULL::{each}" for each in types)
        tried.append(sql.SQL("SELECT {}(" + nulls + ")").format(sql.Identifier(name)))  # type: ignore[arg-type]
    return tried


async def try_as(gateway: Connection, role: str, statement: sql.Composed) -> str:
    """`refused` when the role lacks the privilege, else what else happened; nothing stays of it."""
    try:
        async with gateway.transaction(force_rollback=True):
            await gateway.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            await gateway.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return "refused"
    except psycopg.Error as error:
        return f"reached: {error}"
    return "done"


async def list_reached(gateway: Connection) -> list[tuple[str, str]]:
    attempts = await list_attempts(gateway)
    assert len(attempts) > 200
    return [
        (role, attempt.as_string(gateway))
        for role in STRANGERS
        for attempt in attempts
        if await try_as(gateway, role, attempt) != "refused"
    ]


async def read_shape(gateway: Connection) -> list[tuple[str, ...]]:
    return await (await gateway.execute(SHAPE.encode())).fetchall()


async def test_a_stranger_reaches_nothing_of_the_catalogue(gateway: Connection) -> None:
    open_before = await list_reached(gateway)
    assert ("authenticated", 'SELECT * FROM "api_keys"') in open_before and len(open_before) > 300
    await close_schema(gateway)
    assert await list_reached(gateway) == []
    rows = await gateway.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert await rows.fetchall() == []


async def test_a_trigger_function_is_executable_by_nobody_else(gateway: Connection) -> None:
    await close_schema(gateway)
    rows = await gateway.execute(
        "SELECT proname FROM pg_proc p, unnest(ARRAY['anon', 'authenticated', 'public']) role"
        " WHERE pronamespace = 'public'::regnamespace AND has_function_privilege(role, p.oid, 'EXECUTE')"
    )
    assert await rows.fetchall() == []


async def test_rows_stay_hidden_when_somebody_grants_a_table_again(gateway: Connection) -> None:
    await close_schema(gateway)
    await get_or_create_user(gateway, "a@b.c")
    await gateway.execute("GRANT SELECT, INSERT ON users TO anon")
    await gateway.execute("SET ROLE anon")
    assert await (await gateway.execute("SELECT * FROM users")).fetchall() == []


async def test_a_later_migration_is_shut_at_once_and_closed_after_the_next_run(gateway: Connection) -> None:
    await close_schema(gateway)
    await migrate(gateway, [*list_migrations(), LATER])
    assert await list_reached(gateway) == []
    found = await read_catalogue(gateway)
    assert [each.name for each in found.relations if each.kind == "r" and not each.forced] == ["later"]
    assert {"later", "seen", "later_id_seq"} <= {
        each.name for each in (await close_schema(gateway)).relations
    }
    assert await list_reached(gateway) == []
    later = next(each for each in (await read_catalogue(gateway)).relations if each.name == "later")
    assert later.enabled and later.forced and later.policy


async def test_the_gateway_still_works(gateway: Connection, ring: KeyRing) -> None:
    before = await get_or_create_user(gateway, "before@b.c")
    await close_schema(gateway)
    row = await (
        await gateway.execute("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
    ).fetchone()
    assert row == (False, False)
    assert await get_or_create_user(gateway, "before@b.c") == before
    issued = await issue_key(gateway, ring, KeyRequest("laptop", user="after@b.c"))
    payer = f"user:{await get_or_create_user(gateway, 'after@b.c')}"
    async with gateway.transaction():
        await grant(gateway, payer, Decimal("5"), ref="r", kind="purchase", source="house:purchases")
    assert (await read_balance(gateway, payer)).credit_usd == 5
    rows = await gateway.execute("SELECT id FROM api_keys")
    assert await rows.fetchall() == [(issued.id,)]
    await gateway.execute("SELECT close_lease_worker('w', 0)")
    with pytest.raises(psycopg.Error, match="ledger"):
        await gateway.execute("DELETE FROM ledger_movements")


async def test_applied_twice_it_changes_nothing(gateway: Connection) -> None:
    await close_schema(gateway)
    once = await read_shape(gateway)
    statements = [each.as_string(gateway) for each in write_statements(await read_catalogue(gateway))]
    assert all(each.startswith(("REVOKE ", "ALTER DEFAULT PRIVILEGES ")) for each in statements)
    await close_schema(gateway)
    assert await read_shape(gateway) == once


async def test_what_another_way_leaves_open_is_refused_and_nothing_is_changed(
    gateway: Connection, admin: psycopg.Connection
) -> None:
    admin.execute(sql.SQL("GRANT {} TO anon").format(sql.Identifier(OWNER)))
    before = await read_shape(gateway)
    with pytest.raises(StorageRefused, match="users to anon"):
        await close_schema(gateway)
    assert await read_shape(gateway) == before


async def test_names_that_need_quotes_are_quoted(gateway: Connection) -> None:
    await gateway.execute('CREATE TABLE "a""; DROP TABLE users; --" (id int)')
    await gateway.execute(
        'CREATE FUNCTION "f(x)"(a int[], "b c" text) RETURNS int LANGUAGE sql AS \'SELECT 1\''
    )
    found = await close_schema(gateway)
    assert '"; DROP TABLE users; --' in "".join(each.name for each in found.relations)
    assert await list_reached(gateway) == []


async def test_without_the_gateways_tables_it_is_refused(admin: psycopg.Connection, server_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url_as(server_url, OWNER)) as empty:
        with pytest.raises(NotFound):
            await close_schema(empty)


def run_command(home: Path, url: str, *words: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "engine", "rls", *words],
        cwd=ROOT,
        env={
            "GATEWAYZ_HOME": str(home), "DATABASE_URL": url, "GATEWAYZ_KEYRING": Fernet.generate_key().decode(),
        },
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return ran.returncode, ran.stdout, ran.stderr


async def test_what_is_printed_is_what_is_run(gateway: Connection, home: Path, server_url: str) -> None:
    url = url_as(server_url, OWNER)
    before = await read_shape(gateway)
    code, printed, err = run_command(home, url, "--print")
    assert code == 0, err
    assert printed.startswith("BEGIN;\n") and printed.endswith("COMMIT;\n")
    assert await read_shape(gateway) == before
    await gateway.execute(printed.encode())
    by_hand = [row[:4] for row in await read_shape(gateway)]
    code, out, err = run_command(home, url, "--apply", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["closed_to"] == ["PUBLIC", "anon", "authenticated"]
    assert [row[:4] for row in await read_shape(gateway)] == by_hand
    assert await list_reached(gateway) == []


async def test_what_belongs_to_others_is_told_and_left(
    gateway: Connection, admin: psycopg.Connection, home: Path, server_url: str
) -> None:
    with psycopg.connect(make_conninfo(server_url, dbname=NAME), autocommit=True) as superuser:
        superuser.execute("CREATE TABLE public.somebodys (id int)")
    code, _, err = run_command(home, url_as(server_url, OWNER), "--apply")
    assert code == 1 and "left as they are: somebodys" in err


def test_one_of_the_two_has_to_be_said(home: Path) -> None:
    assert run_command(home, "", "--print", "--apply")[0] == 2
    assert run_command(home, "")[0] == 2
