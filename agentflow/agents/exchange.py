"""One request to a model's API as a step: the core that both transports share.

The step's key is the path and the canonical JSON of the request: no headers, no host, so neither secrets nor a moved
server matter. A streamed answer is handed out while it arrives and recorded when its last event has come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, cast

import httpx2
import orjson

from agentflow.agents.answers import Answer, EventReader, kept_headers, operation_of
from agentflow.agents.failures import ATTEMPTS, RETRY_DELAYS, RETRY_JITTER, RequestFailed, broke_off, refused
from agentflow.agents.relay import Relay, hand_out
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.policy import StepPolicy
from agentflow.engine.runtime import Inline, Runtime
from agentflow.engine.step import Call, execute
from agentflow.model.steps import StepKind
from agentflow.payloads.digests import canonical

_IDEMPOTENCY_KEY = "idempotency-key"


class Incoming(Protocol):
    """An answer that arrives."""

    @property
    def response(self) -> httpx2.Response:
        """Its status and headers."""
        ...

    async def read(self) -> bytes:
        """The next portion of its decoded content; empty at the end. Raises ``httpx2.TransportError``."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class Wire(Protocol):
    """How one colour sends requests."""

    #: The engine's runtime of that colour, whose `call` awaits the step's function.
    runtime: Runtime

    async def send(self, request: httpx2.Request) -> Incoming:
        """Send a request. Raises ``httpx2.TransportError``."""
        ...


class AwaitingInline(Inline):
    """The caller's thread, for a step whose function is a coroutine that never suspends but to hand out a part."""

    awaits = True


def recording_frame(request: httpx2.Request) -> Frame | None:
    """The frame that records `request`; None where it just passes.

    Only POST requests inside of a flow are recorded, and none below a model step: that one records what it gets.
    """
    frame = CURRENT.get()
    if frame is None or request.method != "POST" or frame.policy.kind is StepKind.MODEL:
        return None
    return frame


class Exchange:
    """A request that is recorded: its step, and its answer as far as it is known."""

    def __init__(
        self, frame: Frame, request: httpx2.Request, content: bytes, wire: Wire, attempts: int = ATTEMPTS
    ) -> None:
        self._request, self._content, self._wire = request, content, wire
        asked = _asked(request, content)
        model = _model(asked)
        policy = _policy(request.url.path, model, attempts)
        data, _ = canonical([request.url.raw_path.decode("ascii", "replace"), asked])
        key = frame.run.hasher.digest(b"model request\0" + data)
        self._call = Call(
            frame, policy, key, self._make, (), {}, lambda: {"request": asked}, lambda _: ((), {})
        )
        self._relay: Relay[tuple[Answer, bytes], Answer] = Relay(execute(self._call, wire.runtime))
        self._failure: RequestFailed | None = None
        self._begun = False
        self._first = b""
        self._delivered = 0

    # -- for the transports
    async def start(self, stream: Callable[[Exchange], Any]) -> httpx2.Response:
        """The answer as the client gets it. The content of a stream follows by `read`, wrapped in `stream`.

        Raises the ``httpx2.TransportError`` that left no answer at all, now or in the recorded life.
        """
        answer = await self._pull()
        if answer is None:
            raise self._lost()
        failure = self._failure
        if not answer.is_stream:
            if failure is not None and failure.lost:
                raise self._lost()
            headers = answer.headers if failure is None else answer.headers | {"x-should-retry": "false"}
            self._delivered = len(answer.content)
            return _Response(
                failure, answer.status, headers=headers, content=answer.content, request=self._request
            )
        return _Response(
            failure, answer.status, headers=answer.headers, stream=stream(self), request=self._request
        )

    async def read(self) -> bytes:
        """The next portion of a stream; empty at its end. Raises the ``httpx2.TransportError`` that broke it."""
        if not self._first and not self._relay.is_over:
            await self._pull()
        portion, self._first = self._first, b""
        self._delivered += len(portion)
        if not portion and self._failure is not None and self._failure.lost:
            raise self._lost()
        return portion

    async def close(self) -> None:
        """The client wants no more; an answer that has not ended is not recorded."""
        await self._relay.abandon()

    async def _pull(self) -> Answer | None:
        """Let the step go on to the next portion; returns the answer as far as it is known."""
        try:
            part = await self._relay.pull()
        except RequestFailed as failure:
            self._failure = failure
            answer = failure.answer
        else:
            if part is not None:
                answer, self._first = part
                return answer
            answer = self._relay.result
        if answer is not None:
            self._first = answer.content[self._delivered :]
        return answer

    def _lost(self) -> httpx2.TransportError:
        failure = cast("RequestFailed", self._failure)
        kind = getattr(httpx2, failure.lost, httpx2.TransportError)
        error: httpx2.TransportError = kind(str(failure), request=self._request)
        error.__cause__ = failure
        return error

    # -- the step's function
    async def _make(self) -> Answer:
        """Make the request once. Raises `RequestFailed`."""
        try:
            incoming = await self._wire.send(self._copy())
        except httpx2.TransportError as error:
            raise _lost(error, None, is_transient=True) from None
        try:
            response = incoming.response
            answer = Answer(response.status_code, kept_headers(response.headers))
            if answer.is_stream and not answer.is_error:
                return await self._stream(incoming, answer)
            try:
                content = await _whole(incoming)
            except httpx2.TransportError as error:
                raise _lost(error, None, is_transient=True) from None
        finally:
            await incoming.close()
        answer = answer.with_content(content)
        if answer.is_error:
            raise refused(answer, response.reason_phrase)
        return answer

    async def _stream(self, incoming: Incoming, head: Answer) -> Answer:
        """Hand out the portions of a stream as they come; the last one is held until the step is recorded."""
        reader, received = EventReader(), bytearray()
        while True:
            try:
                portion = await incoming.read()
                if not portion and not reader.may_end:
                    message = "the stream ended before its last event"
                    raise httpx2.RemoteProtocolError(message)
            except httpx2.TransportError as error:
                raise _lost(error, head.with_content(bytes(received)), is_transient=not self._begun) from None
            received += portion
            reader.feed(portion)
            if reader.is_failed:
                raise broke_off(head.with_content(bytes(received)), reader.error_words, is_seen=self._begun)
            if reader.is_complete or not portion:
                return head.with_content(bytes(received))
            self._begun = True
            await hand_out((head, portion))

    def _copy(self) -> httpx2.Request:
        """The request, with a key that is the same for every try of this step, in this process and the next."""
        request, call = self._request, self._call
        headers = httpx2.Headers(request.headers)
        if _IDEMPOTENCY_KEY not in headers:
            child = cast("Frame", CURRENT.get())
            where = call.run.identify(call.frame.scope, child.place)
            headers[_IDEMPOTENCY_KEY] = call.run.hasher.digest(call.run.run.id.encode() + where).hex()
        return httpx2.Request(
            request.method, request.url, headers=headers, content=self._content, extensions=request.extensions
        )


