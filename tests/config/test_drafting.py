"""`gatewayz provider new`: a draft from a curl command, which loads and whose example holds."""

from pathlib import Path

import pytest

from engine.cli import main
from engine.config.curl import CurlRefused, read_curl
from tests.config.conftest import Folder

BODY = '{"model": "m-1", "messages": [{"role": "user", "content": "it is on"}], "stream": true, "n": 1}'
PLAIN = f"""curl https://api.acme.example/v2/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer sk-very-secret" \\
  -d '{BODY}'"""


@pytest.fixture(autouse=True)
def home(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands find the shipped files compiled."""
    folder.write({"gateway.yaml": ""})
    folder.loader()
    monkeypatch.setenv("GATEWAYZ_HOME", str(folder.path / "home"))


def draft(folder: Folder, command: str, name: str = "acme") -> Path:
    folder.write({"gateway.yaml": ""})
    config = str(folder.path / "gateway.yaml")
    assert main(["provider", "new", name, "--from-curl", command, "--write", "-c", config]) == 0
    return folder.path / f"providers.d/{name}.yaml"


def test_the_draft_has_address_credential_and_example_and_passes_the_check(folder: Folder) -> None:
    text = draft(folder, PLAIN).read_text()
    assert "sk-very-secret" not in text
    assert text.splitlines()[:4] == [
        "provider: acme",
        "format: openai-chat",
        "base_url: https://api.acme.example/v2",
        'auth: {bearer: "${ACME_API_KEY}"}',
    ]
    folder.environ = {"ACME_API_KEY": "k"}
    loader = folder.loader()
    provider = loader.prepare(loader.read(), run_examples=True).providers["acme"]
    assert provider.configured and provider.base_url == "https://api.acme.example/v2"
    assert loader.list_untouched() == []


@pytest.mark.parametrize(
    ("options", "auth"),
    [
        ("-H 'Authorization: Bearer $OTHER_KEY'", 'auth: {bearer: "${OTHER_KEY}"}'),
        ("-H 'Authorization: Key abc'", 'auth: {header: {name: authorization, value: "Key ${A_B_API_KEY}"}}'),
        ("-H 'api-key: abc'", 'auth: {header: {name: api-key, value: "${A_B_API_KEY}"}}'),
        ("-u me:abc", 'auth: {basic: "${A_B_API_KEY}"}'),
        ("", "auth: none"),
    ],
)
def test_a_credential_is_sent_as_the_command_sends_it(options: str, auth: str, folder: Folder) -> None:
    command = f"curl -X POST {options} --json '{BODY}' https://api.acme.example/v1/chat/completions"
    text = draft(folder, command, "a-b").read_text()
    assert auth in text.splitlines() and "abc" not in text
    folder.load()


def test_a_key_in_the_address_a_header_and_a_private_host_are_taken_over(folder: Folder) -> None:
    command = f"curl -H 'X-Team: a b' 'http://127.0.0.1:9999/v1/chat/completions?key=abc' --data-raw '{BODY}'"
    lines = draft(folder, command).read_text().splitlines()
    assert 'auth: {query: {name: key, value: "${ACME_API_KEY}"}}' in lines
    assert "allow_private: true" in lines and 'headers: {x-team: "a b"}' in lines
    assert folder.load().providers["acme"].headers == {"x-team": "a b"}


def test_another_wire_is_told_from_the_path(folder: Folder) -> None:
    body = '{"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}'
    command = f"curl https://acme.example/v1/messages -H 'x-api-key: a' -H 'anthropic-version: 2023-06-01' -d '{body}'"
    assert "base_url: https://acme.example" in draft(folder, command).read_text().splitlines()
    assert folder.load().providers["acme"].endpoints["chat"].path == "/v1/messages"


def test_without_write_the_draft_is_shown_and_a_file_is_never_replaced(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    file = draft(folder, PLAIN)
    before = file.read_text()
    arguments = ["provider", "new", "acme", "--from-curl", PLAIN, "-c", str(folder.path / "gateway.yaml")]
    assert main(arguments) == 0 and capsys.readouterr().out == before
    assert main([*arguments, "--write"]) == 1 and "already" in capsys.readouterr().err
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("curl https://a.example/v1/chat/completions", "no JSON object"),
        ("curl https://a.example/x -d '{nope'", "not JSON"),
        ("curl https://a.example/x -d @body.json", "in a file"),
        ("curl -d '{}'", "no address"),
        ("curl 'https://a.example", "cannot be read"),
    ],
)
def test_a_command_that_says_too_little_is_refused_with_the_reason(command: str, message: str) -> None:
    with pytest.raises(CurlRefused, match=message):
        read_curl(command)


def test_a_path_of_no_known_wire_is_refused(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write({"gateway.yaml": ""})
    config = str(folder.path / "gateway.yaml")
    assert (
        main(["provider", "new", "a", "--from-curl", "curl https://a.example/odd -d '{}'", "-c", config]) == 1
    )
    assert "no wire format is asked at a path such as /odd" in capsys.readouterr().err
