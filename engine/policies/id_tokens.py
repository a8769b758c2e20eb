"""Tokens of identity providers: what one proves about a person, or that it proves nothing.

Which provider a token is said to be of decides only whose keys it is checked with. Algorithms, issuer and audience are
those of the file, never the token's choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import orjson

from engine.config.schema_login import AccountsClaimEntry, IdentityProviderEntry
from engine.errors import KeyRefused
from engine.secret import Secret
from engine.storage.outbox import is_address
from engine.upstream.key_sets import KeySets, KeySource

MOST_CHARACTERS = 8192
MOST_SUBJECT = 300
_BROKEN = (jwt.PyJWTError, ValueError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Proven:
    """Who a provider says that it was. `email` is only here when the provider has checked it."""

    provider: str
    subject: str
    email: str | None = None
    name: str = ""


class TokenRefused(KeyRefused):
    code = "identity_token_invalid"


class IdTokens:
    def __init__(self, key_sets: KeySets) -> None:
        self._key_sets = key_sets

    async def verify(
        self, token: Secret, providers: Mapping[str, IdentityProviderEntry], named: str | None = None
    ) -> Proven:
        """Raises TokenRefused; DependencyAway when the provider's keys cannot be had."""
        text = token.reveal()
        if len(text) > MOST_CHARACTERS:
            raise TokenRefused("the identity token is too long")
        header, claimed = _look(text)
        name, provider = _find_provider(providers, claimed, named)
        algorithm = header.get("alg")
        if algorithm not in provider.algorithms or "crit" in header:
            raise TokenRefused("the identity token is signed in a way that this provider does not use")
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise TokenRefused("the identity token names no key")
        key = await self._key_sets.find(_find_source(provider), kid)
        if key is None or key.get("alg", algorithm) != algorithm:
            raise TokenRefused("the identity token is signed with a key that its provider does not have")
        return read_claims(name, provider, _check(text, key, algorithm, provider))


def _look(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims as they are said, unproven."""
    try:
        whole = jwt.decode_complete(text, options={"verify_signature": False})
    except (*_BROKEN, RecursionError):
        raise TokenRefused("the identity token is not a JWT") from None
    return whole["header"], whole["payload"]


def _find_provider(
    providers: Mapping[str, IdentityProviderEntry], claimed: Mapping[str, Any], named: str | None
) -> tuple[str, IdentityProviderEntry]:
    for name, provider in providers.items():
        if provider.audiences and provider.issuer == claimed.get("iss") and named in (None, name):
            return name, provider
    raise TokenRefused("the identity token is of no provider that is accepted here")


def _find_source(provider: IdentityProviderEntry) -> KeySource:
    return KeySource(
        provider.issuer,
        provider.jwks_url,
        provider.allow_private,
        provider.refresh_keys_s,
        provider.keep_keys_s,
    )


def _check(
    text: str, key: Mapping[str, Any], algorithm: str, provider: IdentityProviderEntry
) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            text,
            jwt.PyJWK(dict(key), algorithm=algorithm),
            algorithms=[algorithm],
            audience=list(provider.audiences),
            issuer=provider.issuer,
            leeway=provider.leeway_s,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.ExpiredSignatureError:
        raise TokenRefused("the identity token has expired", code="identity_token_expired") from None
    except _BROKEN:  # also a provider's key that is no key
        raise TokenRefused("the identity token is not valid") from None
    audience = claims["aud"]
    if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") not in provider.audiences:
        raise TokenRefused("the identity token was made for somebody else")
    return claims


def read_claims(name: str, provider: IdentityProviderEntry, claims: Mapping[str, Any]) -> Proven:
    """What checked claims prove. An address that was not checked by the provider is no address."""
    names = provider.claims
    subject = claims.get(names.subject)
    if not isinstance(subject, str) or not 0 < len(subject) <= MOST_SUBJECT or "\0" in subject:
        raise TokenRefused("the identity token names nobody")
    email: Any = None
    if names.accounts is not None:
        email = _find_email(claims.get(names.accounts.claim), names.accounts)
    elif (verified := claims.get(names.email_verified)) is True or verified == "true":
        email = claims.get(names.email)
    shown = claims.get(names.name)
    return Proven(
        name,
        subject,
        email if isinstance(email, str) and is_address(email) else None,
        clean_name(shown) if isinstance(shown, str) else "",
    )


def _find_email(listed: Any, entry: AccountsClaimEntry) -> Any:
    """The first proven address, in the order of the file's kinds."""
    if isinstance(listed, str):
        try:
            listed = orjson.loads(listed)
        except orjson.JSONDecodeError:
            return None
    accounts = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    for kind, field in entry.emails.items():
        for account in accounts:
            if account.get(entry.kind) == kind and account.get(field):
                return account[field]
    return None


def clean_name(text: str) -> str:
    return "".join(letter for letter in text[:100] if letter.isprintable()).strip()
