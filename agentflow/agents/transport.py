"""HTTP transports (``httpx2``) that record a client's requests to a model's API as steps of the running flow.

    openai.AsyncOpenAI(max_retries=0, http_client=openai.DefaultAsyncHttpx2Client(transport=JournalTransport()))

or shorter `agentflow.agents.openai.async_client`. The client still parses, so results stay typed. Each POST is a model
step: found in the journal, else made, retried and recorded with its usage. Outside of a flow nothing changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from typing import cast

import httpx2

from agentflow.agents.exchange import AwaitingInline, Exchange, Incoming, recording_frame
from agentflow.agents.failures import ATTEMPTS
from agentflow.engine.runtime import LOOP, Runtime, drive

_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)


class JournalTransport(httpx2.AsyncBaseTransport):
    """Records requests of an async client.

    Args:
        inner: Sends the requests; default: ``httpx2.AsyncHTTPTransport``.
        attempts: How often a request is made at most, the first time included.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport | None = None, *, attempts: int = ATTEMPTS) -> None:
        self._inner = inner or httpx2.AsyncHTTPTransport(limits=_LIMITS)
        self._wire = _LoopWire(self._inner)
        self._attempts = attempts

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Find the request's answer in the journal, or make the request."""
        frame = recording_frame(request)
        if frame is None:
            return await self._inner.handle_async_request(request)
        exchange = Exchange(frame, request, await request.aread(), self._wire, self._attempts)
        return await exchange.start(_AsyncContent)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class BlockingJournalTransport(httpx2.BaseTransport):
    """Records requests of a blocking client; see `JournalTransport`."""

    def __init__(self, inner: httpx2.BaseTransport | None = None, *, attempts: int = ATTEMPTS) -> None:
        self._inner = inner or httpx2.HTTPTransport(limits=_LIMITS)
        self._wire = _InlineWire(self._inner)
        self._attempts = attempts

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Find the request's answer in the journal, or make the request."""
        frame = recording_frame(request)
        if frame is None:
            return self._inner.handle_request(request)
        exchange = Exchange(frame, request, request.read(), self._wire, self._attempts)
        return drive(exchange.start(_Content))

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


# -- the colours


class _AsyncIncoming:
    """An answer that arrives on the event loop."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._portions = response.aiter_bytes()

    async def read(self) -> bytes:
        return await anext(self._portions, b"")

    async def close(self) -> None:
        await self._portions.aclose()
        await self.response.aclose()


class _LoopWire:
    """Sends requests on the event loop."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self.runtime: Runtime = LOOP

    async def send(self, request: httpx2.Request) -> Incoming:
        return _AsyncIncoming(await self._inner.handle_async_request(request))


class _BlockingIncoming:
    """An answer that arrives in the caller's thread."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._portions = cast("Generator[bytes]", response.iter_bytes())

    async def read(self) -> bytes:
        return next(self._portions, b"")

    async def close(self) -> None:
        self._portions.close()
        self.response.close()


class _InlineWire:
    """Sends requests in the caller's thread."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner
        self.runtime: Runtime = AwaitingInline()

    async def send(self, request: httpx2.Request) -> Incoming:
        return _BlockingIncoming(self._inner.handle_request(request))


class _AsyncContent(httpx2.AsyncByteStream):
    """A stream's content as an async client reads it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while portion := await self._exchange.read():
            yield portion

    async def aclose(self) -> None:
        await self._exchange.close()


class _Content(httpx2.SyncByteStream):
    """A stream's content as a blocking client reads it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        while portion := drive(self._exchange.read()):
            yield portion

    def close(self) -> None:
        drive(self._exchange.close())
