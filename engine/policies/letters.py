"""Mails with a token in them: what proves an address, and what a new password is set with. Pure but for the token."""

from typing import Any

from engine.config.schema_login import LoginFile
from engine.storage.accounts import Account
from engine.storage.one_time_tokens import OneTimeToken, make_token
from engine.storage.profile_desk import Letter

VERIFY_PREFIX, RESET_PREFIX = "gwv", "gwp"
_HOUR, _DAY = 60, 1440


def write_letter(login: LoginFile, what: OneTimeToken, name: str) -> Letter:
    """The mail for what the token is good for, with a link where the file names a page."""
    if what.purpose == "password_reset":
        prefix, lasts_s, page = RESET_PREFIX, login.tokens.reset_s, login.links.password_reset
    else:
        prefix, lasts_s, page = VERIFY_PREFIX, login.tokens.verify_s, login.links.verify_address
    token = make_token(prefix)
    template = "password_reset" if what.purpose == "password_reset" else "verify_address"
    link = page.replace("{token}", token.reveal())
    data: dict[str, Any] = {"name": name, "link": link, "valid_for": word_span(lasts_s)}
    return Letter(token, what, lasts_s, template, data)


def reset_of(account: Account | None, email: str) -> OneTimeToken:
    """The token for a new password; without an account it is nobody's, and no less work."""
    if account is None:
        return OneTimeToken("password_reset", email)
    return OneTimeToken("password_reset", account.email or email, account.id)


def word_span(seconds: float) -> str:
    """How long something lasts, for people."""
    minutes = max(1, int(seconds // 60))
    for size, word in ((_DAY, "days"), (_HOUR, "hours")):
        if minutes >= 2 * size and minutes % size == 0:
            return f"{minutes // size} {word}"
    return f"{minutes} minutes"
