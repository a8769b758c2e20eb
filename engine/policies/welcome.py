"""What a new account is to be, by the login file in force and by what its owner asks for. Pure."""

from dataclasses import dataclass, replace

from engine.config.schema_login import LoginFile
from engine.config.snapshot import Snapshot
from engine.errors import NotAllowed
from engine.policies.id_tokens import Proven
from engine.policies.login_rules import find_refusal, list_refused_domains, read_login
from engine.secret import Secret
from engine.storage.account_desk import Newcomer
from engine.storage.accounts import NewAccount, name_user
from engine.storage.audit import Actor
from engine.storage.issuing import KeyRequest
from engine.storage.newcomers import NewcomerFacts

ENVIRONMENTS = {"live": "live", "test": "test", "staging": "staging", "development": "dev"}
KEY_NAME, KEY_SCOPES = "Main key", ("inference", "read")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody who comes in asks for beside being let in."""

    name: str = ""
    environment: str | None = None
    """live, test, staging or development; None: what the file says."""
    key: bool | None = None
    """Make a key. None: for new users, if the file says so."""
    key_name: str = KEY_NAME
    referral_code: str | None = None
    partner_code: str | None = None
    invitation: Secret | None = None


NO_WISHES = Wishes()


def ask_key(login: LoginFile, wishes: Wishes, *, is_new: bool) -> KeyRequest | None:
    """Who has an account gets a key only when asked for one, and only when there is none."""
    new_user = login.new_user
    if not (wishes.key is True or (is_new and wishes.key is None and new_user.auto_key)):
        return None
    environment = ENVIRONMENTS[wishes.environment or new_user.environment]
    return KeyRequest(wishes.key_name, environment=environment, scopes=KEY_SCOPES)


def welcome(
    snapshot: Snapshot,
    email: str | None,
    hashed: str | None,
    wishes: Wishes,
    by: Actor,
    *,
    is_proven: bool = False,
) -> Newcomer:
    """Somebody with an address that is proven, or not yet."""
    login = read_login(snapshot)
    new_user = login.new_user
    facts = NewcomerFacts(
        email=email or "",
        email_verified=is_proven,
        name=wishes.name,
        environment=wishes.environment or new_user.environment,
        referral_code=wishes.referral_code,
        partner_code=wishes.partner_code,
        address=by.address,
    )
    return Newcomer(
        NewAccount(name_user(), email, is_proven, wishes.name, hashed, new_user.plan or "", new_user.prepaid),
        facts,
        ask_key(login, wishes, is_new=True),
        login.sign_up == "invited",
        wishes.invitation,
        find_refusal(email, login, list_refused_domains(snapshot, login)),
    )


def welcome_proven(snapshot: Snapshot, proven: Proven, wishes: Wishes, by: Actor) -> Newcomer:
    """Somebody whom an identity provider vouches for."""
    wishes = replace(wishes, name=wishes.name or proven.name)
    newcomer = welcome(snapshot, proven.email, None, wishes, by, is_proven=proven.email is not None)
    refusal = newcomer.refusal
    if proven.email is None and read_login(snapshot).providers[proven.provider].needs_email:
        refusal = NotAllowed(
            "the identity provider does not say that it has checked an address", code="address_missing"
        )
    return replace(newcomer, facts=replace(newcomer.facts, method=proven.provider), refusal=refusal)
