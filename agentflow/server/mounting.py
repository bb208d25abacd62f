"""Apps mounted beside the pages: routed by path, seeing the whole of it, as if each were a server of its own.

Their lifespans are run with ours; Starlette's Mount would run none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class MountedApp(BaseRoute):
    """Everything at `path` and below goes to `app`."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        if not path.startswith("/") or path.endswith("/"):
            message = f"mount an app at a path like '/mcp', not at {path!r}"
            raise ValueError(message)
        self.path, self.app = path, app
        #: What the app's lifespan handed out for its requests.
        self.state: dict[str, Any] = {}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for the app."""
        path: str = scope.get("path", "")
        if scope["type"] in ("http", "websocket") and (path == self.path or path.startswith(self.path + "/")):
            return Match.FULL, {}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the app."""
        await self.app({**scope, "state": dict(self.state)}, receive, send)

    @asynccontextmanager
    async def living(self) -> AsyncGenerator[None]:
        """Run the app's lifespan in a task of its own while the block is open. An app without one is fine."""
        lifespan = _Lifespan(self.app, self.state)
        await lifespan.start()
        try:
            yield
        finally:
            await lifespan.stop()


class _Lifespan:
    """The server's side of the ASGI lifespan protocol."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app, self._state = app, state
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._run(), name="agentflow-mounted-lifespan")
        await self._started.wait()
        if self._failure:
            message = f"a mounted app could not start: {self._failure}"
            raise RuntimeError(message)

    async def stop(self) -> None:
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        await self._stopped.wait()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._inbox.get, self._send)
        except Exception as error:
            if self._started.is_set():
                raise
            del error  # an app that does not know the protocol raises: that is its way to say so
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            self._failure = message.get("message") or "it said no more"
        if message["type"].startswith("lifespan.startup"):
            self._started.set()
        else:
            self._stopped.set()
