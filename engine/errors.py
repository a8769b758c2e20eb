"""Every error that leaves a room, by whose fault it is.

    GatewayError                   a request ends with a status and a sentence
    ├── caller's fault             InvalidRequest 400 · KeyRefused 401 · CreditMissing 402 · NotAllowed 403
    │                              NotFound 404 · BodyTooLarge 413 · WrongMediaType 415 · Unpriced 422
    │                              LimitExceeded 429 · ClientGone 499 (log only)
    ├── the provider's             UpstreamBroke 502 · UpstreamTimedOut 504 · UpstreamRefused (its own status)
    └── the installation's         NobodyAvailable 503 (ServerOverloaded) · DependencyAway 503 · NotBuilt 501
    UpstreamFailure                one attempt failed; routing decides what that means
    ConfigRefused                  the YAML is wrong; carries every Problem with file, line and column

`code` is the machine-readable word, `param` the JSON path of the offending field. A dialect turns an error into
its own shape in `http/respond.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class GatewayError(Exception):
    """Ends a request. Subclasses fix `status` and `type`; instances carry the facts."""

    status = 500
    type = "api_error"
    code: str | None = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class GatewayMistake(GatewayError):
    """A bug of ours: the caller gets a sentence and the request id, the log gets the trace."""

    def __init__(self) -> None:
        super().__init__("the gateway made a mistake; the request id finds it in the log")


class InvalidRequest(GatewayError):
    status, type, code = 400, "invalid_request_error", "invalid_request"


class KeyRefused(GatewayError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class CreditMissing(GatewayError):
    status, type, code = 402, "insufficient_quota", "insufficient_credits"


class NotAllowed(GatewayError):
    status, type, code = 403, "permission_error", "access_denied"


class NotFound(GatewayError):
    status, type, code = 404, "not_found_error", "not_found"


class AnswerMissing(NotFound):
    """An answer that is not kept here, for whatever reason."""

    code = "response_not_found"


class MethodNotAllowed(GatewayError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"

    def __init__(self, path: str, method: str, allowed: Sequence[str]) -> None:
        names = ", ".join(sorted(allowed))
        super().__init__(f"{path} answers {names}, not {method}")
        self.headers = {"allow": names}


class RequestTimedOut(GatewayError):
    status, type, code = 408, "timeout_error", "request_timeout"


class BodyTooLarge(GatewayError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class WrongMediaType(GatewayError):
    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class Unpriced(GatewayError):
    status, type, code = 422, "invalid_request_error", "model_pricing_missing"


class LimitExceeded(GatewayError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class ClientGone(GatewayError):
    status, type, code = 499, "client_closed_request", "client_closed_request"


class NotBuilt(GatewayError):
    status, type, code = 501, "not_implemented_error", "not_implemented"


class UpstreamBroke(GatewayError):
    status, type, code = 502, "upstream_error", "upstream_error"


class UpstreamRefused(GatewayError):
    """The provider answered with an error that is the caller's to read: its status, its words."""

    def __init__(self, message: str, *, status: int, type: str, code: str | None, param: str | None) -> None:
        super().__init__(message, code=code, param=param)
        self.status = status
        self.type = type
        self.code = code


class NobodyAvailable(GatewayError):
    status, type, code = 503, "overloaded_error", "no_provider_available"


class ServerOverloaded(NobodyAvailable):
    """As many calls wait for a place as may, or one has waited for too long."""

    code = "server_overload"


class DependencyAway(GatewayError):
    status, type, code = 503, "service_unavailable_error", "dependency_unavailable"


class UpstreamTimedOut(GatewayError):
    status, type, code = 504, "timeout_error", "upstream_timeout"


class UpstreamFailure(Exception):
    """One attempt at one target failed.

    `kind` is what a policy's lists name: an HTTP status as text ("429"), or connect, reset, timeout,
    broken_stream, context_length_exceeded, content_filter, invalid_request. `clock` says which clock ran out.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int | None = None,
        clock: str | None = None,
        retry_after_s: float | None = None,
        error: "ProviderError | None" = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.clock = clock
        self.retry_after_s = retry_after_s
        self.error = error

    def matches(self, kinds: frozenset[str]) -> bool:
        """Whether a policy's list (`[429, 5xx, connect]`) names this failure."""
        return self.kind in kinds or (self.kind.isdigit() and f"{self.kind[0]}xx" in kinds)

    def hide(self, text: str) -> None:
        """Take a secret out of the provider's words: some quote a refused key."""
        self.message = self.message.replace(text, "***")
        if self.error is not None:
            facts = {name: getattr(self.error, name) for name in ("message", "type", "code", "param")}
            self.error = ProviderError(
                **{name: fact and fact.replace(text, "***") for name, fact in facts.items()}
            )


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What a provider's error body said, read with the format's and provider's declared paths."""

    message: str
    type: str | None = None
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    """What the body asks to wait, where the wire says it there."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration. `path` is the YAML path, such as `targets[1].provider`.

    Line 0 means that it is in no file: `file` is then `environment` or a folder.
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where} {self.path}: {self.message}" if self.path else f"{where} {self.message}"


class ConfigRefused(Exception):
    """The configuration was not taken; the one in force stays. Carries all problems, not the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
