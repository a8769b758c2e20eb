"""policies.d/*.yaml with the key `login`: who may sign up and how people prove who they are. And lists of mail domains
that nobody may sign up with. Every default is the shipped file's.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from engine.config.schema_base import Count, Name, Seconds, Strict, described

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Only those whose verifying key is public: with any other, who can check a token could also make one."""
Domain = Annotated[
    str,
    StringConstraints(to_lower=True, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", max_length=253),
]
Days = Annotated[float, Field(gt=0, le=3660)]
Environment = Literal["live", "test", "staging", "development"]
Text = Annotated[str, StringConstraints(max_length=500)]


class PasswordEntry(Strict):
    min_length: int = described("fewest characters", 10, ge=8, le=128)
    max_length: int = described("most characters", 128, ge=64, le=1024)
    refuse: tuple[Text, ...] = described(
        "passwords that are guessed first; also refused with digits and signs around them", ()
    )


class AttemptEntry(Strict):
    attempts: Count = described("how many may be made")
    within_s: int = described("in any span of so many seconds", ge=1, le=86_400)


class AttemptsEntry(Strict):
    login: AttemptEntry = described(
        "signing in, each address of a client", AttemptEntry(attempts=10, within_s=900)
    )
    account: AttemptEntry = described(
        "signing in to one account from addresses that it was not signed in from lately",
        AttemptEntry(attempts=20, within_s=900),
    )
    sign_up: AttemptEntry = described("signing up, each address", AttemptEntry(attempts=3, within_s=3600))
    password_reset: AttemptEntry = described(
        "asking for a reset, each address of a client and each account",
        AttemptEntry(attempts=3, within_s=3600),
    )
    redeem: AttemptEntry = described(
        "using a token that came by mail, each address", AttemptEntry(attempts=10, within_s=3600)
    )
    refresh: AttemptEntry = described(
        "renewing and ending sessions, each address", AttemptEntry(attempts=120, within_s=900)
    )


class SessionsEntry(Strict):
    access_s: Seconds = described("how long a session token is good for, seconds", 900, le=86_400)
    refresh_days: Days = described("how long a session can be renewed, from signing in on", 30)


class TokensEntry(Strict):
    """How long what comes by mail can be used."""

    reset_s: Seconds = described("a token for a new password, seconds", 3600)
    verify_s: Seconds = described("a token that proves an address, seconds", 86_400)
    invitation_days: Days = described("an invitation", 7)


class LinksEntry(Strict):
    verify_address: Text = described("page that mails point to; `{token}` stands for the token", "")
    password_reset: Text = described("page that mails point to; `{token}` stands for the token", "")


class NewUserEntry(Strict):
    plan: Name | None = described("the plan that a new user has", None)
    environment: Environment = described("environment of the key that a new user gets", "live")
    auto_key: bool = described("whether a new user gets a key", True)
    prepaid: bool = described("whether calls of new users are paid from credit, and refused without", True)


class AccountsClaimEntry(Strict):
    """For tokens that list the proven accounts of a person instead of naming one address."""

    claim: Text = described("claim that holds the list, or the list as JSON text")
    kind: Text = described("field of an account that says what it is", "type")
    emails: dict[str, str] = described("for each kind of account, the field with its proven address")


class ClaimsEntry(Strict):
    subject: Text = described("claim with the lasting name of the person", "sub")
    email: Text = described("claim with the address", "email")
    email_verified: Text = described("claim that must be true for the address to count", "email_verified")
    name: Text = described("claim with the name that is shown", "name")
    accounts: AccountsClaimEntry | None = described("claim that lists proven accounts", None)


class IdentityProviderEntry(Strict):
    issuer: Text = described("`iss` of its tokens, letter for letter", min_length=1)
    audience: tuple[Text, ...] | Text = described("`aud` of tokens made for us; empty: not in force")
    jwks_url: Text | None = described("where its keys are; default: what its discovery document says", None)
    algorithms: tuple[Algorithm, ...] = described("algorithms of its tokens", ("RS256",), min_length=1)
    claims: ClaimsEntry = described("names of its claims", ClaimsEntry())
    leeway_s: float = described("how far its clock may be from ours, seconds", 30, ge=0, le=300)
    refresh_keys_s: Seconds = described("unknown keys are looked for at most this often, seconds", 30)
    keep_keys_s: Seconds = described("keys are fetched again when so old, seconds", 3600)
    needs_email: bool = described("whether nobody gets an account without a proven address", True)
    shows_subject_as: Name | None = described("field of the answer that shows the subject", None)
    allow_private: bool = described("whether it may be at a private address and over http", False)

    @model_validator(mode="after")
    def _refuse_open_lines(self) -> "IdentityProviderEntry":
        url = self.jwks_url if self.jwks_url is not None else self.issuer
        if not url.startswith("https://") and not (self.allow_private and url.startswith("http://")):
            raise PydanticCustomError(
                "url", "its keys are fetched over https: `jwks_url`, or an `issuer` that is such an address"
            )
        return self

    @property
    def audiences(self) -> tuple[str, ...]:
        given = (self.audience,) if isinstance(self.audience, str) else self.audience
        return tuple(one for one in given if one)


class LoginFile(Strict):
    """How people get in. The one named `default` is in force."""

    login: Name = described("its name")
    extends: Name | None = described("a login file whose keys these go over", None)
    sign_up: Literal["open", "closed", "invited"] = described("who may make an account", "open")
    verify_address: Literal["first", "later", "auto"] = described(
        "whether an address is proven before there is an account; auto: where mail can be sent", "auto"
    )
    passwords: bool = described("whether people may sign in with a password", True)
    password: PasswordEntry = described("what a password must be", PasswordEntry())
    sessions: SessionsEntry = described("how long a session lasts", SessionsEntry())
    tokens: TokensEntry = described("how long what comes by mail lasts", TokensEntry())
    links: LinksEntry = described("pages that mails point to", LinksEntry())
    attempts: AttemptsEntry = described("how often may be tried", AttemptsEntry())
    new_user: NewUserEntry = described("what a new user has", NewUserEntry())
    refuse_mail_domains: tuple[Name, ...] = described(
        "lists of mail domains that nobody may sign up with", ("default",)
    )
    providers: dict[Name, IdentityProviderEntry] = described("identity providers by name", {})


class MailDomainsFile(Strict):
    """A list of mail domains; what is below one of them counts as well."""

    mail_domains: Name = described("the list's name")
    extends: Name | None = described("a list that this one replaces the domains of", None)
    domains: frozenset[Domain] = described("the domains")
    allow: frozenset[Domain] = described(
        "domains that are not meant, although one above them is", frozenset()
    )
