"""What the login file in force says, asked in the words of whoever stands at the door. Pure."""

from collections.abc import Iterable

from engine.config.schema_login import LoginFile, MailDomainsFile
from engine.config.snapshot import Snapshot
from engine.errors import NotAllowed

DEFAULT = "default"


def read_login(snapshot: Snapshot) -> LoginFile:
    return snapshot.declared(LoginFile)[DEFAULT]


def find_refusal(email: str | None, login: LoginFile, lists: Iterable[MailDomainsFile]) -> NotAllowed | None:
    """Why nobody may make an account with this address."""
    if login.sign_up == "closed":
        return NotAllowed("nobody can sign up here", code="sign_up_closed")
    if email is not None and is_refused_domain(email, lists):
        return refuse_address()
    return None


def refuse_address() -> NotAllowed:
    """One sentence for every reason, so that it tells of none."""
    return NotAllowed("an account cannot be made with this address", code="address_refused")


def list_refused_domains(snapshot: Snapshot, login: LoginFile) -> list[MailDomainsFile]:
    lists = snapshot.declared(MailDomainsFile)
    return [lists[name] for name in login.refuse_mail_domains if name in lists]


def is_refused_domain(email: str, lists: Iterable[MailDomainsFile]) -> bool:
    """Whether the address is of a listed domain or below one; the nearest name that a list has decides."""
    labels = email.rpartition("@")[2].casefold().rstrip(".").split(".")
    names = [".".join(labels[at:]) for at in range(len(labels))]
    return any(_decide(names, one) for one in lists)


def _decide(names: list[str], listed: MailDomainsFile) -> bool:
    for name in names:
        if name in listed.allow:
            return False
        if name in listed.domains:
            return True
    return False
