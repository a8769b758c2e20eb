"""How PostgreSQL's programs are run on a data folder: as whom, from where, and with what they leave behind
us.

The programs stand in the data folder and are told `-D /proc/self/cwd` when they run as another user than
ours: they then never have to walk down a path that only we may enter, and no folder on the way needs
another mode.
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.storage.binaries import ServerUser, find_programs, make_reachable
from engine.storage.home import name_user
from engine.storage.interfaces import StorageRefused

DATABASE_USER = "gatewayz"
_PR_SET_PDEATHSIG = 1


def choose_server_user(home: Path, data: Path) -> ServerUser | None:
    """Who the server runs as: None is this user; as root the owner of the data, else of the home, else
    nobody.
    """
    uid = os.geteuid()
    owner = data.stat() if data.exists() else None
    if uid != 0:
        if owner is not None and owner.st_uid != uid:
            name = name_user(owner.st_uid)
            raise StorageRefused(
                f"{data} belongs to {name}: run as {name} or as root, or set another GATEWAYZ_HOME"
            )
        return None
    owner = owner or home.stat()
    if owner.st_uid != 0:
        return ServerUser(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise StorageRefused(
            "PostgreSQL does not run as root and there is no user nobody: "
            "set DATABASE_URL or do not run as root"
        ) from None
    return ServerUser(nobody.pw_uid, nobody.pw_gid)


def create_database(home: Path, data: Path, user: ServerUser | None) -> None:
    """Run initdb beside the place and rename, so that a half-made database is never taken for one."""
    programs = make_reachable(find_programs(None), user)
    _require_account(user.uid if user else os.geteuid())
    making = home / "postgres.new"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    if user is not None:
        os.chown(making, user.uid, user.gid)
    command = [
        str(programs / "initdb"),
        "-D",
        name_data_folder(making, user),
        "-U",
        DATABASE_USER,
        "-A",
        "trust",
    ]
    command += ["-E", "UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    with fork_quietly():
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, **arrange_child(making, user)
        )
    if done.returncode != 0:
        raise StorageRefused(f"the embedded database cannot be made in {home}: {done.stderr.strip()}")
    if data.exists():
        data.rmdir()
    making.rename(data)


def _require_account(uid: int) -> None:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise StorageRefused(
            f"PostgreSQL needs an account for user {uid} in /etc/passwd: add one or set DATABASE_URL"
        ) from None


def name_data_folder(data: Path, user: ServerUser | None) -> str:
    return "/proc/self/cwd" if user is not None and sys.platform == "linux" else str(data)


def arrange_child(folder: Path, user: ServerUser | None) -> dict[str, Any]:
    """How a PostgreSQL program is started: in its folder, as its user, alone, and gone when we are."""
    given: dict[str, Any] = {
        "cwd": folder,
        "env": {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/local/bin:/usr/bin:/bin"},
        "stdin": subprocess.DEVNULL,
        "start_new_session": True,  # Ctrl-C in a terminal is for the gateway, which stops the server last
        "umask": 0o077,
        "preexec_fn": _die_with(os.getpid()),
    }
    if user is not None:
        given |= {"user": user.uid, "group": user.gid, "extra_groups": []}
    return given


@contextlib.contextmanager
def fork_quietly() -> Iterator[None]:
    """Python 3.12 warns of a fork beside threads; between our fork and exec runs one system call and no
    lock.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _die_with(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    set_option = ctypes.CDLL(None).prctl

    def arrange() -> None:
        set_option(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)

    return arrange
