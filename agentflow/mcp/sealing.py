"""What a retried call carries: which run it belongs to and what was asked - sealed, bound to tool and arguments.

Source: MCP 2026-07-28, multi round-trip requests: ``requestState`` comes back from the client, so it is an attacker's
until proven otherwise. The SDK seals it (AES-GCM), and binds it to method, tool, arguments, principal and expiry; the
keys come from the installation's key, so that another process, after a crash, accepts what this one has sealed.
Single use is the journal's: a wait is decided once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from mcp.server.request_state import RequestStateSecurity
from pydantic import BaseModel, ConfigDict, ValidationError

from agentflow.errors import UsageError

#: Name under which every server of an installation seals; another service with the same keys has another one.
AUDIENCE = "agentflow"
_LIFETIME = 7 * 86_400.0


def derived_key(key: bytes, label: str) -> bytes:
    """A key for one purpose, from the installation's key."""
    return hmac.new(key, f"agentflow mcp {label}".encode(), hashlib.sha256).digest()


def state_security(key: bytes) -> RequestStateSecurity:
    """How request states are sealed: the same in every process of the installation."""
    return RequestStateSecurity(keys=[derived_key(key, "request state")], ttl=_LIFETIME, audience=AUDIENCE)


class Continuation(BaseModel):
    """The plain text of a request state."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: SHA-256 of tool and arguments, so that it cannot be carried over to another call.
    call: str
    run_id: str
    #: The questions that were asked: key -> id of the wait.
    asked: dict[str, str] = {}
    #: Waits that the person has put aside in this chat.
    aside: list[str] = []
    #: How often the client has been asked in this call.
    rounds: int = 0

    @classmethod
    def read(cls, text: str | None, tool: str, arguments: dict[str, Any]) -> Continuation | None:
        """The continuation that a call brings with it; None on a first call.

        Raises `UsageError` for one that belongs to another call.
        """
        if text is None:
            return None
        try:
            found = cls.model_validate_json(text)
        except ValidationError:
            found = None
        if found is None or not hmac.compare_digest(found.call, call_digest(tool, arguments)):
            raise UsageError("the answer belongs to another call; call the tool again without requestState")
        return found


def call_digest(tool: str, arguments: dict[str, Any]) -> str:
    """SHA-256, hexadecimal, of a tool's name and the arguments as they were sent."""
    return hashlib.sha256(json.dumps([tool, arguments], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Names under which questions and tasks are known to clients: derived, so that nobody can make one up."""

    key: bytes

    def question(self, wait_id: str) -> str:
        """The key of a question."""
        return "ask-" + self._mark("question", wait_id)[:24]

    def task(self, run_id: str, principal: str) -> str:
        """The id of a task: its run, and a mark that only this installation can make, for this principal."""
        return f"{run_id}.{self._mark('task', run_id, principal)[:32]}"

    def run_of_task(self, task_id: str, principal: str) -> str | None:
        """The run of a task of this principal; None for an id that was not made for it."""
        run_id, _, _ = task_id.partition(".")
        return (
            run_id if hmac.compare_digest(self.task(run_id, principal).encode(), task_id.encode()) else None
        )

    def _mark(self, label: str, *parts: str) -> str:
        text = "\0".join(parts).encode("utf-8", "surrogatepass")
        return hmac.new(derived_key(self.key, label), text, hashlib.sha256).hexdigest()
