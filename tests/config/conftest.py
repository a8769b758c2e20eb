"""A folder of configuration files that tests write, and what the real loader makes of it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest

from engine.config.reload import Loader
from engine.config.settings import read_settings
from engine.config.snapshot import Snapshot
from engine.errors import ConfigRefused
from tests.homes import parse_shipped_files


@dataclass
class Folder:
    """`write` files, `load` them; `refuse` returns the problems as text."""

    path: Path
    environ: dict[str, str] = field(default_factory=dict)
    simulator_url: str | None = None
    parsed: Path | None = None
    """Shipped files parsed and compiled before, so that each test need not."""

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text).lstrip("\n"))

    def loader(self) -> Loader:
        if not (self.path / "home").exists():
            (self.path / "home").mkdir()
            if self.parsed is not None:
                shutil.copytree(self.parsed, self.path / "home/cache")
        settings = read_settings(
            config=self.path / "gateway.yaml", home=self.path / "home", simulator_url=self.simulator_url
        )
        return Loader(settings, self.environ)

    def load(self, files: Mapping[str, str] | None = None) -> Snapshot:
        self.write(
            {"gateway.yaml": "", **(files or {})}
            if not (self.path / "gateway.yaml").exists()
            else files or {}
        )
        loader = self.loader()
        return loader.prepare(loader.read(), run_examples=True)

    def refuse(self, files: Mapping[str, str]) -> list[str]:
        with pytest.raises(ConfigRefused) as refused:
            self.load(files)
        return [str(problem) for problem in refused.value.problems]


@pytest.fixture(scope="session")
def parsed() -> Path:
    return parse_shipped_files()


@pytest.fixture
def folder(tmp_path: Path, parsed: Path) -> Folder:
    return Folder(tmp_path, parsed=parsed)


PROVIDER = """
    provider: {name}
    format: openai-chat
    base_url: https://{name}.example.com/v1
    auth: {{bearer: key-of-{name}}}
    """


def provider(name: str = "alpha", more: str = "") -> str:
    return dedent(PROVIDER.format(name=name)) + dedent(more)
