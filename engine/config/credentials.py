"""`auth` of a provider's file -> the credentials of the snapshot, or why there are none. Pure."""

from collections.abc import Iterator
from typing import TypeVar

from engine.config.references import Unset
from engine.config.schema_auth import AuthEntry, KeyEntry, ServiceAccountEntry, SigningEntry
from engine.config.snapshot import Auth, Credential, ServiceAccount, SigningKey
from engine.secret import Secret

T = TypeVar("T")


def _list_keys(entry: AuthEntry) -> tuple[str, str, tuple[KeyEntry, ...]]:
    """(kind, header or parameter name, keys) of the one way that is set."""
    if entry.bearer is not None:
        return "bearer", "authorization", entry.bearer
    if entry.basic is not None:
        return "basic", "authorization", entry.basic
    if entry.header is not None:
        return "header", entry.header.name.lower(), entry.header.value
    if entry.query is not None:
        return "query", entry.query.name, entry.query.value
    return "none", "", ()


def _list_signing_keys(name: str, entries: tuple[SigningEntry, ...]) -> Iterator[Credential | Unset]:
    for index, entry in enumerate(entries):
        token = entry.session_token or None  # an empty one is none
        values = (entry.access_key, entry.secret_key, token, entry.region, entry.service)
        yield _find_unset(*values, entry.base_url) or Credential(
            f"{name}#{index}",
            _sure(entry.secret_key, Secret),
            entry.weight,
            entry.models,
            None if entry.base_url is None else _sure(entry.base_url, str),
            SigningKey(
                _sure(entry.access_key, Secret),
                _sure(entry.region, str),
                _sure(entry.service, str),
                None if token is None else _sure(token, Secret),
            ),
        )


def _list_service_accounts(
    name: str, entries: tuple[ServiceAccountEntry, ...]
) -> Iterator[Credential | Unset]:
    for index, entry in enumerate(entries):
        yield _find_unset(entry.json_, entry.file, entry.scope, entry.base_url) or Credential(
            f"{name}#{index}",
            Secret("") if entry.json_ is None else _sure(entry.json_, Secret),
            entry.weight,
            entry.models,
            None if entry.base_url is None else _sure(entry.base_url, str),
            ServiceAccount(_sure(entry.scope, str), "" if entry.file is None else _sure(entry.file, str)),
        )


def _find_unset(*values: object) -> Unset | None:
    """The first value that is not there; an empty secret is not there either."""
    for value in values:
        if isinstance(value, Unset):
            return value
        if isinstance(value, Secret) and not value:
            return Unset("its credential is empty")
    return None


def _sure(value: object, kind: type[T]) -> T:
    assert isinstance(value, kind)  # what is not there was found before
    return value


def _build_credential(name: str, entry: KeyEntry) -> Credential | Unset:
    if isinstance(entry.key, Unset):
        return entry.key
    if isinstance(entry.base_url, Unset):
        return entry.base_url
    if not entry.key:
        return Unset("its credential is empty")
    return Credential(name, entry.key, entry.weight, entry.models, entry.base_url)


def _list_credentials(provider: str, entry: AuthEntry) -> tuple[str, str, list[Credential | Unset]]:
    if entry.sigv4 is not None:
        return "sigv4", "", list(_list_signing_keys(provider, entry.sigv4))
    if entry.google_service_account is not None:
        accounts = list(_list_service_accounts(provider, entry.google_service_account))
        return "google_service_account", "", accounts
    kind, header, keys = _list_keys(entry)
    return kind, header, [_build_credential(f"{provider}#{index}", key) for index, key in enumerate(keys)]


def build_auth(provider: str, entry: AuthEntry) -> tuple[Auth, str]:
    """The credentials that are there, and why the provider is not configured ("" when it is)."""
    kind, header, built = _list_credentials(provider, entry)
    if kind == "none":
        return Auth(kind, header, (Credential(f"{provider}#0", Secret("")),)), ""
    credentials = tuple(item for item in built if isinstance(item, Credential))
    reasons = [item.reason for item in built if isinstance(item, Unset)]
    return Auth(kind, header, credentials), "" if credentials else reasons[0]
