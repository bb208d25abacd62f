"""What every handler is given: the worker and its journal, who may call, what the streams read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentflow.journal.protocol import Journal
from agentflow.model.waits import PERSON_KINDS
from agentflow.server.access import Access, Caller
from agentflow.server.feeds import OPEN_LIMIT, Hub
from agentflow.workers.inline import Worker

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_INTEGER_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Site:
    """One server."""

    worker: Worker
    access: Access
    hub: Hub
    #: Paths of mounted apps.
    mounts: tuple[str, ...]

    @property
    def journal(self) -> Journal:
        """The journal of the worker."""
        return self.worker.journal

    def open_count(self) -> int:
        """How many questions wait for a person (no more are counted than an inbox shows)."""
        return len(self.journal.list_waits(kinds=PERSON_KINDS, limit=OPEN_LIMIT))


def site_of(request: Request) -> Site:
    """The site that answers."""
    return cast("Site", request.app.state.site)


def caller_of(request: Request) -> Caller:
    """Who makes the request, as the guard found out."""
    return cast("Caller", request.state.caller)


def path_id(request: Request, name: str = "id") -> str:
    """An id from the path. Raises `HTTPException` 404 for what cannot be one."""
    value = str(request.path_params[name])
    if _ID.fullmatch(value) is None:
        raise HTTPException(404, "there is nothing of that id")
    return value


def query_int(request: Request, name: str, default: int, *, most: int = _INTEGER_LIMIT) -> int:
    """A whole number, not negative, from the query, at most `most`. Raises `HTTPException` 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text[:20]) > _INTEGER_LIMIT:
        raise HTTPException(400, f"{name} must be a whole number, not {text[:40]!r}")
    return min(int(text), most)
