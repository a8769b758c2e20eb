"""The changelog's newest version is the package's version, and no lock file names a registry."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def find_problems() -> list[str]:
    """What is wrong, one sentence each."""
    init = (ROOT / "engine/__init__.py").read_text()
    version = re.search(r'__version__ = "([^"]+)"', init)
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    problems = []
    if version is None or newest is None or version[1] != newest[1]:
        problems.append(
            f"CHANGELOG.md begins with {newest and newest[1]}, engine is {version and version[1]}"
        )
    for lock in sorted(ROOT.glob("requirements*.lock")):
        if re.search(r"^--|://", lock.read_text(), re.M):
            problems.append(
                f"{lock.name} names a registry or an option; only versions and hashes belong there"
            )
    return problems


if __name__ == "__main__":
    sys.exit("\n".join(find_problems()) or 0)
