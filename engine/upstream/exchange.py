"""One exchange with one provider: the request is rendered, sent, and its status judged.

A refused or broken exchange is an `UpstreamFailure` whose kind policies can name; a good one is a reply whose body is
still to be read. The constant part of a request head is kept for each provider, credential and path.
"""

import math
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import orjson

from engine.call import Call
from engine.config.snapshot import Credential, Endpoint, Provider, SigningKey, Target, Timeouts
from engine.errors import InvalidRequest, UpstreamFailure
from engine.secret import Secret
from engine.upstream.auth.proofs import Proofs
from engine.upstream.fetching import fetch_parts
from engine.upstream.jobs import JobWaits
from engine.upstream.pools import Upstreams
from engine.upstream.reply import Origin, Reply, StreamedBody, write_head
from engine.wire.fixes import ask_for_usage, continue_answer
from engine.wire.jobs import JobPoll
from engine.wire.splice import edit_members, may_name_twice

MAX_ERROR_BYTES = 64 * 1024
MAX_HEADS = 5_000
SHORTEST_SECRET = 6
LONGEST_RETRY_AFTER_S = 3600.0
"""No provider can put itself out of use for longer with one header."""
MADE_FOR_EACH_REQUEST = frozenset({"sigv4", "google_service_account"})
"""Kinds of auth whose `authorization` is no part of the constant head (upstream/auth)."""
CALLER_KINDS = {400: "invalid_request", 413: "invalid_request", 422: "invalid_request"}


@dataclass(frozen=True, slots=True)
class Continuation:
    """The text already delivered, to be continued from an assistant prefill."""

    delivered: str


_WEIGHED = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "service_tier")
"""What limits and money are held by. Written twice, a provider that reads the first would be asked for another."""


def render_body(
    call: Call, target: Target, endpoint: Endpoint, continuation: Continuation | None = None
) -> bytes:
    """The body to send on the caller's own wire: the client's bytes with only the declared changes."""
    provider, request = target.provider, call.request
    edits: dict[str, Any] = provider.params.edits(request, target.model)
    if not call.door.names_model and (
        call.requested_model != target.model or may_name_twice(call.body, b"model")
    ):
        edits["model"] = target.model
    for name in _WEIGHED:
        if name in request and name not in edits and may_name_twice(call.body, name.encode()):
            edits[name] = request[name]
    if call.stream and not call.usage_asked and provider.stream_usage == "ask":
        edits |= ask_for_usage(request, endpoint.format.usage_request)
    if continuation is not None:
        edits |= continue_answer(request, provider.prefill or {}, continuation.delivered)
    try:
        return edit_members(call.body, request, edits)
    except ValueError as error:
        raise InvalidRequest(f"the request cannot be written for {provider.name}: {error}") from error


PassedHeaders = tuple[tuple[str, str], ...]


class Sent(NamedTuple):
    """What of one request differs from call to call."""

    body: bytes
    passed: PassedHeaders = ()
    """Headers of the client that the wire hands through."""


