"""`gatewayz mail`: a look at the mails' templates, with the configuration's own names and folder."""

import argparse
import json
import sys

from engine.config.reload import Loader
from engine.config.schema_mail import MailFile
from engine.config.settings import read_environment, read_settings
from engine.mail.letters import LetterRefused, LetterWriter
from engine.mail.samples import SAMPLES


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    mail = subparsers.add_parser("mail", help="the mails that the gateway writes").add_subparsers(
        required=True
    )
    listing = mail.add_parser("list", help="name every template, with the subject of its sample")
    listing.add_argument("--format", choices=("text", "json"), default="text")
    listing.set_defaults(run=list_templates)
    preview = mail.add_parser("preview", help="write one mail with sample data")
    preview.add_argument("name", metavar="NAME", choices=sorted(SAMPLES), help="a template's name")
    preview.add_argument("--html", action="store_true", help="the HTML instead of the text")
    preview.add_argument("--format", choices=("text", "json"), default="text")
    preview.set_defaults(run=preview_template)


def load_mail() -> tuple[MailFile, LetterWriter]:
    """The declared mail, and a writer that knows its folder. Raises ConfigRefused."""
    loader = Loader(read_settings(), read_environment())
    mail = loader.prepare(loader.read(), run_examples=False).declared(MailFile)["default"]
    return mail, LetterWriter(loader.folder / mail.templates if mail.templates else None)


def list_templates(args: argparse.Namespace) -> int:
    mail, writer = load_mail()
    for name in sorted(SAMPLES):
        subject = writer.write(name, SAMPLES[name], mail).subject
        print(
            json.dumps({"name": name, "subject": subject})
            if args.format == "json"
            else f"{name:22} {subject}"
        )
    return 0


def preview_template(args: argparse.Namespace) -> int:
    mail, writer = load_mail()
    try:
        letter = writer.write(args.name, SAMPLES[args.name], mail)
    except LetterRefused as refused:
        print(refused, file=sys.stderr)
        return 1
    if args.format == "json":
        facts = {"name": letter.name, "subject": letter.subject, "text": letter.text, "html": letter.html}
        print(json.dumps(facts))
    elif args.html:
        print(letter.html, end="")
    else:
        print(f"Subject: {letter.subject}\n\n{letter.text}", end="")
    return 0
