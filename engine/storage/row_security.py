"""Closes the gateway's schema to everybody but the gateway's own role: privileges and row-level security.

What is closed is read from the catalogue at that moment, so that no migration's table can be forgotten.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from engine.errors import NotFound
from engine.storage.interfaces import StorageRefused
from engine.storage.migrations import LOCK_NUMBER
from engine.storage.postgres import Connection

POLICY = "gateway_only"
SHUT_OUT = ("anon", "authenticated")
"""Roles that Supabase gives to whoever comes with its public key, or with a token of its users."""

_NOT_OF_AN_EXTENSION = """
NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = o.oid AND d.deptype = 'e'
            AND d.classid = {catalogue}::regclass)
"""
_RELATIONS = sql.SQL(
    "SELECT o.oid, o.relname, o.relkind::text, pg_get_userbyid(o.relowner),"
    " pg_has_role(o.relowner, 'USAGE'), o.relrowsecurity, o.relforcerowsecurity,"
    " (SELECT p.polroles = ARRAY[o.relowner] FROM pg_policy p WHERE p.polrelid = o.oid AND p.polname = %s)"
    " FROM pg_class o WHERE o.relnamespace = %s::regnamespace AND o.relkind = ANY(%s) AND "
    + _NOT_OF_AN_EXTENSION
    + " ORDER BY o.relname"
).format(catalogue=sql.Literal("pg_class"))
_ROUTINES = sql.SQL(
    "SELECT o.oid, o.proname, pg_get_userbyid(o.proowner), pg_has_role(o.proowner, 'USAGE'),"
    " ARRAY(SELECT ARRAY[n.nspname::text, t.typname::text]"
    "       FROM unnest(o.proargtypes) WITH ORDINALITY a (type, place)"
    "       JOIN pg_type t ON t.oid = a.type JOIN pg_namespace n ON n.oid = t.typnamespace"
    "       ORDER BY a.place)"
    " FROM pg_proc o WHERE o.pronamespace = %s::regnamespace AND " + _NOT_OF_AN_EXTENSION + " ORDER BY 2, 1"
).format(catalogue=sql.Literal("pg_proc"))
_STILL_OPEN = """
SELECT r.name || ' to ' || w.name
FROM unnest(%(roles)s::text[]) AS w (name), pg_class c, LATERAL (SELECT c.oid::regclass::text) AS r (name)
WHERE c.oid = ANY(%(relations)s::oid[]) AND CASE WHEN c.relkind = 'S'
    THEN has_sequence_privilege(w.name, c.oid, 'USAGE, SELECT, UPDATE')
    ELSE has_table_privilege(w.name, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
      OR has_any_column_privilege(w.name, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') END
UNION ALL
SELECT p.oid::regprocedure::text || ' to ' || w.name
FROM unnest(%(roles)s::text[]) AS w (name), pg_proc p
WHERE p.oid = ANY(%(routines)s::oid[]) AND has_function_privilege(w.name, p.oid, 'EXECUTE')
"""


@dataclass(frozen=True, slots=True)
class Relation:
    oid: int
    name: str
    kind: str
    owner: str
    ours: bool
    enabled: bool
    forced: bool
    policy: bool | None
    """Whether the policy names the owner and nobody else; None when there is none."""


@dataclass(frozen=True, slots=True)
class Routine:
    oid: int
    name: str
    owner: str
    ours: bool
    types: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Found:
    """What the catalogue holds of the gateway's schema."""

    schema: str
    role: str
    shut_out: tuple[str, ...]
    relations: tuple[Relation, ...]
    routines: tuple[Routine, ...]

    @property
    def left_alone(self) -> list[str]:
        """What belongs to a role that the gateway's own cannot act for."""
        relations = [relation.name for relation in self.relations if not relation.ours]
        return relations + [routine.name for routine in self.routines if not routine.ours]

    @property
    def owners(self) -> set[str]:
        relations = {relation.owner for relation in self.relations if relation.ours}
        return relations | {routine.owner for routine in self.routines if routine.ours}


async def read_catalogue(connection: Connection) -> Found:
    """Raises NotFound when the gateway's tables are not there."""
    row = await (
        await connection.execute(
            "SELECT n.nspname, quote_ident(n.nspname), current_user::text FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('schema_migrations')"
        )
    ).fetchone()
    if row is None:
        raise NotFound("the gateway's tables are not in this database: gatewayz migrate makes them")
    schema, quoted, role = row
    there = await connection.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(SHUT_OUT),)
    )
    shut_out = tuple(sorted(name for (name,) in await there.fetchall()))
    relations = await connection.execute(_RELATIONS, (POLICY, quoted, list("rpvmfS")))
    routines = await connection.execute(_ROUTINES, (quoted,))
    return Found(
        schema,
        role,
        shut_out,
        tuple(Relation(*fields) for fields in await relations.fetchall()),
        tuple(Routine(*fields) for fields in await routines.fetchall()),
    )


