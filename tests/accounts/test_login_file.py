"""The login file: what is shipped is what the schema says, and what it names must be there."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from engine.config.reload import Loader
from engine.config.schema_login import LoginFile, MailDomainsFile
from engine.config.settings import read_settings
from engine.config.snapshot import Snapshot
from engine.errors import ConfigRefused
from engine.policies.login_rules import is_refused_domain
from engine.policies.password_rules import find_fault
from tests.harness import write_files
from tests.homes import lend_parsed_files

ROOT = Path(__file__).resolve().parents[2]


def load(folder: Path, environ: dict[str, str] | None = None, **files: str) -> Snapshot:
    written = {f"policies.d/{name}.yaml": text for name, text in files.items()}
    write_files(folder, {"gateway.yaml": "database: embedded\nredis: none\n", **written})
    lend_parsed_files(folder)
    loader = Loader(read_settings(home=folder, config=folder / "gateway.yaml"), environ or {})
    return loader.prepare(loader.read(), run_examples=False)


def test_the_shipped_numbers_are_the_schemas() -> None:
    shipped = YAML(typ="safe").load(ROOT / "policies.d/login/default.yaml")
    said = LoginFile.model_validate(shipped)
    for name in ("sign_up", "verify_address", "passwords", "sessions", "tokens", "attempts", "new_user"):
        assert getattr(said, name) == LoginFile.model_fields[name].default, name
    assert (said.attempts.login.attempts, said.attempts.login.within_s) == (10, 900)
    assert (said.attempts.sign_up.attempts, said.attempts.password_reset.attempts) == (3, 3)


def test_privy_is_in_force_when_its_app_is_named(tmp_path: Path) -> None:
    assert not load(tmp_path / "a").declared(LoginFile)["default"].providers["privy"].audiences
    made = load(tmp_path / "b", {"PRIVY_APP_ID": "app9"}).declared(LoginFile)["default"].providers["privy"]
    assert made.audiences == ("app9",) and made.issuer == "privy.io" and made.algorithms == ("ES256",)
    assert made.jwks_url == "https://auth.privy.io/api/v1/apps/app9/jwks.json"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "login: default\nextends: default\nrefuse_mail_domains: [default, mine]\n",
            'no mail_domains "mine"',
        ),
        ("login: default\nextends: default\nnew_user: {plan: gold}\n", 'no plan "gold"'),
        ("login: default\nextends: default\nnew_user: {credit: 5}\n", "unknown key"),
        ("login: default\nextends: default\nattempts: {login: {attempts: 0, within_s: 900}}\n", "greater"),
        (
            "login: default\nextends: default\nproviders: {g: {issuer: https://g.example, audience: a,"
            " algorithms: [HS256]}}\n",
            "algorithms",
        ),
        (
            "login: default\nextends: default\nproviders: {g: {issuer: https://g.example, audience: a,"
            " jwks_url: 'http://g.example/k'}}\n",
            "https",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigRefused) as refused:
        load(tmp_path, mine=text)
    assert words in str(refused.value) and "policies.d/mine.yaml:" in str(refused.value)


def test_a_list_of_ones_own_and_an_exception_count(tmp_path: Path) -> None:
    snapshot = load(
        tmp_path, list="mail_domains: mine\ndomains: [Rival.example, co.example]\nallow: [good.co.example]\n"
    )
    lists = list(snapshot.declared(MailDomainsFile).values())
    for domain in ("rival.example", "a.RIVAL.example", "x.co.example", "mailinator.com", "a.b.yopmail.com."):
        assert is_refused_domain(f"a@{domain}", lists), domain
    for domain in (
        "good.co.example",
        "a.good.co.example",
        "notrival.example",
        "example",
        "gmail.com",
        "proton.me",
    ):
        assert not is_refused_domain(f"a@{domain}", lists), domain


def test_the_shipped_list_names_no_domain_that_many_people_have(base: Snapshot) -> None:
    lists = [base.declared(MailDomainsFile)["default"]]
    assert len(lists[0].domains) > 500
    for domain in (
        "gmail.com", "outlook.com", "hotmail.com", "yahoo.com", "icloud.com", "gmx.de", "web.de", "mail.ru",
        "protonmail.com", "fastmail.com", "qq.com", "163.com", "naver.com", "aol.com", "live.com", "zoho.com",
        "yandex.ru", "t-online.de", "orange.fr", "seznam.cz", "duck.com", "me.com",
    ):  # fmt: skip
        assert not is_refused_domain(f"a@{domain}", lists), domain


def test_the_shipped_words_are_refused_as_passwords(base: Snapshot) -> None:
    rules = base.declared(LoginFile)["default"].password
    for password in (
        "1234567890",
        "Qwertyuiop!",
        "password2026!",
        "correcthorsebatterystaple",
        "changeme-2026",
    ):
        assert find_fault(password, "ada@example.com", rules), password
