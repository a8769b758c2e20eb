"""The wheel is whole: it carries the shipped YAML and the migrations, and works in an empty folder."""

import os
import pathlib
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHIPPED = ["providers.d", "models.d", "policies.d", "migrations"]


def run(command: Sequence[str | pathlib.Path], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [str(part) for part in command], capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A wheel built from this checkout without any network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    built = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("gatewayz-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The bin folder of a fresh environment with the wheel; what it depends on is borrowed from ours."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    added = run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel])
    assert added.returncode == 0, added.stderr
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home / "bin"


def plain_environ(home: pathlib.Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "GATEWAYZ_HOME": str(home / "data")}


def test_wheel_carries_every_shipped_file_and_nothing_else_than_the_package(wheel: pathlib.Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in SHIPPED:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                assert f"engine/shipped/{path.relative_to(ROOT).as_posix()}" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"engine", "gatewayz"}


def test_installed_package_is_the_wheels_own(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = run([installed / "python", "-c", "import engine; print(engine.__file__)"], cwd=tmp_path)
    assert found.stdout.startswith(str(installed.parent))


def test_check_passes_in_an_empty_folder_without_any_key(
    installed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    checked = run([installed / "gatewayz", "check"], cwd=tmp_path, env=plain_environ(tmp_path))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_version_of_the_changelog_is_the_packages_and_locks_name_no_registry() -> None:
    checked = run([sys.executable, ROOT / "scripts" / "check_versions.py"])
    assert checked.returncode == 0, checked.stderr
