"""Forms on their way to a provider of the caller's wire: only the declared fields change."""

from engine.call import Call
from engine.config.snapshot import Credential, Endpoint, Target, Timeouts
from engine.errors import InvalidRequest
from engine.upstream.exchange import Exchange
from engine.upstream.reply import Reply


async def send_form(
    exchange: Exchange,
    call: Call,
    target: Target,
    endpoint: Endpoint,
    credential: Credential,
    clocks: Timeouts,
) -> Reply:
    """The reply has a good status and its body is unread. Raises UpstreamFailure."""
    upload = call.upload
    assert upload is not None
    if endpoint.format.name != call.door.format.name:
        raise InvalidRequest(f"{target.provider.name} takes no form of this kind", code="form_not_taken")
    edits = {**target.provider.params.edits(call.request, target.model), "model": target.model}
    body = upload.open(edits)
    return await exchange.open_form(target, endpoint, credential, body, upload.content_type, clocks)