class Exchange:
    """Sends requests over the worker's connections."""

    def __init__(self, upstreams: Upstreams, now: Callable[[], float] = time.time) -> None:
        self._upstreams = upstreams
        self._proofs = Proofs(upstreams, now)
        self._jobs = JobWaits()
        self._heads: OrderedDict[tuple[Any, ...], tuple[Origin, bytes]] = OrderedDict()

    def forget_heads(self) -> None:
        """After a reload: the old snapshot's providers are not kept alive from here."""
        self._heads.clear()

    async def close(self) -> None:
        """Give up what is under way beside the calls."""
        await self._jobs.close()
        await self._proofs.close()

    async def open(
        self,
        target: Target,
        endpoint: Endpoint,
        credential: Credential,
        sent: Sent,
        clocks: Timeouts,
        *,
        stream: bool,
    ) -> Reply:
        """Send one request; the reply has a good status and its body is unread. Raises UpstreamFailure."""
        body, passed = sent
        origin, head = self._find_head(target, endpoint.path_for(target, stream=stream), credential, passed)
        if credential.proof is not None:
            head += await self._proofs.write_lines(
                head, body, credential, allow_private=target.provider.allow_private
            )
        reply = await self._upstreams.send(
            origin,
            head,
            body,
            connect_s=clocks.connect_s,
            headers_s=clocks.headers_s if stream else None,
            answer_s=None if stream else clocks.answer_s,
        )
        return reply if 200 <= reply.status < 300 else await self._refuse(reply, target, endpoint, credential)

    async def open_form(
        self,
        target: Target,
        endpoint: Endpoint,
        credential: Credential,
        body: bytes | StreamedBody,
        content_type: str,
        clocks: Timeouts,
    ) -> Reply:
        """`open` for a body that is no JSON, and that may come bit by bit. Whoever signs needs it whole."""
        path = endpoint.path_for(target)
        origin, head = render_head(target.provider, credential, path, (("content-type", content_type),))
        if credential.proof is not None:
            if not isinstance(body, bytes) and isinstance(credential.proof, SigningKey):
                raise UpstreamFailure("invalid_request", "a form of this size cannot be signed", status=413)
            head += await self._proofs.write_lines(
                head,
                body if isinstance(body, bytes) else b"",
                credential,
                allow_private=target.provider.allow_private,
            )
        if isinstance(body, bytes):
            reply = await self._upstreams.send(
                origin, head, body, connect_s=clocks.connect_s, headers_s=clocks.answer_s
            )
        else:
            reply = await self._upstreams.send_streamed(
                origin,
                head,
                body,
                connect_s=clocks.connect_s,
                answer_s=clocks.answer_s,
                pause_s=clocks.idle_s,
            )
        return reply if 200 <= reply.status < 300 else await self._refuse(reply, target, endpoint, credential)

    async def open_job(
        self,
        target: Target,
        endpoint: Endpoint,
        credential: Credential,
        body: bytes,
        clocks: Timeouts,
        poll: JobPoll,
    ) -> Reply:
        """`open` where the answer is a job: returns its result."""
        clocks = replace(clocks, headers_s=clocks.answer_s)
        reply = await self.open(target, endpoint, credential, Sent(body), clocks, stream=True)
        reply.set_clock("answer", clocks.answer_s)
        origin, _ = render_head(target.provider, credential, "/")

        async def ask(method: str, path: str) -> Reply:
            head = write_head(
                method,
                origin,
                add_query_key(path, target, credential),
                render_headers(target.provider, credential).items(),
            )
            if credential.proof is not None:
                head += await self._proofs.write_lines(
                    head, b"", credential, allow_private=target.provider.allow_private
                )
            found = await self._upstreams.send(
                origin, head, b"", connect_s=clocks.connect_s, answer_s=clocks.answer_s
            )
            return (
                found
                if 200 <= found.status < 300
                else await self._refuse(found, target, endpoint, credential)
            )

        try:
            return await self._jobs.follow(reply, poll, endpoint.format, origin, ask, clocks.answer_s)
        finally:
            reply.close()

    async def fetch_parts(
        self, parts: Iterable[dict[str, Any]], target: Target, credential: Credential
    ) -> None:
        """Put the bytes in place of the addresses of these parts. Raises UpstreamFailure."""
        origin, _ = render_head(target.provider, credential, "/")
        await fetch_parts(self._upstreams, parts, origin)

    async def _refuse(
        self, reply: Reply, target: Target, endpoint: Endpoint, credential: Credential
    ) -> Reply:
        """Raise what a bad status means."""
        try:
            refusal = await read_refusal(reply, endpoint, target)
        finally:
            reply.close()
        if credential.proof is not None:
            self._proofs.note_refusal(credential, refusal)
        raise refusal

    def _find_head(
        self, target: Target, path: str, credential: Credential, passed: PassedHeaders
    ) -> tuple[Origin, bytes]:
        key = (target.provider, credential.name, path, passed)
        found = self._heads.get(key)
        if found is None:
            found = self._heads[key] = render_head(target.provider, credential, path, passed)
            if len(self._heads) > MAX_HEADS:
                self._heads.popitem(last=False)
        return found


