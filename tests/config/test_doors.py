"""The doors of all formats: doubles, the gateway's own routes, and what a user's file takes over."""

import pytest

from tests.config.conftest import Folder

FORMAT = """
    format: {name}
    operation: chat
    serves: [{{path: "{path}"}}]
    read_request: {{}}
    write_reply: {{}}
    write_error: {{}}
    """


def form(name: str, path: str, more: str = "") -> str:
    return FORMAT.format(name=name, path=path) + more


def test_the_shipped_formats_serve_the_known_paths(folder: Folder) -> None:
    doors = folder.load({}).doors
    for path, operation in (
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/v1/completions", "completions"),
        ("/v1/embeddings", "embeddings"),
    ):
        found = doors.find(path)
        assert found is not None and found[0].operation == operation
    assert doors.common is not None and doors.common.client.common


def test_one_path_for_two_formats_is_a_problem(folder: Folder) -> None:
    files = {
        "providers.d/_formats/a.yaml": form("a", "/x/{model}"),
        "providers.d/_formats/b.yaml": form("b", "/x/{model}"),
    }
    (problem,) = folder.refuse(files)
    assert problem == (
        'providers.d/_formats/b.yaml:3:10 serves[0]: "/x/{model}" is also served by the format "a" '
        "(providers.d/_formats/a.yaml:1:1)"
    )


@pytest.mark.parametrize("path", ["/health", "/metrics", "/admin/x"])
def test_the_gateways_own_routes_are_not_for_formats(folder: Folder, path: str) -> None:
    (problem,) = folder.refuse({"providers.d/_formats/a.yaml": form("a", path)})
    assert "are the gateway's own" in problem


def test_a_users_format_takes_a_shipped_path_over(folder: Folder) -> None:
    snapshot = folder.load({"providers.d/_formats/a.yaml": form("a", "/v1/chat/completions")})
    found = snapshot.doors.find("/v1/chat/completions")
    assert found is not None and found[0].format.name == "a"
    assert any("is also served by" in warning for warning in snapshot.warnings)
    assert snapshot.surfaces["chat"].name != "a"


def test_a_format_over_another_serves_nothing_of_its_own_accord(folder: Folder) -> None:
    files = {"providers.d/_formats/a.yaml": "format: a\nextends: openai-chat\n"}
    assert folder.load(files).formats["a"].client.serves == ()
    files = {"providers.d/_formats/a.yaml": "format: openai-chat\nextends: openai-chat\n"}
    assert len(folder.load(files).formats["openai-chat"].client.serves) == 2


def test_numbers_are_found_in_tables_of_a_file(folder: Folder) -> None:
    more = """
    tables: {kind: {400: bad, "429": slow, default: other}, size: {0: small, 100: large}}
    """
    text = form("a", "/x", more).replace(
        "write_error: {}",
        "write_error: [\"{{ error.status | mapped('kind') }}\", \"{{ error.status | banded('size') }}\"]",
    )
    format = folder.load({"providers.d/_formats/a.yaml": text}).formats["a"]
    assert format.write_error({"status": 400}) == ["bad", "large"]
    assert format.write_error({"status": 429}) == ["slow", "large"]
    assert format.write_error({"status": 5}) == ["other", "small"]
