"""policies.d: how mails leave. `default` is the one in force; the others are there to be extended."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from engine.config.schema_auth import Url
from engine.config.schema_base import Name, Seconds, SecretText, Strict, described
from engine.wire.templates import TemplateRefused, compile_template

MAIL_NAMES = ("mail",)
"""What the body of an HTTP sink is made of."""


def _check_line(text: str) -> str:
    if any(letter in text for letter in "\r\n\0"):
        raise ValueError("this must be one line")
    return text


Line = Annotated[str, Field(max_length=300), AfterValidator(_check_line)]


def _check_body(tree: dict[str, Any]) -> dict[str, Any]:
    try:
        compile_template(tree, MAIL_NAMES)
    except TemplateRefused as refused:
        path, message = refused.problems[0]
        raise PydanticCustomError(
            "template", "{told}", {"told": f"{'.'.join(map(str, path))}: {message}"}
        ) from None
    return tree


class MailFile(Strict):
    """How mails leave. Without a sink they are kept, and the log says that they are not sent."""

    mail: Name = described("the name; `default` is in force")
    extends: Name | None = described("another of the kind whose keys these go over", None)
    sink: Literal["none", "http", "smtp"] = described("by what they leave", "none")
    sender: Line = described("who writes: `Name <name@example.org>`", "")
    reply_to: Line = described("where answers go; default: to the sender", "")
    site_name: Line = described("what the mails call this place", "Gatewayz")
    site_url: Line = described("what links in mails begin with: `https://example.org`", "")
    templates: Line = described(
        "a folder beside gateway.yaml with templates in place of the shipped ones", ""
    )
    timeout_s: Seconds = described("a try may last", 20, le=60)
    first_retry_s: Seconds = described("a failed try is followed by another after; then twice that ...", 30)
    longest_retry_s: Seconds = described("... and never longer than", 3600)
    give_up_after_h: float = described(
        "a mail older than this is not sent any more, hours; no longer than the sink remembers idempotency keys",
        20,
        gt=0,
        le=720,
    )
    when_unsure: Literal["retry", "give_up"] = described(
        "when the sink may have taken it and did not say so; `retry` may send twice unless the sink knows "
        "idempotency keys",
        "give_up",
    )
    url: Url | None = described("http: where a mail is posted", None)
    method: Literal["POST", "PUT"] = described("http: the method", "POST")
    headers: dict[str, SecretText] = described("http: headers, such as the key", {})
    idempotency_header: Line = described("http: the header that takes the mail's own key", "")
    body: Annotated[dict[str, Any], AfterValidator(_check_body)] = described(
        "http: a tree of templates over `mail`: sender, to, reply_to, subject, text, html, key, name", {}
    )
    id_key: Line = described("http: the key of the answer that holds the sink's id", "id")
    allow_private: bool = described("http: the sink may be at a private address", False)
    host: Line = described("smtp: the server", "")
    port: int = described("smtp: its port", 587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = described(
        "smtp: how the connection is secured", "starttls"
    )
    user: Line = described("smtp: who logs in; empty: nobody does", "")
    password: SecretText | None = described("smtp: its password", None)

    @model_validator(mode="after")
    def _refuse_half_a_sink(self) -> "MailFile":
        if self.sink == "http" and (self.url is None or not self.body):
            raise PydanticCustomError("mail", "an HTTP sink needs `url` and `body`")
        if self.sink == "smtp" and not self.host:
            raise PydanticCustomError("mail", "an SMTP sink needs `host`")
        if self.sink != "none" and "@" not in self.sender:
            raise PydanticCustomError("mail", "`sender` must hold an address")
        return self
