"""Failed requests to models: what is recorded of them, and which of them are worth another try."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from agentflow.agents.answers import Answer
from agentflow.errors import AgentflowError

#: Statuses after which the same request may succeed: time-out, conflict, rate limit; and everything from 500.
_TRANSIENT = frozenset({408, 409, 429})
_SERVER_ERROR = 500
#: Types and codes of error events after which the same request may succeed.
_TRANSIENT_WORDS = frozenset(
    {
        "api_error", "overloaded_error", "rate_limit_error", "rate_limit_exceeded", "requests", "server_error",
        "timeout_error", "tokens",
    }
)  # fmt: skip

#: Seconds before each retry, unless the provider asks for more; the last one repeats.
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
RETRY_JITTER = 0.25
#: How often a request is made at most.
ATTEMPTS = 5


class RequestFailed(AgentflowError):
    """A request to a model's API failed; holds what the client needs to raise its own error, in every life."""

    def __init__(
        self,
        message: str,
        *,
        answer: Answer | None = None,
        lost: str = "",
        retry_after: float | None = None,
        is_transient: bool = False,
    ) -> None:
        super().__init__(message)
        #: The error answer, or the answer as far as it came; None where there was none.
        self.answer = answer
        #: Name of the ``httpx2`` exception that broke the connection; empty where it held.
        self.lost = lost
        #: Seconds that the provider asks to wait.
        self.retry_after = retry_after
        #: Whether the same request may succeed later, and nobody has seen a part of this answer.
        self.is_transient = is_transient


def refused(answer: Answer, reason: str = "") -> RequestFailed:
    """The failure that an error answer stands for."""
    return RequestFailed(
        f"the model's API answered {answer.status} {reason}".rstrip(),
        answer=answer,
        retry_after=retry_after(answer.headers),
        is_transient=is_transient(answer.status, answer.headers),
    )


def broke_off(answer: Answer, error_words: AbstractSet[str], *, is_seen: bool) -> RequestFailed:
    """The failure that an error event stands for; `is_seen`: the caller has got a part of the answer already."""
    return RequestFailed(
        f"the model's API broke its answer off: {', '.join(sorted(error_words))}",
        answer=answer,
        is_transient=not is_seen and bool(error_words & _TRANSIENT_WORDS),
    )


def is_transient(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a failed request is worth another try: ``x-should-retry`` decides, else the status."""
    asked = headers.get("x-should-retry")
    if asked in ("true", "false"):
        return asked == "true"
    return status in _TRANSIENT or status >= _SERVER_ERROR


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that the provider asks to wait: ``retry-after-ms``, else ``retry-after``, a number or a date (RFC 9110).

    None where it says nothing that can be read. `now`: seconds since the epoch; default: the clock.
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / divisor)
        except (KeyError, ValueError):
            continue
    parsed = email.utils.parsedate_tz(headers.get("retry-after", ""))
    if parsed is None:
        return None
    return max(0.0, email.utils.mktime_tz(parsed) - (time.time() if now is None else now))
