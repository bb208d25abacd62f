"""Where a call stands: the frame of the enclosing step, found through one context variable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentflow.engine.away import ABROAD, refusal
from agentflow.engine.records import ROOT, Place, Scope, attempt_scope
from agentflow.errors import MissingContextError
from agentflow.model.waits import binding

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.effects import Edit
    from agentflow.engine.futures import TaskFuture
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.submission import Lane
    from agentflow.engine.transaction_values import Transaction
    from agentflow.engine.transactions import OpenTransaction
    from agentflow.journal.protocol import CacheRow


class Frame:
    """One branch of one executing step's body (or of the flow's own code).

    A body begins with one frame; every concurrent branch that it starts gets a frame of its own with the same scope.
    """

    # Defaults stand on the class: most frames never change them, and frames are made on the hot path.
    #: What stands for this attempt, and for all of them; both become known at once, for threads share a frame.
    _digests: tuple[bytes, bytes] | None = None
    _root: Frame | None = None
    _records: Scope | None = None
    #: The concurrent branch within the body; empty = the body's own code.
    branch: bytes = ROOT
    #: How many side effects this branch has asked for.
    effects: int = 0
    #: How many effects the calling branch had asked for before it called this body.
    before: int = 0
    #: When the body began, seconds since the epoch.
    t0: float = 0.0
    #: The thread in which a body without an asyncio task runs; 0 = not known.
    thread: int = 0
    #: JSON of the arguments that a side effect executes.
    executed: Mapping[str, Any] = MappingProxyType({})
    #: Of a flow that is a step: its arguments by name.
    parameters: Mapping[str, Any] = MappingProxyType({})
    #: The cache key that it computes for all who want it.
    computes: bytes = b""
    #: Its body runs in a thread or task of its own, not in that of the code that called it.
    detached: bool = False
    #: The step's own "started" row has been written.
    started: bool = False
    #: It has been counted among the effects of the branch around it: something of a side effect in it is recorded.
    counted: bool = False
    #: A person has allowed this branch to go another way than the recorded one.
    loose: bool = False
    #: The attempt was given up; nothing may happen in it any more.
    revoked: bool = False
    #: It is a transaction that is being rolled back: what is recorded is still found, nothing new may begin.
    closed: bool = False
    #: Hooks of a transaction run in it: neither a cancellation of the run nor the end of what is around stops them.
    compensating: bool = False
    #: Results across runs that nobody may use before this body has ended.
    staged: tuple[CacheRow, ...] = ()
    #: It is the block of a transaction; that one.
    opened: OpenTransaction | None = None
    #: What `get_transaction` gives in this body.
    transaction: Transaction | None = None
    #: Durable waits pending below.
    waits: int = 0
    #: Blocked in a thread, in a wait or a join.
    blocked: int = 0
    #: Of a tool call: what a person changed in the arguments of side effects below.
    edits: tuple[Edit, ...] = ()
    #: Futures of what its body has submitted, without those that ended well; None = it has submitted nothing. The step
    #: does not end before they have.
    children: dict[TaskFuture[Any], None] | None = None
    #: Where the async body of a ``map`` has its place, which it lends while it waits.
    lane: Lane | None = None
    #: What the rows of its step say of it: how people see it, its tags.
    notes: Mapping[str, Any] = MappingProxyType({})
    #: Limits on tags of which this attempt holds a slot, and its claim.
    slots: tuple[str, ...] = ()
    claim: str = ""
    #: Blocks of `concurrency` that this branch has entered so far, by what they want.
    blocks: dict[bytes, int] | None = None

    def bear(self, future: TaskFuture[Any]) -> None:
        """Count a future among the body's."""
        root = self.root
        if root.parent is None:
            return  # the run looks after those of the flow's own code
        if root.children is None:
            root.children = {}
        future.belong(root.children)

    def __init__(
        self,
        run: ActiveRun,
        parent: Frame | None,
        policy: StepPolicy,
        place: Place,
        attempt: int = 0,
        task: Any = None,
    ) -> None:
        self.run = run
        #: The frame that made the call whose body this is.
        self.parent = parent
        self.policy = policy
        self.place = place
        self.attempt = attempt
        #: The asyncio task that runs this branch; None in a plain thread.
        self.task = task
        #: Calls so far, by key; branches so far, by name.
        self.occurrences: dict[bytes, int] = {}
        self.kids: dict[bytes, int] = {}
        if parent is None:
            self.started = True
            self.in_effect = False
        else:
            self.in_effect = policy.side_effect or parent.in_effect

    @property
    def root(self) -> Frame:
        """The frame that the body begins with: itself, or the one that this is a branch of."""
        return self._root or self

    @property
    def scope(self) -> bytes:
        """Digest that stands for this attempt of the step."""
        root = self._root or self
        return (root._digests or root._open())[0]  # noqa: SLF001 - another frame of the same body

    @property
    def stable(self) -> bytes:
        """Digest that stands for the step over all attempts, its own and those around it."""
        root = self._root or self
        return (root._digests or root._open())[1]  # noqa: SLF001 - another frame of the same body

    def stand_for(self, digest: bytes) -> None:
        """Let `digest` stand for this attempt and for all of them."""
        self._digests = digest, digest

    def _open(self) -> tuple[bytes, bytes]:
        found = self._digests = self._identities()
        return found

    def _identities(self) -> tuple[bytes, bytes]:
        identify = self.run.identify
        if self.parent is None:
            return attempt_scope(identify, ROOT, self.attempt), ROOT
        around, around_stable = self.parent.scope, self.parent.stable
        identity = identify(around, self.place)
        stable = identity if around == around_stable else identify(around_stable, self.place)
        return attempt_scope(identify, identity, self.attempt), stable

    def records(self) -> Scope | None:
        """What was recorded of this scope, if anything."""
        if self._records is None and self.run.records is not None:
            self._records = self.run.records.scopes.get(self.scope)
        return self._records

    def stable_records(self) -> Scope | None:
        """What was recorded of effects in this scope."""
        records = self.run.records
        return None if records is None else records.scopes.get(self.stable)

    def branched(self, branch: bytes, task: Any = None) -> Frame:
        """The frame of a concurrent branch of this body."""
        frame = Frame(self.run, self.parent, self.policy, self.place, self.attempt, task)
        frame._root = self._root or self
        frame.branch = branch
        frame.in_effect = self.in_effect
        frame.thread = self.thread if task is self.task else 0
        return frame

    def count_effect(self, place: Place) -> None:
        """Count what was called here, an effect or a step with one in it, unless it is a branch of its own."""
        if place[1] == self.branch:
            self.effects += 1

    def count_around(self) -> None:
        """Count the bodies around an effect of this one as effects themselves (E4), now that it is being recorded.

        Not when it is asked for: a race may end it before anything of it is recorded, and a later life, which finds the
        step around it whole, counts nothing then.
        """
        for body in self.enclosing():
            if body.parent is None or body.counted:
                return
            body.counted = True
            body.parent.count_effect(body.place)

    def in_this_thread(self) -> Iterator[Frame]:
        """The bodies around a call made here, up to the one with which its thread or task began."""
        for body in self.enclosing():
            yield body
            if body.detached:
                return

    def is_compensating(self) -> bool:
        """Whether hooks of a transaction run here."""
        return any(around.compensating for around in self.enclosing())

    def enclosing(self) -> Iterator[Frame]:
        """The bodies around a call made here, from the inside out: this one first."""
        frame: Frame | None = self.root
        while frame is not None:
            yield frame
            frame = frame.parent.root if frame.parent is not None else None


CURRENT: ContextVar[Frame | None] = ContextVar("agentflow_frame", default=None)


def current_frame(what: str) -> Frame:
    """The frame of the running step; raises `MissingContextError` outside of a flow."""
    frame = CURRENT.get()
    if frame is None:
        if ABROAD.get() is not None:
            raise MissingContextError(refusal(what))
        message = (
            f"{what} works only inside a flow; call it from a @flow function "
            "(a thread made by hand does not belong to the flow: use task.submit)"
        )
        raise MissingContextError(message)
    return frame


def key_of(frame: Frame) -> str:
    """The idempotency key of a step: the same over attempts and resumes, another one for other executed arguments."""
    run = frame.run
    executed = binding(frame.policy.name, dict(frame.root.executed))
    return run.hasher.digest(b"%b|%b|%b" % (run.run.id.encode(), frame.stable, executed.encode())).hex()
