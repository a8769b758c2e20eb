"""Homes as a first start leaves them: shipped files parsed and compiled, a database made, migrated and empty.

Made once per run and copied, they save each gateway, server and loader the seconds of a first start, which
tests/storage/test_embedded.py and tests/test_package.py look at.
"""

import asyncio
import atexit
import contextlib
import functools
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.config.files import find_library, prebuild
from engine.config.reload import Loader
from engine.config.settings import read_settings
from engine.errors import ConfigRefused
from engine.storage.embedded import EmbeddedDatabase
from engine.storage.migrations import migrate_url

IN_MEMORY = "fsync = off\nfull_page_writes = off\n"
"""Nothing waits for the disk: what a killed process wrote is there all the same, and no test pulls the plug."""


def furnish(home: Path, *, database: bool = True) -> None:
    """Put the parsed files and the database into a home that is not there yet."""
    if not home.exists():
        home.mkdir(mode=0o700, parents=True)
        lend_parsed_files(home)
        if database:
            lend_database(home)


def lend_parsed_files(home: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(parse_shipped_files(), home / "cache")


def lend_database(home: Path) -> Path:
    """The home, with a database of its own."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(make_cluster()), str(home / "postgres")], check=True)  # its owner too
    return home


@functools.cache
def parse_shipped_files() -> Path:
    """The `cache` folder of a home that has loaded what is shipped."""
    folder = _make_folder()
    (folder / "home").mkdir(mode=0o700)
    (folder / "gateway.yaml").write_text("")
    prebuild(find_library(), folder / "home/cache")
    loader = Loader(read_settings(home=folder / "home", config=folder / "gateway.yaml"), {})
    with contextlib.suppress(ConfigRefused):  # what is wrong with a shipped file is told by the tests of it
        loader.prepare(loader.read(), run_examples=True)
    return folder / "home/cache"


@functools.cache
def make_cluster() -> Path:
    """The `postgres` folder of a home whose database was migrated and never used."""

    async def make() -> Path:
        server = EmbeddedDatabase(_make_folder())
        url = await server.start()
        await migrate_url(url)
        await server.stop()
        return server.data

    with ThreadPoolExecutor(1) as pool:  # a test that asks for it may have a loop that runs
        data = pool.submit(asyncio.run, make()).result()
    with (data / "postgresql.conf").open("a") as file:
        file.write(IN_MEMORY)
    return data


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gatewayz-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
