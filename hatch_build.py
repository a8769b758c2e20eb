"""Wheel build: parses every shipped YAML file once, so that no installation has to."""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PrebuiltTrees(BuildHookInterface[Any]):
    """Puts the parsed trees into the wheel as engine/shipped/cache."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        sys.path.insert(0, self.root)
        try:
            files = importlib.import_module("engine.config.files")
        finally:
            sys.path.remove(self.root)
        self._made = tempfile.TemporaryDirectory()
        files.prebuild(root, Path(self._made.name))
        build_data["force_include"][self._made.name] = "engine/shipped/cache"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._made.cleanup()
