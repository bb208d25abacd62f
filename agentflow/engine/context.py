"""Where a call stands: the frame of the enclosing step, found through one context variable."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from agentflow.engine.records import ROOT, Place, Scope, attempt_scope
from agentflow.errors import MissingContextError

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.policy import StepPolicy


class Frame:
    """One branch of one executing step's body (or of the flow's own code).

    A body begins with one frame; every concurrent branch that it starts gets a frame of its own with the same scope.
    """

    __slots__ = (
        "_scope", "_stable", "attempt", "blocked", "branch", "effects", "in_effect", "kids", "loose", "occurrences",
        "before", "counted", "detached", "executed", "parent", "place", "policy", "revoked", "root", "run", "started", "task", "t0", "waits",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - one value per slot, built in one place
        self,
        run: ActiveRun,
        parent: Frame | None,
        policy: StepPolicy,
        place: Place,
        attempt: int = 0,
        task: Any = None,  # noqa: ANN401 - an asyncio task or None
    ) -> None:
        self.run = run
        #: The frame that made the call whose body this is.
        self.parent = parent
        self.policy = policy
        self.place = place
        self.attempt = attempt
        #: The asyncio task that runs this branch; None in a plain thread.
        self.task = task
        self._scope: bytes | None = None
        self._stable: bytes | None = None
        self.branch = ROOT
        #: The frame that a body begins with; a branch's frame points to it.
        self.root = self
        self.occurrences: dict[bytes, int] = {}
        self.kids: dict[bytes, int] = {}
        self.effects = 0
        #: How many effects the calling branch had asked for before it called this body.
        self.before = 0
        self.in_effect = policy.side_effect or (parent is not None and parent.in_effect)
        self.t0 = 0.0
        #: JSON of the arguments that a side effect executes.
        self.executed: dict[str, Any] = {}
        #: Its body runs in a thread or task of its own, not in that of the code that called it.
        self.detached = False
        #: The step's own "started" row has been written.
        self.started = parent is None
        #: It has been counted among the effects of the branch around it.
        self.counted = False
        #: A person has allowed this branch to go another way than the recorded one.
        self.loose = False
        #: The attempt was given up; nothing may happen in it any more.
        self.revoked = False
        #: Durable waits pending below.
        self.waits = 0
        #: Blocked in a thread, in a wait or a join.
        self.blocked = 0

    @property
    def scope(self) -> bytes:
        """Digest that stands for this attempt of the step."""
        if self.root._scope is None:  # noqa: SLF001 - the frame of the same body
            self.root._open()  # noqa: SLF001
        return self.root._scope or ROOT  # noqa: SLF001

    @property
    def stable(self) -> bytes:
        """Digest that stands for the step over all attempts, its own and those around it."""
        if self.root._scope is None:  # noqa: SLF001
            self.root._open()  # noqa: SLF001
        return self.root._stable or ROOT  # noqa: SLF001

    def _open(self) -> None:
        identify = self.run.identify
        if self.parent is None:
            self._stable = ROOT
            self._scope = attempt_scope(identify, ROOT, self.attempt)
            return
        around, around_stable = self.parent.scope, self.parent.stable
        identity = identify(around, self.place)
        self._stable = identity if around == around_stable else identify(around_stable, self.place)
        self._scope = attempt_scope(identify, identity, self.attempt)

    def records(self) -> Scope | None:
        """What was recorded of this scope, if anything."""
        records = self.run.records
        return None if records is None else records.scopes.get(self.scope)

    def stable_records(self) -> Scope | None:
        """What was recorded of effects in this scope."""
        records = self.run.records
        return None if records is None else records.scopes.get(self.stable)

    def branched(self, branch: bytes, task: Any = None) -> Frame:  # noqa: ANN401 - an asyncio task or None
        """The frame of a concurrent branch of this body."""
        frame = Frame(self.run, self.parent, self.policy, self.place, self.attempt, task)
        frame.root = self.root
        frame.branch = branch
        frame.in_effect = self.in_effect
        return frame

    def enclosing(self) -> Iterator[Frame]:
        """The bodies around a call made here, from the inside out: this one first."""
        frame: Frame | None = self.root
        while frame is not None:
            yield frame
            frame = frame.parent.root if frame.parent is not None else None

    def occurrence(self, key: bytes) -> int:
        """Count a call: which of the equal ones in this branch it is."""
        count = self.occurrences.get(key, 0)
        self.occurrences[key] = count + 1
        return count


CURRENT: ContextVar[Frame | None] = ContextVar("agentflow_frame", default=None)


def current_frame(what: str) -> Frame:
    """The frame of the running step; raises `MissingContextError` outside of a flow."""
    frame = CURRENT.get()
    if frame is None:
        message = (
            f"{what} works only inside a flow; call it from a @flow function "
            "(a thread made by hand does not belong to the flow: use task.submit)"
        )
        raise MissingContextError(message)
    return frame
