"""The door for workers: an API key lets in, and what is asked for is carried out in threads of its own.

A key is shown with every request, and is good for nothing else: no page, no other path of the API, no decision. The
person's token is good for nothing here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, cast

import orjson
from anyio import CapacityLimiter, to_thread
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentflow.errors import Unwinding
from agentflow.journal.api_keys import digest_of
from agentflow.journal.protocol import Journal
from agentflow.journal.protocol.serving import ApiKey, ServingVerbs, SessionAway, SessionOver
from agentflow.journal.serving import ServingJournal
from agentflow.journal.wire import BODY_LIMIT, DOOR, JSON_TYPE, SESSION_HEADER, VERBS, protocol
from agentflow.server.answers import JSON, crash_response, error_response
from agentflow.server.bodies import content_type, read_body
from agentflow.server.feeds import Hub
from agentflow.server.journal.sessions import Sessions
from agentflow.server.journal.verbs import Forbidden, carry_out

T = TypeVar("T")
#: How many requests are carried out at once.
_THREADS = 16
#: Seconds for which a key that was found good is believed.
_BELIEVED = 1.0
#: Seconds for which a worker may wait for news, and between two pieces of news at least.
_LONGEST_PATIENCE, _PAUSE = 60.0, 0.02
#: Seconds between two looks at the sessions.
_LOOK = 1.0
#: Seconds after the last question for news in which the journal is still watched.
_WATCHED = 60.0
_LONGEST_NAME = 120

_logger = logging.getLogger("agentflow.server")


class Door:
    """What workers reach of a server. `url`: of the server, for people."""

    def __init__(self, journal: Journal, hub: Hub, url: str) -> None:
        self._journal, self._hub, self._url = journal, hub, url
        self._limiter = CapacityLimiter(_THREADS)
        #: None: this journal is nowhere else, so that nobody can go on with it after a restart.
        self._sessions = (
            Sessions(cast("ServingJournal", journal)) if isinstance(journal, ServingVerbs) else None
        )
        #: Digest of a key, and until when it is believed to be good.
        self._believed: dict[bytes, tuple[float, ApiKey]] = {}
        #: Tells the versions of this process from those of others.
        self._start = secrets.randbits(30)
        self._asked = -math.inf
        self.app = Starlette(
            routes=[
                Route(DOOR, self._answered(self._hello), methods=["GET"]),
                Route(f"{DOOR}/version", self._answered(self._version), methods=["GET"]),
                Route(f"{DOOR}/sessions", self._answered(self._open), methods=["POST"]),
                Route(f"{DOOR}/sessions/end", self._answered(self._end), methods=["POST"]),
                Route(f"{DOOR}/news", self._answered(self._news), methods=["POST"]),
                Route(f"{DOOR}/verbs/{{verb}}", self._answered(self._verb), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _refused},
        )

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Serve workers while the block is open; their sessions outlast it."""
        task = asyncio.create_task(self._look(), name="agentflow-sessions")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._sessions is not None:
                await self._in_thread(self._sessions.suspend)

    async def _look(self) -> None:
        async with AsyncExitStack() as watched:
            watching = False
            while True:
                await asyncio.sleep(_LOOK if watching else _LOOK / 4)
                wanted = time.monotonic() - self._asked < _WATCHED
                if wanted and not watching:
                    await watched.enter_async_context(self._hub.watcher())
                elif watching and not wanted:
                    await watched.aclose()
                watching = wanted
                if self._sessions is not None:
                    try:
                        await self._in_thread(self._sessions.look)
                    except Unwinding as error:  # the journal is out of reach for a while
                        _logger.warning("cannot look after the workers' sessions: %s", error)

    # -- requests
    def _answered(
        self, handle: Callable[[Request, ApiKey], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await handle(request, await self._key(request))
            except SessionOver:
                return error_response(
                    request, 410, "SessionOver", "this session has ended, or was not heard of for a lease"
                )
            except SessionAway:
                return error_response(request, 503, "SessionAway", "this server stops; ask again in a moment")
            except Forbidden as error:
                return error_response(request, 403, "DecisionRefusedError", str(error))
            except Unwinding as error:
                return error_response(request, 503, "JournalUnavailable", str(error))
            except HTTPException:
                raise
            except Exception:
                _logger.exception("%s %s failed", request.method, request.url.path)
                return crash_response(request)

        return answer

    async def _key(self, request: Request) -> ApiKey:
        """The key that was shown. Raises `HTTPException` 401, 501."""
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        digest = digest_of(text.strip())
        if self._sessions is None:
            raise HTTPException(501, "this server's journal lives in its memory; no worker can share it")
        until, key = self._believed.get(digest, (0.0, None))
        if time.monotonic() > until:
            journal = cast("ServingJournal", self._journal)
            key = await self._in_thread(lambda: journal.api_key_of(digest))
        if kind.lower() != "bearer" or key is None:
            self._believed.pop(digest, None)
            advice = "the key is not known here, or was revoked; make one beside the server: agentflow keys create NAME"
            raise HTTPException(401, advice, {"www-authenticate": "Bearer"})
        if time.monotonic() > until:
            self._believed[digest] = (time.monotonic() + _BELIEVED, key)
        return key

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await to_thread.run_sync(work, limiter=self._limiter)

    def _served(self) -> Sessions:
        if self._sessions is None:
            raise SessionOver
        return self._sessions

    async def _hello(self, _: Request, key: ApiKey) -> Response:
        identity = await self._in_thread(lambda: self._journal.identity)
        return JSON({"protocol": protocol(), "journal": self._url, "key": key.name, "identity": identity})

    async def _version(self, _request: Request, _key: ApiKey) -> Response:
        version = await self._in_thread(self._journal.version)
        return JSON({"version": (self._start << 32) + version})

    async def _open(self, request: Request, key: ApiKey) -> Response:
        body = await _json(request)
        worker, lease = body.get("worker"), body.get("lease")
        if not isinstance(worker, str) or not 0 < len(worker) <= _LONGEST_NAME or not worker.isprintable():
            raise HTTPException(422, f"'worker' must be a name of 1 to {_LONGEST_NAME} printable characters")
        if not isinstance(lease, int | float) or not math.isfinite(lease):
            raise HTTPException(422, "'lease' must be a number of seconds")
        session = await self._in_thread(lambda: self._served().open(worker, lease, key.id))
        return JSON({"session": session.row.id, "owner": session.row.owner, "lease": session.row.lease})

    async def _end(self, request: Request, key: ApiKey) -> Response:
        await self._in_thread(lambda: self._served().end(_session_id(request), key.id))
        return JSON({})

    async def _news(self, request: Request, key: ApiKey) -> Response:
        """Waits until something has happened that `seen` does not know; a session's lease begins anew."""
        body = await _json(request)
        patience = body.get("patience")
        if not isinstance(patience, int | float) or not 0 <= patience <= _LONGEST_PATIENCE:
            raise HTTPException(422, f"'patience' must be 0 to {_LONGEST_PATIENCE:g} seconds")
        session_id = _session_id(request)
        if session_id:
            await self._in_thread(lambda: self._served().renew(session_id, key.id))
        self._asked = time.monotonic()
        if body.get("seen") == self._mark():
            await self._hub.wait(self._hub.revision, patience)
            await asyncio.sleep(_PAUSE)
        return JSON({"seen": self._mark()})

    def _mark(self) -> str:
        return f"{self._start:x}.{self._hub.revision}"

    async def _verb(self, request: Request, key: ApiKey) -> Response:
        verb = VERBS.get(str(request.path_params["verb"]))
        if verb is None:
            raise HTTPException(404, "the journal has no verb of that name")
        body, session_id = await _body(request), _session_id(request)

        def work() -> bytes:
            try:
                calls, known = verb.request_from(body)
            except ValueError as error:
                raise HTTPException(
                    422, f"that is no request for {verb.name}: {_first_line(error)}"
                ) from None
            session = self._served().get(session_id, key.id) if session_id else None
            return verb.reply_bytes(carry_out(verb, calls, known, self._journal, session, self._url))

        return Response(await self._in_thread(work), media_type=JSON_TYPE)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return crash_response(request)
    names = {401: "Unauthorised", 404: "NotFound", 405: "MethodNotAllowed"}
    response = error_response(
        request, error.status_code, names.get(error.status_code, "BadRequest"), error.detail
    )
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _session_id(request: Request) -> str:
    return request.headers.get(SESSION_HEADER, "")


async def _body(request: Request) -> bytes:
    if content_type(request.headers.get("content-type", "")) != JSON_TYPE:
        raise HTTPException(415, f"send {JSON_TYPE}")
    return await read_body(request.receive, request.headers.get("content-length"), limit=BODY_LIMIT)


async def _json(request: Request) -> dict[str, Any]:
    try:
        value = orjson.loads(await _body(request))
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return cast("dict[str, Any]", value)


def _first_line(error: ValueError) -> str:
    """Where it is wrong, without what was sent."""
    if not isinstance(error, ValidationError):
        return "it cannot be read"
    details = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in details[:3])[:300]
