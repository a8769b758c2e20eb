"""The final error for a failed call: whose fault it was, in the provider's words where they help the caller."""

from engine.config.snapshot import Target
from engine.errors import (
    GatewayError,
    NobodyAvailable,
    NotAllowed,
    UpstreamBroke,
    UpstreamFailure,
    UpstreamRefused,
    UpstreamTimedOut,
)

# Which of several failures says most to the caller.
WORTH = {
    "content_filter": 5,
    "context_length_exceeded": 4,
    "invalid_request": 3,
    "429": 2,
    "401": 0,
    "403": 0,
}


def word_refusal(target: Target, failure: UpstreamFailure, *, is_own: bool = False) -> GatewayError:
    """The final error for a failure: what the caller caused keeps the provider's words, the rest names the provider."""
    facts, status = failure.error, failure.status
    if failure.kind in ("invalid_request", "content_filter", "context_length_exceeded"):
        code = facts.code if facts and facts.code else failure.kind
        kind = facts.type if facts and facts.type else "invalid_request_error"
        param = facts.param if facts else None
        client_status = status if status in (400, 413, 422) else 400
        return UpstreamRefused(failure.message, status=client_status, type=kind, code=code, param=param)
    name = target.provider.name
    if failure.kind == "timeout":
        return UpstreamTimedOut(f"{name} did not answer in time (clock: {failure.clock})")
    if failure.kind == "429":
        refused = UpstreamRefused(
            f"{name} is limiting requests: {failure.message}",
            status=429,
            type="rate_limit_error",
            code="provider_rate_limited",
            param=None,
        )
        refused.retry_after_s = failure.retry_after_s or 1.0
        return refused
    if failure.kind == "404":
        code = facts.code if facts and facts.code else "model_not_found"
        words = f"{name} does not know this: {failure.message}"
        return UpstreamRefused(words, status=404, type="not_found_error", code=code, param="model")
    if failure.kind in ("401", "403", "402") and is_own:
        return NotAllowed(f"{name} refused your own key: {failure.message}", code="provider_key_refused")
    if failure.kind in ("401", "403", "402"):
        return UpstreamBroke(f"{name} refused the gateway's credential", code="provider_authentication_error")
    if failure.kind in ("503", "529"):
        retry_after_s = failure.retry_after_s or 1.0
        return NobodyAvailable(f"{name} is overloaded: {failure.message}", retry_after_s=retry_after_s)
    return UpstreamBroke(f"{name} failed ({failure.kind}): {failure.message}")
