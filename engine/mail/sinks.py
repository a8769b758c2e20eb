"""How one letter leaves: an HTTP call whose body is a template, or SMTP. What came of it is one of three things.

    taken      the sink has it, and maybe said under which id
    refused    the sink does not have it; trying again may help or not
    unsure     it may have it: the answer did not come, or was not one

Every letter carries a key of its own, the same at every try, for sinks that send each key once.
"""

import asyncio
import smtplib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.message import EmailMessage
from email.utils import formataddr, parseaddr
from typing import Any, Literal

import httpx
import orjson

from engine.config.schema_mail import MAIL_NAMES, MailFile
from engine.errors import UpstreamFailure
from engine.mail.letters import Letter
from engine.secret import Secret
from engine.telemetry.redaction import mask_text
from engine.upstream.pools import Upstreams, control_client
from engine.wire.expressions import TemplateFailed
from engine.wire.templates import compile_template

_LONGEST_WORDS, _MOST_READ = 300, 4000
_SHORTEST_SECRET = 6
_FOR_GOOD = frozenset({400, 404, 405, 410, 413, 415, 422})
"""Answers that will be the same next time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: Literal["taken", "refused", "unsure"]
    words: str = ""
    sink_id: str = ""
    is_final: bool = False
    """Refused for good."""


async def send_letter(letter: Letter, to: str, key: str, mail: MailFile, upstreams: Upstreams) -> Outcome:
    """Give a letter to the declared sink. Never raises what a sink may do."""
    if mail.sink == "http":
        outcome = await _post(letter, to, key, mail, upstreams)
    else:
        outcome = await asyncio.to_thread(_speak_smtp, letter, to, key, mail)
    return replace(outcome, words=mask_words(outcome.words, mail))


def mask_words(words: str, mail: MailFile) -> str:
    """What a sink said, which is kept and shown, without the credential that it may have quoted."""
    for secret in sorted(_list_secrets(mail), key=len, reverse=True):
        words = words.replace(secret, "***")
    return mask_text(words)[:_LONGEST_WORDS]


def _list_secrets(mail: MailFile) -> Iterator[str]:
    """Of a header each word, too: `Bearer` is said, and then the key."""
    for text in (mail.password, mail.url, *mail.headers.values()):
        if isinstance(text, Secret):
            told = text.reveal()
            yield from (part for part in (told, *told.split()) if len(part) >= _SHORTEST_SECRET)


async def _post(letter: Letter, to: str, key: str, mail: MailFile, upstreams: Upstreams) -> Outcome:
    try:
        body = orjson.dumps(compile_template(mail.body, MAIL_NAMES)(describe(letter, to, key, mail)))
    except TemplateFailed as error:
        return Outcome("refused", f"the body cannot be written: {error}", is_final=True)
    headers = {"content-type": "application/json"}
    headers |= {name: text.reveal() for name, text in mail.headers.items() if isinstance(text, Secret)}
    if mail.idempotency_header:
        headers[mail.idempotency_header] = key
    try:
        async with control_client(
            upstreams, allow_private=mail.allow_private, timeout_s=mail.timeout_s
        ) as client:
            answer = await client.request(mail.method, str(mail.url), content=body, headers=headers)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return Outcome("refused", f"the sink is not reached: {error}")
    except (httpx.HTTPError, UpstreamFailure) as error:
        return Outcome("unsure", f"the sink did not answer: {error}")
    return read_answer(answer.status_code, answer.content, mail.id_key)


def read_answer(status: int, content: bytes, id_key: str) -> Outcome:
    words = content[:_MOST_READ].decode("utf-8", "replace")
    if 200 <= status < 300:
        return Outcome("taken", sink_id=_find_id(content, id_key))
    if status >= 500:
        return Outcome("unsure", f"status {status}: {words}")
    return Outcome("refused", f"status {status}: {words}", is_final=status in _FOR_GOOD)


def _find_id(content: bytes, id_key: str) -> str:
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        return ""
    found = said.get(id_key) if isinstance(said, dict) else None
    return str(found)[:100] if isinstance(found, str | int) else ""


def describe(letter: Letter, to: str, key: str, mail: MailFile) -> dict[str, Any]:
    """A letter as the body's template sees it."""
    return {
        "sender": mail.sender,
        "to": to,
        "reply_to": mail.reply_to,
        "subject": letter.subject,
        "text": letter.text,
        "html": letter.html,
        "key": key,
        "name": letter.name,
    }


def write_message(letter: Letter, to: str, key: str, mail: MailFile) -> EmailMessage:
    """The same letter is the same message at every try: its id is made of its key."""
    message = EmailMessage()
    name, address = parseaddr(mail.sender)
    message["From"] = formataddr((name, address))
    message["To"] = to
    message["Subject"] = letter.subject
    message["Message-ID"] = f"<{key}@{address.rpartition('@')[2]}>"
    if mail.reply_to:
        message["Reply-To"] = mail.reply_to
    message.set_content(letter.text)
    message.add_alternative(letter.html, subtype="html")
    return message


def _speak_smtp(letter: Letter, to: str, key: str, mail: MailFile) -> Outcome:
    message, told = write_message(letter, to, key, mail), False
    try:
        with _connect(mail) as server:
            if isinstance(mail.password, Secret) and mail.user:
                server.login(mail.user, mail.password.reveal())
            told = True
            server.send_message(message)
            told = False
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        return Outcome("refused", _say(error), is_final=all(500 <= code < 600 for code in codes))
    except smtplib.SMTPResponseException as error:
        final = 500 <= error.smtp_code < 600 and not isinstance(error, smtplib.SMTPAuthenticationError)
        return Outcome("refused", _say(error), is_final=final)
    except smtplib.SMTPNotSupportedError as error:
        return Outcome("refused", _say(error))
    except (smtplib.SMTPException, OSError) as error:
        return Outcome("unsure" if told else "refused", _say(error))
    return Outcome("taken")


def _connect(mail: MailFile) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if mail.security == "tls":
        return smtplib.SMTP_SSL(mail.host, mail.port, timeout=mail.timeout_s, context=context)
    server = smtplib.SMTP(mail.host, mail.port, timeout=mail.timeout_s)
    if mail.security == "starttls":
        server.starttls(context=context)
    return server


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_MOST_READ]