class _Response(httpx2.Response):
    """An answer whose error, raised by the client, leads back to the recorded failure.

    By that a retry of the step around it knows which request to make again, and keeps what came before.
    """

    def __init__(self, failure: RequestFailed | None, status: int, **parts: Any) -> None:
        super().__init__(status, **parts)
        self._failure = failure

    def raise_for_status(self) -> httpx2.Response:
        """Raise ``httpx2.HTTPStatusError`` for an error status."""
        try:
            return super().raise_for_status()
        except httpx2.HTTPStatusError as error:
            raise error from self._failure


def _policy(path: str, model: str, attempts: int) -> StepPolicy:
    provider, operation = operation_of(path)
    policy = StepPolicy(
        name=" ".join(part for part in (provider, operation, model) if part),
        kind=StepKind.MODEL,
        retries=attempts - 1,
        retry_delays=RETRY_DELAYS,
        retry_jitter_factor=RETRY_JITTER,
        retry_condition=_is_worth_a_retry,
        detail=partial(_detail, path, model),
    )
    return replace(policy, plain=policy.is_plain())


def _is_worth_a_retry(error: BaseException) -> bool:
    return isinstance(error, RequestFailed) and error.is_transient


def _detail(path: str, model: str, answer: Answer) -> dict[str, Any]:
    return answer.detail(path, model)


def _asked(request: httpx2.Request, content: bytes) -> Any:
    """The request as it counts for the key: JSON; else bytes, a form's random boundary taken out."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        _, _, boundary = request.headers.get("content-type", "").partition("boundary=")
        return content.replace(boundary.strip('"').encode(), b"boundary") if boundary else content


def _model(asked: Any) -> str:
    """The model that a request names; empty where it names none."""
    model = cast("dict[str, Any]", asked).get("model") if isinstance(asked, dict) else None
    return model if isinstance(model, str) else ""


async def _whole(incoming: Incoming) -> bytes:
    content = bytearray()
    while portion := await incoming.read():
        content += portion
    return bytes(content)


def _lost(error: httpx2.TransportError, answer: Answer | None, *, is_transient: bool) -> RequestFailed:
    """The failure that a broken connection stands for; the exception itself holds the request, and so the API key."""
    return RequestFailed(
        str(error) or type(error).__name__,
        answer=answer,
        lost=type(error).__name__,
        is_transient=is_transient,
    )
