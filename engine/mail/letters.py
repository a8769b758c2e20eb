"""A template and its data become a letter: subject, text and HTML. Pure; sending is somebody else's.

A template is a file `NAME.j2` with the blocks `subject` and `text`, and `html` if the HTML is to be more than the text
in paragraphs. It reads its data, `site_name` and `site_url`; a name that is not there is an error, never a gap.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.config.schema_mail import MailFile

SHIPPED = Path(str(files("engine.mail").joinpath("templates")))
_LINK = re.compile(r"https?://[^\s<>\"']+")
_CENT = Decimal("0.01")


class LetterRefused(ValueError):
    """A letter that cannot be written: no such template, a name it reads is not in the data, or a mistake in it."""


@dataclass(frozen=True, slots=True)
class Letter:
    name: str
    subject: str
    text: str
    html: str


class LetterWriter:
    """Templates of a folder of the user's before the shipped ones."""

    def __init__(self, own_folder: Path | None = None) -> None:
        folders = [folder for folder in (own_folder, SHIPPED) if folder is not None]
        self._plain = _make_environment(folders, escape=False)
        self._escaped = _make_environment(folders, escape=True)

    def write(self, name: str, data: Mapping[str, Any], mail: MailFile) -> Letter:
        """Raises LetterRefused."""
        facts = {"site_name": mail.site_name, "site_url": mail.site_url.rstrip("/"), **data}
        try:
            plain = self._plain.get_template(f"{name}.j2")
            subject = " ".join(_render(plain, "subject", facts).split())
            text = _render(plain, "text", facts).strip() + "\n"
            if "html" in plain.blocks:
                page = _render(self._escaped.get_template(f"{name}.j2"), "html", facts)
            else:
                page = write_paragraphs(text)
        except TemplateError as error:
            raise LetterRefused(f"the mail {name} cannot be written: {error}") from error
        except (TypeError, ValueError, ArithmeticError) as error:  # a filter that was given something else
            raise LetterRefused(f"the mail {name} cannot be written: {error}") from error
        return Letter(name, subject, text, f'<!doctype html><html><body lang="en">{page}</body></html>\n')


def _make_environment(folders: list[Path], *, escape: bool) -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["usd"] = show_usd
    return made


def _render(template: Template, block: str, facts: Mapping[str, Any]) -> str:
    found = template.blocks.get(block)
    if found is None:
        raise LetterRefused(f"the mail {template.name} has no block {block}")
    return "".join(found(template.new_context(dict(facts))))


def show_usd(amount: Any) -> str:
    """Dollars for people: rounded to cents, half to even."""
    return f"${Decimal(str(amount)).quantize(_CENT, ROUND_HALF_EVEN):,}"


def write_paragraphs(text: str) -> str:
    """Text as HTML: everything is escaped, addresses become links, an empty line begins a paragraph."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    return "".join(f"<p>{_write_lines(part)}</p>" for part in paragraphs)


def _write_lines(part: str) -> str:
    pieces, at = [], 0
    for link in _LINK.finditer(part):
        pieces += [html.escape(part[at : link.start()]), _write_link(link[0])]
        at = link.end()
    pieces.append(html.escape(part[at:]))
    return "".join(pieces).replace("\n", "<br>\n")


def _write_link(address: str) -> str:
    shown = html.escape(address)
    return f'<a href="{shown}">{shown}</a>'
