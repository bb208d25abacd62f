"""A run that this process is running: its journal, its records, its fence, and what moves in it."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from agentflow.engine.blocking import Blocked
from agentflow.engine.delivery import Delivery, when_settled
from agentflow.engine.endings import Ending
from agentflow.engine.group_commit import GroupCommit
from agentflow.engine.records import Place, Records, identity
from agentflow.engine.transaction_values import TransactionsOfALife
from agentflow.errors import Cancelling, Fenced, Revoked, RollingBack, Stopping, Suspended, Unwinding
from agentflow.journal.protocol import Journal
from agentflow.model.limits import RunLimits
from agentflow.model.lives import Fork
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import SEQUENCE_BITS, StepRow, sequence_of
from agentflow.model.waits import Wait
from agentflow.payloads.arguments import decode_arguments
from agentflow.payloads.digests import Hasher
from agentflow.payloads.opening import open_codec
from agentflow.settings import Settings

if TYPE_CHECKING:
    from agentflow.engine.context import Frame
    from agentflow.engine.effects import Gate
    from agentflow.engine.futures import TaskFuture
    from agentflow.engine.places import TaskRunner, Workplace
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.queueing import Queued
    from agentflow.engine.readings import Readings
    from agentflow.engine.slots import Turn
    from agentflow.engine.step import Call
    from agentflow.engine.streams import Course
    from agentflow.engine.submission import Threads
    from agentflow.engine.waiting import Pending
    from agentflow.payloads.codec import Codec


@dataclass(frozen=True, slots=True)
class Options:
    """What a run needs from outside: clock, randomness, patience. Injected, so that tests need not wait."""

    settings: Settings
    clock: Callable[[], float] = time.time
    #: How time passes between retries; None = it does by itself, and whoever sleeps is woken when the run stops.
    sleep: Callable[[float], None] | None = None
    sleep_async: Callable[[float], Awaitable[Any]] | None = None
    random: Callable[[], float] = random.random
    #: Seconds that a quiet run stays in memory; None = it never leaves (somebody waits for its result).
    suspend_after: float | None = None
    #: Asks for signatures before side effects.
    gate: Gate | None = None


@dataclass(slots=True)
class Tally:
    """What happened in this life of a run."""

    executed: int = 0
    reused: int = 0
    cached: int = 0
    #: Names of steps whose records were taken over from another branch, under changed code.
    adopted: list[str] = field(default_factory=list[str])
    #: Records (their sequences) found elsewhere than they were recorded: by an earlier "name", in another "branch".
    moved: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


class ActiveRun:
    """One life of a run."""

    #: The flow's options, once it has begun.
    policy: StepPolicy | None = None

    loop: asyncio.AbstractEventLoop | None = None
    _fence: Unwinding | None = None
    _revoked: bool = False
    #: Somebody stops the process (Ctrl-C): the run goes on later, so nothing is rolled back.
    interrupted: bool = False
    #: The flow's own code has ended by what is no outcome: Ctrl-C, a cancellation, an eviction.
    cut_off: bool = False
    #: `check` may have something to say; looked at first on the hot path.
    guarded: bool = False
    #: The process is to end: no step begins any more; see `agentflow.engine.draining`.
    draining: bool = False
    #: It was asked to stop before this life, and transactions are open: it stops at the first step that is new.
    closing: Cancelling | None = None
    #: Something was submitted.
    submitted: bool = False
    #: Open ``busy`` blocks.
    busy_blocks: int = 0
    #: Branches that wait for what others than this run bring about: it is not quiet meanwhile.
    waits_for_others: int = 0
    #: Where it comes from, if it began as a copy of another run.
    fork: Fork | None = None
    #: The steps through which the flow failed, by their sequences.
    culprits: Sequence[int] = ()
    #: What limited it when this life began, and the claim by which it has its own slots.
    limits: RunLimits = RunLimits()
    claim: str = ""
    #: Limits that apply to each task of a tag, as they are now.
    tag_limits: frozenset[str] = frozenset()
    #: Whoever drives it records its end, if nothing else is to be done after that.
    leaves_end: bool = False
    #: Types of values that are stored as pickles, of which the log tells.
    noted_pickles: frozenset[str] = frozenset()
    #: Told, once, why the run has to wait before it starts.
    tell: Callable[[str], None] | None = None

    def __init__(
        self,
        journal: Journal,
        run: Run,
        options: Options,
        *,
        rows: list[StepRow],
        changed: bool = False,
        codec: Codec | None = None,
    ) -> None:
        self.journal, self.run, self.options = journal, run, options
        self.number, self.epoch = run.number, run.epoch
        self.codec, self.hasher = codec or open_codec(journal, options.settings), Hasher(journal.key)
        #: What earlier lives recorded; None where there is nothing.
        self.records: Records | None = Records(rows, self.identify) if rows else None
        self.delivery = Delivery(self.records)
        #: The code differs from the one that wrote the records.
        self.changed = changed
        self._base = run.number << SEQUENCE_BITS
        last = self.records.last if self.records else self._base
        self._ids = itertools.count(last + 1)
        #: The sequence of the first row of this life.
        self.first = sequence_of(last) + 1
        self.clock, self.tally = options.clock, Tally()
        self.model_spoke = bool(self.records and self.records.spoke)
        self.transactions = TransactionsOfALife(self.records)
        #: Frames of executing bodies, and their calls: the flow's own code is none.
        self.bodies: dict[Frame, Call | None] = {}
        #: Frames of generators whose consumers have an item and have not asked for the next one.
        self.resting: set[Frame] = set()
        self.pendings: dict[str, Pending] = {}
        self.queued: set[Queued] = set()
        self.blocked = Blocked()
        self.turns: dict[Turn, Frame] = {}  # branches that wait for a slot of a limit
        #: Calls of async tasks whose coroutine nobody has started.
        self.unstarted: dict[Call, Any] = {}
        #: Submitted tasks that have not ended or that failed, in their order.
        self.futures: dict[TaskFuture[Any], None] = {}
        #: What moves although no body shows it: works that begin or end, threads that have been told to go on.
        self.moving: set[object] = set()
        #: Generators that are under way, and those that nobody can ask for another item.
        self.courses: set[Course] = set()
        self._abandoned: deque[Course] = deque()
        #: How its flow ends, where that says more than a value or an exception.
        self.ending = Ending()
        #: Asyncio tasks of the run, and those that stand for another one.
        self.tasks: set[asyncio.Task[Any]] = set()
        self.aliases: WeakKeyDictionary[asyncio.Task[Any], Any] = WeakKeyDictionary()
        #: Those of side effects, which nothing but themselves ends.
        self.shielded: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.group, self.lock = GroupCommit(), threading.Lock()
        #: Threads for submitted tasks, by the task runner of the flow that submits.
        self.threads: dict[TaskRunner | None, Threads] = {}
        #: Where bodies run elsewhere, by task runner.
        self.places: dict[TaskRunner, Workplace | None] = {}
        self.log_lines: list[Any] = []
        #: Side effects that are being run, by step.
        self.effects: dict[bytes, Future[None]] = {}
        if run.state is StateType.CANCELLING:
            self._heed(Cancelling(run.message or "it was asked to stop before it was resumed"))

    def _heed(self, asked: Cancelling) -> None:
        """Stop as soon as what is open can be undone."""
        if self.records is not None and self.records.has_open_transaction:
            self.closing, self.guarded = asked, True
        else:
            self.fence = asked

    @property
    def readings(self) -> Readings:
        """Large values that are on their way to their readers."""
        return self.delivery.readings

    # -- identity
    def identify(self, scope: bytes, place: Place) -> bytes:
        """The digest that stands for the step at `place` of `scope`."""
        return identity(self.hasher, scope, place)

    def next_id(self) -> int:
        """The id of the next row."""
        return next(self._ids)

    def read_value(self, row_id: int) -> Any:
        """The value of a row of this run."""
        return self.codec.decode(self.stored_value(row_id))

    def stored_value(self, row_id: int) -> bytes:
        """The value of a row of this run, as the row holds it."""
        return self.journal.steps(self.number, row_id - 1, 1)[0].value or b"null"

    # -- permission to go on
    @property
    def fence(self) -> Unwinding | None:
        """Why nothing of this run may happen here any more; set once."""
        return self._fence

    @fence.setter
    def fence(self, fence: Unwinding | None) -> None:
        self._fence = fence
        self.guarded = self.guarded or fence is not None
        if not isinstance(fence, Suspended):  # in a run that leaves memory nobody sleeps
            self.blocked.rouse(self)

    def check(self, frame: Frame) -> None:
        """Raise what forbids `frame` to do anything; every verb of the engine calls this first."""
        while self._abandoned and self._fence is None:
            self._finish_abandoned()
        fence = self._fence
        if fence is not None and not (isinstance(fence, Cancelling) and frame.is_compensating()):
            raise fence.__class__(*fence.args)
        if self._revoked:
            for around in frame.enclosing():
                if around.compensating:
                    return
                if (
                    around.policy.side_effect and not around.revoked
                ):  # it runs to its end, whoever has given up
                    return
                if around.revoked:
                    message = (
                        f"{around.policy.name} ran past its timeout; what its thread still does is refused"
                    )
                    raise Revoked(message)

    def admit(self, frame: Frame) -> None:
        """Raise what forbids anything new in `frame`; called, where `guarded`, before what is not recorded begins."""
        for around in frame.enclosing():
            if around.compensating:
                return
            if around.closed:
                message = f"{around.policy.name} is being rolled back: nothing new may begin in it"
                raise RollingBack(message)
        if self.closing is not None:
            self.stop(self.closing)
            self.check(frame)

    def check_call(self, frame: Frame) -> None:
        """`check` a call of a step; `admit` it, too, where nothing is recorded that it could find."""
        self.check(frame)
        if self.records is None:
            self.admit(frame)

    def limited(self, limits: RunLimits) -> ActiveRun:
        """It, limited so from its beginning."""
        self.limits, self.tag_limits = limits, limits.tags
        return self

    def kept(self) -> Records:
        """What is recorded, to be added to. Several threads may be the first to do so."""
        with self.lock:
            if self.records is None:
                self.records = Records([], self.identify)
            return self.records

    def close(self, frame: Frame) -> None:
        """Let nothing new begin in a transaction that is to be rolled back."""
        frame.closed = self.guarded = True
        blocked = [(pending, pending.frame) for pending in list(self.pendings.values())]
        for waiting, where in [*blocked, *self.turns.items()]:
            inside = any(around is frame for around in where.enclosing())
            if inside and not where.is_compensating():
                waiting.wake()
        for queued in tuple(self.queued):
            queued.look()

    def abandon(self, course: Course) -> None:
        """End, before the next step, a generator that nobody can ask for another item.

        Called by the garbage collector, which may strike anywhere: no moment to write to the journal.
        """
        self._abandoned.append(course)
        self.guarded = True

    def _finish_abandoned(self) -> None:
        with suppress(IndexError):  # another thread was faster
            self._abandoned.popleft().finish()

    def leave(self) -> None:
        """This life of the run is over: nothing of it may happen any more."""
        self.fence = self.fence or Fenced("the run has ended")
        for course in tuple(self.courses):
            course.drop()

    def revoke(self, frame: Frame) -> None:
        """Refuse whatever an abandoned attempt still does."""
        frame.root.revoked = True
        self._revoked = self.guarded = True

    def evict(self) -> None:
        """Let the run leave memory if it is still quiet; on its loop, where nothing can happen meanwhile."""
        loop = self.loop
        if loop is None or loop.is_closed():
            self._evict()
        else:
            loop.call_soon_threadsafe(when_settled, loop, self._evict)

    def _evict(self) -> None:
        if self.is_quiet():
            here = Stopping("the process was told to end; the run goes on when it is resumed")
            self.stop(here if self.blocked.held else Suspended("the run left memory while it waits"))

    def drain(self) -> None:
        """Begin no step any more, and leave memory as soon as those that have begun have ended. From any thread."""
        self.options = replace(self.options, suspend_after=0.0)
        self.draining = self.guarded = True
        self.blocked.end_pauses()
        for turn, frame in list(self.turns.items()):
            if not frame.in_effect:
                turn.wake()

    def stop(self, fence: Unwinding) -> None:
        """Fence the run and unwind whatever waits in it. Callable from any thread."""
        if self.fence is None or isinstance(self.fence, Cancelling):
            self.fence = fence
        for blocked in [*self.pendings.values(), *self.blocked.held, *self.turns]:
            blocked.wake()
        for queued in tuple(self.queued):
            queued.release()
        loop = self.loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._unwind)

    def _unwind(self) -> None:
        self.delivery.release()
        for task in list(self.tasks):
            if not task.done() and task not in self.shielded:
                task.cancel()

    # -- quiet
    def is_quiet(self) -> bool:
        """Whether nothing moves but durable waits: only then may the run leave memory."""
        if (
            not (self.pendings or self.blocked.held)
            or self.turns
            or self.busy_blocks
            or self.waits_for_others
            or self.delivery.hops
            or self.moving
            or self.group.busy
        ):
            return False
        if self.fence is not None and not isinstance(self.fence, Cancelling):
            return False
        if any(pending.is_over for pending in self.pendings.values()) or self.delivery.busy:
            return False
        if self._has_timer() or any(map(_is_about_to_run, list(self.tasks))):
            return False
        return all(_is_waiting(frame) for frame in list(self.bodies))

    def _has_timer(self) -> bool:
        """Whether the loop holds a timer of this run (a timeout, a sleep); where that cannot be seen: yes."""
        loop = self.loop
        if loop is None:
            return False
        scheduled: list[Any] | None = getattr(loop, "_scheduled", None)
        if scheduled is None:
            return True
        from agentflow.engine.context import CURRENT  # noqa: PLC0415 - it needs this module's types

        for handle in list(scheduled):
            if handle.cancelled():
                continue
            frame = handle._context.get(CURRENT)  # noqa: SLF001 - asyncio has no public way
            if frame is not None and frame.run is self:
                return True
        return False

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the flow."""
        return dict(decode_arguments(self.codec, self.run.parameters))

    @property
    def is_suspended(self) -> bool:
        """Whether it left memory to wait."""
        return isinstance(self.fence, Suspended)

    # -- origin
    def origins(self) -> frozenset[Origin]:
        """Who asked for what happens now: everybody who asked for the run, and a model if one has spoken in it."""
        found = set(self.run.origins)
        if self.model_spoke:
            found.add(Origin.MODEL)
        return frozenset(found)

    def waiting_for(self) -> list[Wait]:
        """What the run waits for."""
        return self.journal.list_waits(number=self.number)


def _is_about_to_run(task: asyncio.Task[Any]) -> bool:
    """Whether what an asyncio task waited for is over, so that its loop goes on with it next."""
    waiter: Any = getattr(task, "_fut_waiter", task)  # asyncio has no public way
    return not task.done() and (waiter is None or (waiter is not task and waiter.done()))


def _is_waiting(frame: Frame) -> bool:
    return frame.blocked > 0 if frame.task is None else frame.waits > 0
