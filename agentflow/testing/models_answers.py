"""From an answer of the script to the bytes of an HTTP response, faults included. No sockets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from agentflow.testing.models_dialect import Dialect, Exchange, compact, server_sent
from agentflow.testing.models_script import Answer, Fault, ModelRequest


@dataclass(frozen=True, slots=True)
class Transmission:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    #: The content in the portions in which it is written.
    portions: list[bytes]
    #: The announced length of the content in bytes; None = chunked, the form of a stream.
    length: int | None = None
    #: False = the connection closes before the content is complete.
    complete: bool = field(default=True, kw_only=True)


def transmission(dialect: Dialect, request: ModelRequest, answer: Answer) -> Transmission | None:
    """What to send for `answer`; None = nothing at all, the connection just closes.

    Raises `UnplayableReplyError` if the API has no words for the reply.
    """
    if not isinstance(answer, Fault):
        exchange = Exchange(request, answer)
        return _stream(dialect.events(exchange)) if request.stream else _document(dialect.whole(exchange))
    match answer.kind:
        case "drop":
            return _dropped(dialect, Exchange(request, answer.partial), answer.after_events)
        case "malformed":
            return _malformed(dialect, Exchange(request, answer.partial), answer)
        case "status":
            if request.stream and answer.after_events is not None:
                exchange = Exchange(request, answer.partial)
                begun = _begun(dialect, exchange, answer.after_events)
                return _stream([*begun, dialect.failure(exchange, answer, len(begun))])
            return refusal(dialect, request.number, answer)
        case "delay":
            raise AssertionError("a delay is waited for, not sent")


def refusal(dialect: Dialect, number: int, fault: Fault) -> Transmission:
    """An error status with the provider's error object."""
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["retry-after"] = str(math.ceil(fault.retry_after))
        headers["retry-after-ms"] = str(round(fault.retry_after * 1000))
    return _document(dialect.error(number, fault), fault.status_code, headers)


def _document(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Transmission:
    text = content if isinstance(content, str) else compact(content)
    portion = text.encode()
    return Transmission(
        status, {"content-type": "application/json", **(headers or {})}, [portion], len(portion)
    )


def _stream(portions: list[bytes], *, complete: bool = True) -> Transmission:
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
    return Transmission(200, headers, portions, complete=complete)


def _begun(dialect: Dialect, exchange: Exchange, after_events: int) -> list[bytes]:
    """The first events, but never all: the last one would tell the client that the answer is complete."""
    return dialect.events(exchange)[:-1][:after_events]


def _dropped(dialect: Dialect, exchange: Exchange, after_events: int | None) -> Transmission | None:
    if after_events is None:
        return None
    if exchange.request.stream:
        return _stream(_begun(dialect, exchange, after_events), complete=False)
    document = _document(dialect.whole(exchange))
    content = document.portions[0]
    half = content[: len(content) // 2]
    return Transmission(document.status, document.headers, [half], document.length, complete=False)


def _malformed(dialect: Dialect, exchange: Exchange, fault: Fault) -> Transmission:
    if not exchange.request.stream or fault.status_code != 200:  # noqa: PLR2004 - HTTP
        return _document(fault.content, fault.status_code)
    name_line, has_name, _ = dialect.events(exchange)[0].decode().partition("\n")
    name = name_line.removeprefix("event: ") if has_name and name_line.startswith("event: ") else ""
    return _stream([server_sent(fault.content, name)])
