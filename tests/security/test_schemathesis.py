"""Generated requests over the whole described API, as a user, a developer and an administrator: nothing breaks, and
every answer is one that the description has.

What is not asked of the gateway, and why: that whatever a schema allows is accepted (dialects demand more than schemas
can say), and that `Allow` names the methods of one template only (`/user/api-keys/usage` is a key's path, too).
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.security.seeding import House, keep_house

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
    "ignored_auth",
)
WRONG = "negative_data_rejection"
SHORT_S, LONG_S = 25, 300
SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503]
"""
LEFT_OUT = ("/admin/config/reload", "/admin/refresh-providers")
"""Reading the files again takes a second each time."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with keep_house(tmp_path_factory.mktemp("house")) as kept:
        yield kept
        log = kept.gateway.read_log()
        assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
        assert '.broke"' not in log


def describe(house: House) -> dict[str, Any]:
    """The gateway's own description, with what is really there put beside what can be made up."""
    document: dict[str, Any] = httpx.get(f"{house.gateway.url}/openapi.json").json()
    document["security"] = [{"key": []}]
    document["components"]["securitySchemes"] = {"key": document["components"]["securitySchemes"]["key"]}
    known = {"model": ["gpt-rehearsal", "sim/echo"], "provider": ["openai", "upstream"], **house.list_ids()}
    for path in LEFT_OUT:
        document["paths"].pop(path, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    offer(parameter, known.get(parameter["name"], ()))
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if "model" in (keys := content.get("schema", {}).get("properties", {})):
                    offer(keys["model"], known["model"])
    return document


def offer(described: dict[str, Any], values: Any) -> None:
    """Let half of the generated values be these."""
    if not values:
        return
    if "in" in described:
        described["schema"] = {"anyOf": [{"enum": list(values)}, described["schema"]]}
        return
    before = dict(described)
    described.clear()
    described["anyOf"] = [{"enum": list(values)}, before]


def run(house: House, document: dict[str, Any], role: str, seconds: int, *more: str) -> dict[str, Any]:
    folder = house.gateway.folder
    described, report = folder / f"{role}.json", folder / f"{role}-report.json"
    described.write_text(json.dumps(document))
    settings = folder / "schemathesis.toml"
    settings.write_text(SETTINGS)
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(settings)),
            *("run", str(described), "--url", house.gateway.url, "--no-color", "--workers", "1"),
            *("--header", f"Authorization: Bearer {house.keys[role]}"),
            *("--phases", "coverage,fuzzing", "--max-time", str(seconds), "--request-timeout", "30"),
            *("--continue-on-failure", "--warnings", "off", "--report", "json"),
            *("--report-json-path", str(report), *more),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    told: dict[str, Any] = json.loads(report.read_text())
    return told


def count_operations(document: dict[str, Any]) -> int:
    return sum(len(operations) for operations in document["paths"].values())


def judge(told: dict[str, Any], operations: int, least: int) -> None:
    count = told["test_cases"]
    print(f"{count['generated']} requests to {told['operations']['tested']} operations")
    assert count["with_failures"] == 0 and count["errored"] == 0
    assert told["operations"]["tested"] >= operations
    assert count["generated"] > least


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", ["user", "developer", "admin"])
def test_no_generated_request_breaks_anything(house: House, role: str) -> None:
    document = describe(house)
    told = run(house, document, role, SHORT_S, "--checks", ",".join(CHECKS))
    judge(told, count_operations(document), 100)


@pytest.mark.timeout(300)
def test_what_a_model_forbids_is_refused(house: House) -> None:
    """Of our own routes; what a dialect nests deeper is its provider's to judge."""
    document = describe(house)
    document["paths"] = {
        path: operations
        for path, operations in document["paths"].items()
        if not any("inference" in operation["tags"] for operation in operations.values())
    }
    told = run(house, document, "admin", SHORT_S, "--checks", WRONG, "--mode", "negative")
    judge(told, 15, 100)


@pytest.mark.slow
@pytest.mark.timeout(3 * LONG_S)
@pytest.mark.parametrize("role", ["user", "developer", "admin", "environment"])
def test_no_generated_request_breaks_anything_in_a_long_run(house: House, role: str) -> None:
    document = describe(house)
    told = run(house, document, role, LONG_S, "--checks", ",".join(CHECKS))
    judge(told, count_operations(document), 1000)
