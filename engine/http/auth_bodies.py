"""What people send to get in, checked before anything happens, and what they are answered.

Of what an identity provider's client sends along only its tokens count. The rest is taken without a look, so that
such clients can stay as they are.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StringConstraints, WithJsonSchema

from engine.config.schema_base import Strict
from engine.http.key_bodies import Name, Tag
from engine.secret import Secret
from engine.storage.key_rules import Text
from engine.storage.outbox import is_address

_MOST_SECRET = 8192


def _check_address(text: str) -> str:
    if not is_address(text.strip()):
        raise ValueError("this is not an address such as name@example.com")
    return text.strip()


def _as_secret(value: Any) -> Secret:
    if not isinstance(value, str) or not value or len(value) > _MOST_SECRET:
        raise ValueError(f"text of 1 to {_MOST_SECRET} characters is expected")
    return Secret(value)


Email = Annotated[Text, StringConstraints(max_length=300), AfterValidator(_check_address)]
SecretWord = Annotated[
    Secret,
    BeforeValidator(_as_secret),
    WithJsonSchema({"type": "string", "format": "password", "minLength": 1, "maxLength": _MOST_SECRET}),
]
PersonName = Annotated[Text, StringConstraints(max_length=100, strip_whitespace=True)]
Code = Annotated[Text, StringConstraints(max_length=100)]
Ignored = Annotated[Any, Field(description="taken and not looked at")]


class SignIn(Strict):
    """POST /auth and POST /auth/login: an address with a password, or tokens of an identity provider."""

    email: Email | None = None
    password: SecretWord | None = None
    token: SecretWord | None = None
    identity_token: SecretWord | None = None
    privy_access_token: SecretWord | None = None
    provider: Annotated[Text, StringConstraints(max_length=100)] | None = None
    environment_tag: Tag | None = None
    auto_create_api_key: bool | None = None
    referral_code: Code | None = None
    partner_code: Code | None = None
    invitation: SecretWord | None = None
    user: Ignored = None
    refresh_token: Ignored = None
    session_update_action: Ignored = None
    is_new_user: Ignored = None

    @property
    def tokens(self) -> list[Secret]:
        given = (self.token, self.privy_access_token, self.identity_token)
        return list(dict.fromkeys(one for one in given if one is not None))


class Register(Strict):
    """POST /auth/register"""

    email: Email
    password: SecretWord
    username: PersonName = ""
    environment_tag: Tag | None = None
    key_name: Name | None = None
    auto_create_api_key: bool | None = None
    referral_code: Code | None = None
    partner_code: Code | None = None
    invitation: SecretWord | None = None
    auth_method: Ignored = None


class Refresh(Strict):
    """POST /auth/refresh"""

    refresh_token: SecretWord


class Logout(Strict):
    """POST /auth/logout"""

    refresh_token: SecretWord
    everywhere: StrictBool = False


class AskReset(Strict):
    """POST /auth/password-reset"""

    email: Email


class AskResetQuery(Strict):
    email: Email | None = None


class ResetPassword(Strict):
    """POST /auth/reset-password"""

    password: SecretWord
    token: SecretWord | None = None


class TokenQuery(Strict):
    token: SecretWord | None = None


class VerifyEmail(Strict):
    """POST /auth/verify-email"""

    token: SecretWord
    password: SecretWord | None = None


class ChangeProfile(Strict):
    """PUT /user/profile"""

    name: PersonName | None = None
    email: Email | None = None
    current_password: SecretWord | None = None
    preferences: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None


class ChangePassword(Strict):
    """POST /user/password"""

    current_password: SecretWord
    new_password: SecretWord


class DeleteAccount(Strict):
    """DELETE /user/account"""

    confirmation: Annotated[str, Field(pattern="^DELETE_ACCOUNT$")]


class Invite(Strict):
    """POST /admin/invitations"""

    email: Email | None = None


class Said(Strict):
    """An answer that says that it is done."""

    success: bool
    message: str
    timestamp: str


class SessionPair(Strict):
    """The tokens of a session."""

    success: bool
    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    refresh_expires_at: str
