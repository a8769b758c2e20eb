"""GATEWAYZ_HOME: the folder that belongs to one gateway at a time, and the lock that says so.

Only folders and files that we made get an owner or a mode from us. When root works in a home that somebody
else owns, what it makes there is given to that owner, so that both can use the home in turn.
"""

import contextlib
import fcntl
import os
import pwd
import secrets
from dataclasses import dataclass
from pathlib import Path

from engine.storage.interfaces import StorageRefused

LOCK_FILE = "lock"


def prepare_home(path: Path) -> Path:
    """The home as an absolute path, made with mode 0700 when it does not exist."""
    home = Path(os.path.abspath(path))
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageRefused(f"GATEWAYZ_HOME {home} cannot be made: {error.strerror}") from error
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        owner = name_user(home.stat().st_uid)
        raise StorageRefused(
            f"GATEWAYZ_HOME {home} belongs to {owner}: run as {owner} or name another folder in GATEWAYZ_HOME"
        )
    return home


def make_folder(home: Path, name: str) -> Path:
    """A 0700 folder inside the home."""
    folder = home / name
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        _refuse_unusable(folder)
    else:
        give_to_owner(home, folder)
    return folder


def open_private(home: Path, path: Path, flags: int) -> int:
    """Open a 0600 file of the home, made when missing. A link is not followed: root may work in another's
    home.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
    except PermissionError:
        _refuse_unusable(path)
        raise
    else:
        give_to_owner(home, descriptor)
        return descriptor
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except PermissionError:
        _refuse_unusable(path)
        raise


def write_private(home: Path, name: str, *content: bytes) -> None:
    """Replace a 0600 file of the home in one step."""
    beside = home / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
    descriptor = open_private(home, beside, os.O_WRONLY | os.O_EXCL)
    try:
        with open(descriptor, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, home / name)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def give_to_owner(home: Path, what: int | Path) -> None:
    """As root, give something that we just made to the owner of the home."""
    if os.geteuid() != 0:
        return
    owner = home.stat()
    if owner.st_uid != 0:
        os.chown(what, owner.st_uid, owner.st_gid)


def name_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _refuse_unusable(path: Path) -> None:
    found = os.lstat(path)
    needed = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    if not os.access(path, needed):
        owner = name_user(found.st_uid)
        raise StorageRefused(
            f"{path} belongs to {owner}: run as {owner} or name another folder in GATEWAYZ_HOME"
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a home: a `gateway` for its whole life, a `command` for a moment."""

    pid: int
    role: str


class HomeLock:
    """The flock on GATEWAYZ_HOME/lock. The kernel gives it back when the process dies, however it dies."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def try_take(self, role: str) -> bool:
        """Take the lock unless somebody has it."""
        if self.held:
            return True
        descriptor = open_private(self.home, self.home / LOCK_FILE, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {role}\n".encode(), 0)
        self._descriptor = descriptor
        return True

    def read_holder(self) -> Holder | None:
        """Who wrote its name into the lock; None while that is being done."""
        try:
            words = (self.home / LOCK_FILE).read_text().split()
        except FileNotFoundError:
            return None
        return Holder(int(words[0]), words[1]) if len(words) == 2 and words[0].isdigit() else None

    def release(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
