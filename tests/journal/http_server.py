"""Journals behind a real server on a loopback socket: one for all tests of a process, each journal at its own path."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentflow.journal.api_keys import digest_of, new_api_key
from agentflow.journal.http import HttpJournal
from agentflow.journal.protocol import Journal
from agentflow.journal.protocol.retention import Pruned
from agentflow.journal.protocol.serving import ServingVerbs, SessionRow
from agentflow.journal.wire import VERBS
from agentflow.model.steps import StepRow
from agentflow.model.waits import Decision, Verdict, Wait
from agentflow.server.feeds import Hub
from agentflow.server.journal.door import Door
from agentflow.server.serving import listen


class HttpServer:
    """A context manager; `serve` gives the address of a journal."""

    def __init__(self) -> None:
        self._apps: dict[str, ASGIApp] = {}
        self._served = 0
        self._socket = listen("127.0.0.1", 0)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._route,
                interface="asgi3",
                log_config=None,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._loop.close()
        self._socket.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._server.serve(sockets=[self._socket]))

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, name, rest = scope["path"].split("/", 2)
        app: ASGIApp = self._apps.get(
            name, Response(status_code=503)
        )  # as what stands before a server says it
        await app({**scope, "path": f"/{rest}"}, receive, send)

    def serve(self, journal: Journal) -> Served:
        """Have workers reach a journal."""
        self._served += 1
        return Served(self, str(self._served), journal)

    def call(self, work: Any) -> Any:
        """Do it on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def mount(self, name: str, app: ASGIApp | None) -> str:
        """Answer at a path, or not any more."""
        if app is None:
            self._apps.pop(name)
        else:
            self._apps[name] = app
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/{name}"


class Served:
    """A journal behind the server, until it is closed."""

    def __init__(self, server: HttpServer, name: str, journal: Journal) -> None:
        self._server, self._name, self.journal = server, name, journal
        self._stack = AsyncExitStack()
        self.url = ""
        self.open()

    def open(self) -> None:
        """Let workers in: at the beginning, and after `close` as a server that was started anew."""
        hub = Hub(self.journal, poll_interval=0.05)
        door = Door(self.journal, hub, "http://people")

        async def enter() -> None:
            await self._stack.enter_async_context(hub.watching())
            await self._stack.enter_async_context(door.open())

        self._server.call(enter())
        self.url = self._server.mount(self._name, door.app)

    def close(self) -> None:
        """Stop, as a server does that is told to."""
        self._server.mount(self._name, None)
        self._server.call(self._stack.aclose())

    def sessions(self) -> list[SessionRow]:
        """Of the workers that are heard of."""
        assert isinstance(self.journal, ServingVerbs)
        return self.journal.sessions()

    def key(self, name: str = "worker") -> str:
        """A new key that lets a worker in."""
        known, text = new_api_key(name)
        assert isinstance(self.journal, ServingVerbs)
        self.journal.add_api_key(known, digest_of(text))
        return text


class WorkersJournal(HttpJournal):
    """A worker's journal; what a worker may not do, a person does at the server."""

    #: Where verbs are struck, in random programs.
    plan: Any

    def __init__(self, served: Served, key: bytes, *, url: str = "", **options: Any) -> None:
        self.served = served
        super().__init__(url or served.url, key, served.key(), **options)

    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        """What cannot be done at once is done as the engine does it then."""
        assert not super().try_append(number, epoch, rows)
        self.append(number, epoch, rows)
        return True

    def decide(self, wait_id: str, decision: Decision, *, now: float, allowed_digest: str = "") -> Wait:
        if decision == Decision(Verdict.ELAPSED) and not allowed_digest:
            asked = {"wait_id": wait_id, "decision": decision, "now": now}
            return self.ask(VERBS["decide"], asked)
        return self.served.journal.decide(wait_id, decision, now=now, allowed_digest=allowed_digest)

    def prune_runs(
        self, ended_before: float, *, after: int = 0, limit: int = 100, dry_run: bool = False
    ) -> Pruned:
        return self.served.journal.prune_runs(ended_before, after=after, limit=limit, dry_run=dry_run)


class OwnServer(WorkersJournal):
    """The same with a server's journal of its own, which is closed with it."""

    def close(self) -> None:
        super().close()
        self.served.close()
        self.served.journal.close()
