"""Kinds of auth that have more than one value: what is loaded, what is missing, what is refused."""

import pytest

from engine.config.snapshot import ServiceAccount, SigningKey
from engine.secret import Secret
from tests.config.conftest import Folder

HEAD = "provider: p\nformat: openai-chat\nbase_url: https://p.example.com\nauth: "
SIGNED = (
    HEAD + '{sigv4: {access_key: "${ID}", secret_key: "${SECRET}", session_token: "${SESSION:-}", '
    'region: "${REGION:-eu-west-1}", service: bedrock}}\n'
)
TEMPORARY = SIGNED.replace("${SESSION:-}", "${SESSION}")


def test_a_signing_key_is_loaded_with_its_session(folder: Folder) -> None:
    folder.environ |= {"ID": "AK", "SECRET": "sk", "SESSION": "st", "REGION": "us-east-1"}
    [credential] = folder.load({"providers.d/p.yaml": TEMPORARY}).providers["p"].auth.credentials
    assert (credential.name, credential.secret) == ("p#0", Secret("sk"))
    assert credential.proof == SigningKey(Secret("AK"), "us-east-1", "bedrock", Secret("st"))
    assert {secret.reveal() for secret in credential.secrets} == {"AK", "sk", "st"}
    assert "sk" not in repr(credential).replace("SigningKey", "")


def test_a_session_token_that_is_empty_is_none(folder: Folder) -> None:
    folder.environ |= {"ID": "AK", "SECRET": "sk"}
    [credential] = folder.load({"providers.d/p.yaml": SIGNED}).providers["p"].auth.credentials
    assert credential.proof == SigningKey(Secret("AK"), "eu-west-1", "bedrock")


@pytest.mark.parametrize("missing", ["ID", "SECRET"])
def test_a_signing_key_without_a_half_is_not_configured(missing: str, folder: Folder) -> None:
    folder.environ |= {name: "x" for name in ("ID", "SECRET") if name != missing}
    found = folder.load({"providers.d/p.yaml": SIGNED}).providers["p"]
    assert not found.configured
    assert found.reason == f"environment variable {missing} is not set"


def test_several_signing_keys_have_weights_models_and_addresses(folder: Folder) -> None:
    text = HEAD + (
        "{sigv4: [{access_key: A, secret_key: s, region: r1, service: x, weight: 3},"
        " {access_key: B, secret_key: t, region: r2, service: x, models: ['m*'], base_url: 'https://r2.example.com/'}]}\n"
    )
    first, second = folder.load({"providers.d/p.yaml": text}).providers["p"].auth.credentials
    assert (first.weight, second.weight) == (3, 1)
    assert (second.models, second.base_url) == (("m*",), "https://r2.example.com")


def test_a_service_account_is_text_or_a_file(folder: Folder) -> None:
    folder.environ |= {"KEY": '{"client_email": "x"}', "KEY_FILE": "/run/key.json"}
    text = HEAD + (
        '{google_service_account: [{json: "${KEY}", scope: s1}, {file: "${KEY_FILE}", scope: s2},'
        ' {json: "${OTHER}", scope: s}]}\n'
    )
    provider = folder.load({"providers.d/p.yaml": text}).providers["p"]
    first, second = provider.auth.credentials
    assert (first.secret, first.proof) == (Secret('{"client_email": "x"}'), ServiceAccount("s1"))
    assert second.proof == ServiceAccount("s2", "/run/key.json")
    assert provider.configured


@pytest.mark.parametrize(
    ("auth", "problem"),
    [
        ("{google_service_account: {scope: s}}", "either `json` or `file`"),
        ("{google_service_account: {json: x, file: y, scope: s}}", "either `json` or `file`"),
        ("{sigv4: {access_key: a, secret_key: b, service: c}}", "region"),
        ("{sigv4: {access_key: a, secret_key: b, region: [1], service: c}}", "text is expected"),
        ("{bearer: k, sigv4: {access_key: a, secret_key: b, region: r, service: c}}", "not several"),
        (
            "{sigv4: {access_key: a, secret_key: b, region: r, service: c, base_url: 'http://10.0.0.1'}}",
            "base_url",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_its_place(auth: str, problem: str, folder: Folder) -> None:
    [said] = folder.refuse({"providers.d/p.yaml": f"{HEAD}{auth}\n"})
    assert problem in said
    assert "p.yaml:4" in said


def test_no_secret_stands_in_a_problem(folder: Folder) -> None:
    folder.environ |= {f"S{number}": f"Canary{number}" for number in range(6)}
    files = {
        "providers.d/p.yaml": HEAD
        + "{sigv4: {access_key: '${S0}', secret_key: ['${S1}'], session_token: {x: '${S2}'}, region: ['${S3}'],"
        " service: \"${S4}\\n\", extra: '${S5}'}}\n",
        "providers.d/q.yaml": HEAD.replace("provider: p", "provider: q")
        + "{google_service_account: {json: ['${S0}'], scope: {a: '${S1}'}, file: ['${S2}'], more: '${S3}'}}\n",
    }
    problems = folder.refuse(files)
    assert len(problems) >= 4
    assert "Canary" not in "\n".join(problems)
