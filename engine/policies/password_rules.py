"""What is wrong with a password that somebody wants to have. Pure."""

from engine.config.schema_login import PasswordEntry
from engine.errors import InvalidRequest
from engine.secret import Secret

_AROUND = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ "
_SHORT = 4


def refuse_weak(password: Secret, email: str | None, rules: PasswordEntry, param: str = "password") -> None:
    """Raises InvalidRequest with the first rule that the password breaks."""
    fault = find_fault(password.reveal(), email or "", rules)
    if fault:
        raise InvalidRequest(f"this password {fault}", code="password_refused", param=param)


def find_fault(password: str, email: str, rules: PasswordEntry) -> str:
    folded = password.casefold()
    if len(password) < rules.min_length:
        return f"is shorter than {rules.min_length} characters"
    if len(password) > rules.max_length:
        return f"is longer than {rules.max_length} characters"
    if len(set(folded)) < _SHORT:
        return "is made of too few different characters"
    refused = {word.casefold() for word in rules.refuse}
    if {folded, folded.strip(_AROUND)} & refused:
        return "is one of those that are guessed first"
    if any(part in folded for part in list_parts(email)):
        return "contains the address"
    return ""


def list_parts(email: str) -> list[str]:
    """The address, what stands before its @, and the domain's own name, as far as they are long enough to tell."""
    name, _, domain = email.casefold().partition("@")
    parts = (email.casefold(), name, domain, domain.partition(".")[0])
    return [part for part in parts if len(part) >= _SHORT]
