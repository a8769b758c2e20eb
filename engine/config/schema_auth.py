"""`auth` of a provider: the kinds of credentials, each with one key or several of them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from engine.config.references import Unset
from engine.config.schema_base import SecretText, Strict, described
from engine.secret import Secret


def _read_url(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal().rstrip("/")
    if isinstance(value, str):
        return value.rstrip("/")
    if isinstance(value, Unset):
        return value
    raise PydanticCustomError("url", "a URL is expected, such as https://api.example.com/v1")


Url = Annotated[str | Unset, PlainValidator(_read_url), WithJsonSchema({"type": "string"})]


class KeyEntry(Strict):
    key: SecretText = described("the credential")
    weight: float = described("share of the calls among this provider's credentials", 1.0, gt=0)
    models: tuple[str, ...] | None = described("globs of the models it may be used for; default: all", None)
    base_url: Url | None = described("base URL to use with this credential", None)


def _as_keys(value: Any) -> Any:
    entries = value if isinstance(value, list | tuple) else [value]
    return [entry if isinstance(entry, dict | KeyEntry) else {"key": entry} for entry in entries]


KeyInput = str | KeyEntry | list[str | KeyEntry]
Keys = Annotated[
    tuple[KeyEntry, ...], BeforeValidator(_as_keys, json_schema_input_type=KeyInput), Field(min_length=1)
]


class NamedKeys(Strict):
    name: str = described("name of the header or query parameter", pattern=r"^[A-Za-z0-9_.-]+$")
    value: Keys = described("the credential, or several")


def _join_basic(value: Any) -> Any:
    """`{username, password}` stands for the text `username:password`."""
    if not isinstance(value, dict) or "username" not in value:
        return value
    parts = [value.get("username"), value.get("password", "")]
    unset = next((part for part in parts if isinstance(part, Unset)), None)
    if unset is not None:
        return unset
    text = ":".join(part.reveal() if isinstance(part, Secret) else str(part) for part in parts)
    return {**{key: value[key] for key in value if key not in ("username", "password")}, "key": Secret(text)}


def _as_basic(value: Any) -> Any:
    return _as_keys(
        [_join_basic(entry) for entry in value] if isinstance(value, list) else _join_basic(value)
    )


class BasicInput(Strict):
    username: str = described("user name")
    password: str = described("password", "")


BasicKeys = Annotated[
    tuple[KeyEntry, ...], BeforeValidator(_as_basic, json_schema_input_type=KeyInput | BasicInput)
]


def _read_plain(value: Any) -> Any:
    """Text in a place whose variables count as secret, although it is none."""
    if isinstance(value, Unset):
        return value
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str) or not text or not text.isprintable():
        raise PydanticCustomError("text", "text is expected")
    return text


Plain = Annotated[str | Unset, PlainValidator(_read_plain), WithJsonSchema({"type": "string"})]


class CredentialEntry(Strict):
    """What every entry of a list of credentials may say."""

    weight: float = described("share of the calls among this provider's credentials", 1.0, gt=0)
    models: tuple[str, ...] | None = described("globs of the models it may be used for; default: all", None)
    base_url: Url | None = described("base URL to use with this credential", None)


class SigningEntry(CredentialEntry):
    """Requests are signed (signature version 4)."""

    access_key: SecretText = described("id of the access key")
    secret_key: SecretText = described("the secret access key")
    session_token: SecretText | None = described("of temporary credentials", None)
    region: Plain = described("the region that is signed for")
    service: Plain = described("the service that is signed for")


class ServiceAccountEntry(CredentialEntry):
    """A service account's key is exchanged for tokens, which are renewed in the background."""

    json_: SecretText | None = described("the key, as the JSON text of its file", None, alias="json")
    file: Plain | None = described("or the file that holds it; read again with each token", None)
    scope: Plain = described("the scope that tokens are asked for")

    @model_validator(mode="after")
    def _refuse_two_keys(self) -> "ServiceAccountEntry":
        if (self.json_ is None) == (self.file is None):
            raise PydanticCustomError("auth", "either `json` or `file` is expected")
        return self


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


SigningKeys = Annotated[
    tuple[SigningEntry, ...],
    BeforeValidator(_as_list, json_schema_input_type=SigningEntry | list[SigningEntry]),
    Field(min_length=1),
]
ServiceAccounts = Annotated[
    tuple[ServiceAccountEntry, ...],
    BeforeValidator(_as_list, json_schema_input_type=ServiceAccountEntry | list[ServiceAccountEntry]),
    Field(min_length=1),
]


class AuthEntry(Strict):
    """One way of sending a credential, or none at all."""

    bearer: Keys | None = described("Authorization: Bearer KEY", None)
    header: NamedKeys | None = described("a header of its own: {name, value}", None)
    basic: BasicKeys | None = described("HTTP basic: user:password, or {username, password}", None)
    query: NamedKeys | None = described("a query parameter: {name, value}", None)
    sigv4: SigningKeys | None = described(
        "each request signed: {access_key, secret_key, session_token, region, service}", None
    )
    google_service_account: ServiceAccounts | None = described(
        "tokens for a service account's key: {json or file, scope}", None
    )

    @model_validator(mode="after")
    def _refuse_two_ways(self) -> "AuthEntry":
        if len(self.model_fields_set) > 1:
            names = ", ".join(type(self).model_fields)
            raise PydanticCustomError("auth", "one of {names}, not several", {"names": names})
        return self


def read_auth(value: Any) -> Any:
    return {} if value == "none" or value is None else value