def render_head(
    provider: Provider, credential: Credential, path: str, passed: PassedHeaders = ()
) -> tuple[Origin, bytes]:
    """Where to connect, and the request head but for content-length and the blank line."""
    base = urlsplit(credential.base_url or provider.base_url)
    secure = base.scheme == "https"
    origin = Origin(
        scheme=base.scheme,
        host=base.hostname or "",
        port=base.port or (443 if secure else 80),
        allow_private=provider.allow_private,
        http2=provider.http2,
    )
    url_path = quote(base.path.rstrip("/") + path, safe="/:@!$&'()*+,;=?%-._~")
    queries = [base.query] if base.query else []
    if provider.auth.kind == "query":
        queries.append(f"{provider.auth.header}={quote(credential.secret.reveal(), safe='')}")
    if queries:
        url_path += ("&" if "?" in path else "?") + "&".join(queries)
    return origin, write_head(
        "POST", origin, url_path, {**render_headers(provider, credential), **dict(passed)}.items()
    )


def add_query_key(path: str, target: Target, credential: Credential) -> str:
    """A path with the credential, for providers that want it there."""
    auth = target.provider.auth
    if auth.kind != "query":
        return path
    return f"{path}{'&' if '?' in path else '?'}{auth.header}={quote(credential.secret.reveal(), safe='')}"


def render_headers(provider: Provider, credential: Credential) -> dict[str, str]:
    """The headers that do not depend on the call; the credential's is revealed here and nowhere else."""
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "user-agent": "gatewayz",
    }
    for name, value in provider.headers.items():
        headers[name.lower()] = value.reveal() if isinstance(value, Secret) else value
    kind, secret = provider.auth.kind, credential.secret.reveal()
    if kind == "bearer":
        headers["authorization"] = f"Bearer {secret}"
    elif kind == "header":
        headers[provider.auth.header.lower()] = secret
    elif kind == "basic":
        headers["authorization"] = "Basic " + b64encode(secret.encode()).decode()
    return headers


async def read_refusal(reply: Reply, endpoint: Endpoint, target: Target) -> UpstreamFailure:
    """What an error status means, with the provider's own words."""
    status = reply.status
    try:
        body = await reply.read_all(MAX_ERROR_BYTES)
    except UpstreamFailure:
        body = b""  # the status says enough; what follows it is broken, late or far too long
    text = body.decode("utf-8", "replace")
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        doc = None
    facts = endpoint.format.read_error(status, doc, text)
    kind = endpoint.format.kind_of_error(status, facts) or CALLER_KINDS.get(status, str(status))
    message = facts.message or f"{target.provider.name} answered with status {status}"
    retry_after_s = read_retry_after(reply.header(b"retry-after"), reply.header(b"retry-after-ms"))
    if retry_after_s is None and facts.retry_after_s is not None:
        retry_after_s = min(facts.retry_after_s, LONGEST_RETRY_AFTER_S)
    return UpstreamFailure(kind, message, status=status, retry_after_s=retry_after_s, error=facts)


def hide_secrets(failure: UpstreamFailure, provider: Provider, credential: Credential) -> None:
    """Take the secrets that were sent out of a provider's words: some quote a refused key."""
    in_headers = (value for value in provider.headers.values() if isinstance(value, Secret))
    for text in (secret.reveal() for secret in (*credential.secrets, *in_headers)):
        if len(text) >= SHORTEST_SECRET:
            failure.hide(text)


def read_retry_after(seconds: bytes | None, milliseconds: bytes | None = None) -> float | None:
    """Seconds to wait. A date is not honoured: clocks differ, and all providers we know send seconds."""
    try:
        wait_s = float(milliseconds) / 1000 if milliseconds is not None else float(seconds or b"nan")
    except ValueError:
        return None
    return None if math.isnan(wait_s) else min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)