def write_statements(found: Found) -> Iterator[sql.Composed]:
    """What has to be run; what is as it should be already is not altered again, since that locks its table."""
    roles = sql.SQL(", ").join([sql.SQL("PUBLIC"), *map(sql.Identifier, found.shut_out)])
    for relation in found.relations:
        if relation.ours:
            yield from _close_relation(found.schema, relation, roles)
    for routine in found.routines:
        if routine.ours:
            yield sql.SQL("REVOKE ALL ON ROUTINE {}({}) FROM {} CASCADE").format(
                sql.Identifier(found.schema, routine.name),
                sql.SQL(", ").join(sql.Identifier(*names) for names in routine.types),
                roles,
            )
    yield from _close_what_comes(found.schema, sorted(found.owners | {found.role}), roles)


def _close_relation(schema: str, relation: Relation, roles: sql.Composed) -> Iterator[sql.Composed]:
    name = sql.Identifier(schema, relation.name)
    kind = sql.SQL("SEQUENCE" if relation.kind == "S" else "TABLE")
    yield sql.SQL("REVOKE ALL ON {} {} FROM {} CASCADE").format(kind, name, roles)
    if relation.kind not in {"r", "p"}:
        return
    if relation.policy is not True:
        # Before it is forced: the owner is never without it.
        verb = sql.SQL("CREATE" if relation.policy is None else "ALTER")
        yield sql.SQL("{} POLICY {} ON {} TO {} USING (true) WITH CHECK (true)").format(
            verb, sql.Identifier(POLICY), name, sql.Identifier(relation.owner)
        )
    if not relation.enabled:
        yield sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(name)
    if not relation.forced:
        yield sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(name)


def _close_what_comes(schema: str, makers: Iterable[str], roles: sql.Composed) -> Iterator[sql.Composed]:
    """Default privileges of a schema only add to those of the whole database, so both are taken away."""
    for maker in makers:
        for where in (sql.SQL(""), sql.SQL(" IN SCHEMA {}").format(sql.Identifier(schema))):
            for kind in ("TABLES", "SEQUENCES", "ROUTINES"):
                yield sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {}{} REVOKE ALL ON {} FROM {}").format(
                    sql.Identifier(maker), where, sql.SQL(kind), roles
                )


async def close_schema(connection: Connection) -> Found:
    """Run it all in one transaction. Raises StorageRefused, and changes nothing, when something stays open."""
    async with connection.transaction():
        await connection.execute(
            "SET LOCAL lock_timeout = '10s'"
        )  # a busy table: rather fail than hold calls up
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_NUMBER,))  # no migration meanwhile
        found = await read_catalogue(connection)
        for statement in write_statements(found):
            await connection.execute(statement)
        still_open = await _list_open(connection, found)
        if still_open:
            raise StorageRefused(
                f"nothing was changed, because these would stay open: {', '.join(still_open)}"
            )
    return found


async def _list_open(connection: Connection, found: Found) -> list[str]:
    """Privileges that others granted, or that come with a role which the closed ones are members of."""
    asked = {
        "roles": ["public", *found.shut_out],
        "relations": [relation.oid for relation in found.relations if relation.ours],
        "routines": [routine.oid for routine in found.routines if routine.ours],
    }
    rows = await (await connection.execute(_STILL_OPEN, asked)).fetchall()
    return sorted(name for (name,) in rows)
