"""What mails say, and that nothing in their data can say more."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.config.schema_mail import MailFile
from engine.mail.letters import SHIPPED, LetterRefused, LetterWriter, show_usd, write_paragraphs
from engine.mail.samples import SAMPLES
from engine.storage.outbox import TEMPLATES
from tests.homes import lend_parsed_files

MAIL = MailFile(mail="default", site_name="The House", site_url="https://house.example/")
ENGINE = Path(__file__).resolve().parents[2] / "engine"


def test_every_mail_that_may_be_queued_has_a_template_and_a_sample() -> None:
    files = {path.stem for path in SHIPPED.glob("*.j2")}
    assert files == set(TEMPLATES) == set(SAMPLES)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_template_can_be_written_from_its_sample(name: str) -> None:
    letter = LetterWriter().write(name, SAMPLES[name], MAIL)
    assert letter.subject and "\n" not in letter.subject
    assert "The House" in letter.text and "<p>" in letter.html
    assert "{" not in letter.text


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_name_that_is_missing_is_an_error_and_no_gap(name: str) -> None:
    for key in SAMPLES[name]:
        data = {other: value for other, value in SAMPLES[name].items() if other != key}
        with pytest.raises(LetterRefused, match=key):
            LetterWriter().write(name, data, MAIL)


def test_data_is_text_in_the_html_whatever_it_holds() -> None:
    data = {**SAMPLES["key_created"], "key_name": "<script>alert(1)</script>{{ 7 * 7 }}"}
    letter = LetterWriter().write("key_created", data, MAIL)
    assert "<script>" not in letter.html and "&lt;script&gt;" in letter.html
    assert "49" not in letter.text


def test_data_cannot_add_a_line_to_the_subject() -> None:
    data = {**SAMPLES["key_created"], "key_name": "k\r\nBcc: everybody@example.org"}
    assert "\n" not in LetterWriter().write("key_created", data, MAIL).subject


@pytest.mark.parametrize(
    ("amount", "shown"), [("4.125", "$4.12"), ("4.135", "$4.14"), ("1234567", "$1,234,567.00"), (0, "$0.00")]
)
def test_dollars_are_rounded_half_to_even_and_only_here(amount: Any, shown: str) -> None:
    assert show_usd(amount) == shown


def test_addresses_become_links_and_nothing_escapes_from_them() -> None:
    page = write_paragraphs('See https://a.example/x?a=1&b="2"\nand\n\n<b>more</b>')
    assert 'href="https://a.example/x?a=1&amp;b="' in page
    assert "<b>" not in page and page.count("<p>") == 2


def test_a_template_of_ones_own_goes_before_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "welcome.j2").write_text(
        "{% block subject %}Hi{% endblock %}{% block text %}Own {{ name }}{% endblock %}"
        "{% block html %}<h1>{{ name }}</h1>{% endblock %}"
    )
    writer = LetterWriter(tmp_path)
    letter = writer.write("welcome", {"name": "<x>"}, MAIL)
    assert (letter.subject, letter.text) == ("Hi", "Own <x>\n")
    assert "<h1>&lt;x&gt;</h1>" in letter.html
    assert writer.write("key_created", SAMPLES["key_created"], MAIL).text.startswith("The API key")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ name.__class__ }}",
        "{% for x in range(10**12) %}{% endfor %}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_reaches_nothing_but_its_data(text: str, tmp_path: Path) -> None:
    (tmp_path / "welcome.j2").write_text(
        f"{{% block subject %}}s{{% endblock %}}{{% block text %}}{text}{{% endblock %}}"
    )
    with pytest.raises(LetterRefused):
        LetterWriter(tmp_path).write("welcome", {"name": "n"}, MAIL)


def list_queued() -> list[tuple[str, str, set[str] | None]]:
    """Every mail that the code queues with data written out on the spot: where, template, keys."""
    found = []
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "queue_mail"):
                continue
            name, data = node.args[1], node.args[3] if len(node.args) > 3 else None
            if not isinstance(name, ast.Constant):
                continue
            keys = None
            if isinstance(data, ast.Dict) and all(isinstance(key, ast.Constant) for key in data.keys):
                keys = {str(key.value) for key in data.keys if isinstance(key, ast.Constant)}
            found.append((f"{path.name}:{node.lineno}", str(name.value), keys))
    return found


def test_the_code_queues_mails_with_the_data_that_their_templates_read() -> None:
    for place, name, keys in list_queued():
        assert name in TEMPLATES, place
        assert keys is None or keys >= set(SAMPLES[name]), (place, name, set(SAMPLES[name]) - keys)


def test_a_mail_can_be_looked_at_before_anybody_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lend_parsed_files(tmp_path / "home")
    monkeypatch.setenv("GATEWAYZ_HOME", str(tmp_path / "home"))
    (tmp_path / "policies.d").mkdir()
    (tmp_path / "policies.d/mail.yaml").write_text("mail: default\nextends: default\nsite_name: Our Place\n")
    assert main(["mail", "preview", "budget_alert"]) == 0
    assert "at Our Place has $16.01 of $20.00 spent (80 %)" in capsys.readouterr().out
    assert main(["mail", "preview", "welcome", "--html"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert main(["mail", "list", "--format", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"] for row in rows} == set(TEMPLATES)
