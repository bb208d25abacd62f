"""Submits tasks: sync ones to threads of the run, async ones to a loop; in order, so many at once, the rest queued."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from agentflow.engine import branches
from agentflow.engine.context import CURRENT
from agentflow.engine.crew import crew
from agentflow.engine.endings import Ending, not_ready
from agentflow.engine.futures import INSIDE, TaskFuture
from agentflow.engine.runtime import INLINE, LOOP, Loop, drive, running_loop
from agentflow.engine.seats import Seat, sit
from agentflow.engine.step import Call, execute

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.engine.places import TaskRunner

Prepare = Callable[[], Call]
#: How many works that wait for slots of limits leave their places to works of bodies.
_MOST_STANDING = 256


class Work:
    """A submitted task that has not ended."""

    __slots__ = ("context", "future", "inputs", "lane", "loop", "prepare", "rt", "run", "task")

    def __init__(
        self,
        name: str,
        run: ActiveRun,
        prepare: Prepare,
        context: Context,
        *,
        lane: Lane | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        rt: Loop = LOOP,
        inputs: Sequence[TaskFuture[Any]] = (),
    ) -> None:
        self.run = run
        #: Makes the call, where it is going to run.
        self.prepare = prepare
        self.context = context
        self.lane = lane
        #: The loop that an async task runs on.
        self.loop = loop
        #: The futures whose values the call takes.
        self.inputs = inputs
        #: How it is run there.
        self.rt = rt
        self.task: asyncio.Task[None] | None = None
        self.future: TaskFuture[Any] = TaskFuture(name, run)

    def call(self) -> Call:
        """The call: a branch of its own."""
        future = self.future
        INSIDE.set((*INSIDE.get(), future))
        ending = future.ending = Ending()
        try:
            call = self.prepare()
        except Exception as error:
            ending.state = not_ready(error)
            raise
        future.begun = True
        call.own, call.lane, call.ending, call.work = True, self.lane, ending, self
        return call

    def cancel(self) -> None:
        """Cancel an async work; callable from any thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.task is not None and self.loop is not None:
            # after its first step: what an earlier life has asked is withdrawn by whoever asks it again
            self.loop.call_soon(self.task.cancel)

    def is_dead(self) -> bool:
        """Whether its run has been fenced before it began; then it has ended."""
        fence = self.run.fence
        if fence is not None:
            self.future.fail(fence.__class__(*fence.args))
        return fence is not None


class Lane:
    """Launches works in their order, at most so many at once; what only waits lends its place to the next one."""

    def __init__(self, limit: int, launch: Callable[[Work], None]) -> None:
        self._limit = limit
        self._launch = launch
        #: How many have places; how many of those wait for slots of limits.
        self._running = self._standing = 0
        #: Works and their places in the order: of the flow's own code, and of bodies.
        self._queue: deque[tuple[int, Work]] = deque()
        self._nested: deque[tuple[int, Work]] = deque()
        self._numbers = count()
        self._lock = threading.Lock()

    def start(self, work: Work) -> None:
        """Launch `work`, now or when a place is free."""
        frame = work.context.get(CURRENT)
        nested = frame is not None and frame.root.parent is not None
        with self._lock:
            (self._nested if nested else self._queue).append((next(self._numbers), work))
        self._fill()

    def lend(self) -> None:
        """A work waits, or is over: its place is free."""
        with self._lock:
            self._running -= 1
        self._fill()

    def take_back(self) -> None:
        """It goes on."""
        with self._lock:
            self._running += 1

    def stand(self) -> None:
        """A work waits for a slot of a limit: its place is free for works of bodies, one of which may hold the slot."""
        with self._lock:
            self._standing += 1
        self._fill()

    def sit_down(self) -> None:
        """It goes on."""
        with self._lock:
            self._standing -= 1

    def next(self) -> Work | None:
        """Take the next work and a place for it, if there are both."""
        with self._lock:
            if self._running < self._limit:
                queues = [queue for queue in (self._queue, self._nested) if queue]
            else:
                standing = min(self._standing, _MOST_STANDING)
                queues = [self._nested] if self._nested and self._running - standing < self._limit else []
            if not queues:
                return None
            self._running += 1
            return min(queues, key=_head).popleft()[1]

    def _fill(self) -> None:
        while (work := self.next()) is not None:
            if work.is_dead():
                self.take_back_unused()
            else:
                work.run.moving.add(work)
                self._launch(work)

    def take_back_unused(self) -> None:
        """The place of a work that has nothing to do any more."""
        with self._lock:
            self._running -= 1


def _head(queue: deque[tuple[int, Work]]) -> int:
    return queue[0][0]


class Threads(Lane):
    """Places in the crew for one run: as many bodies at once as allowed, not counting those that block on others."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, self._begin)

    def lend(self) -> None:
        """A work waits for others: its place is free, and its thread holds up nothing."""
        crew().step_aside()
        super().lend()

    def stand(self) -> None:
        """A work waits for a slot of a limit; see `Lane`."""
        crew().step_aside()
        super().stand()

    def _begin(self, work: Work) -> None:
        try:
            crew().start(partial(self._do, work), "agentflow-task")
        except RuntimeError as error:  # the system gives no more threads
            work.future.fail(error)
            self._is_over(work)

    def _do(self, work: Work) -> None:
        sit(Seat(self))
        try:
            if not work.is_dead():
                _execute_here(work)
        finally:
            sit(None)
            self._is_over(work)

    def _is_over(self, work: Work) -> None:
        work.run.moving.discard(work)
        super().lend()


def _execute_here(work: Work) -> None:
    try:
        call, value = work.context.copy().run(_executed, work)
    except BaseException as error:
        work.future.fail(error)
    else:
        work.future.settle(value, call.stored)


def _executed(work: Work) -> tuple[Call, Any]:
    call = work.call()
    return call, drive(execute(call, INLINE))


def submit_sync(
    name: str,
    run: ActiveRun,
    prepare: Prepare,
    wait_for: Sequence[TaskFuture[Any]] = (),
    context: Context | None = None,
    runner: TaskRunner | None = None,
) -> TaskFuture[Any]:
    """Run a sync task in a thread of its own, at most as many at once as its flow's task runner allows.

    `prepare` makes the call, in that thread, once the futures of `wait_for` have ended. Nested submits never deadlock:
    a thread that blocks on a future lends its place while it waits.
    """
    work = Work(name, run, prepare, context or copy_context())
    _after(wait_for, partial(pool_of(run, runner).start, work))
    return work.future


def submit_async(
    name: str,
    run: ActiveRun,
    prepare: Prepare,
    wait_for: Sequence[TaskFuture[Any]] = (),
    context: Context | None = None,
    lane: Lane | None = None,
    rt: Loop = LOOP,
    inputs: Sequence[TaskFuture[Any]] = (),
) -> TaskFuture[Any]:
    """Run an async task as an asyncio task of the running loop, or on one background loop if there is none here.

    `prepare` makes the call, once the futures of `wait_for` have ended; it asks for the values of `inputs`.
    """
    loop = running_loop() or loop_for(run)
    work = Work(name, run, prepare, context or copy_context(), lane=lane, loop=loop, rt=rt, inputs=inputs)
    _after(wait_for, partial(launch_on_loop if lane is None else lane.start, work))
    return work.future


def loop_for(run: ActiveRun) -> asyncio.AbstractEventLoop:
    """The loop for async tasks that a thread submits: the run's own, or the one of this process."""
    if run.loop is None or not run.loop.is_running():
        run.loop = background_loop()
    return run.loop


def _after(futures: Sequence[TaskFuture[Any]], then: Callable[[], None]) -> None:
    """Call `then` once all `futures` have ended; no thread waits for them."""
    left = iter(futures)

    def following() -> None:
        for other in left:
            if not other.done():
                other.add_done_callback(following)
                return
        then()

    following()


def launch_on_loop(work: Work) -> None:
    """Begin an async work on its loop."""
    work.run.moving.add(work)
    loop = work.loop
    if loop is None or loop is running_loop():
        _create(work)
    else:
        try:
            loop.call_soon_threadsafe(_create, work)
        except RuntimeError as error:  # the loop is closed
            work.future.fail(error)


def _create(work: Work) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(_execute_on_loop(work), context=work.context.copy())
    work.task = task
    _kept.add(task)
    task.add_done_callback(partial(_over, work))


async def _execute_on_loop(work: Work) -> None:
    if work.inputs:
        await work.rt.at_hand(work.inputs)
    call = work.call()
    value = await execute(call, work.rt)  # takes this asyncio task out of the run's
    work.future.settle(value, call.stored)


branches.own_coroutine(_execute_on_loop)
_kept: set[asyncio.Task[None]] = set()


def _over(work: Work, task: asyncio.Task[None]) -> None:
    _kept.discard(task)
    work.run.moving.discard(work)
    work.run.tasks.discard(task)
    if not work.future.done() and not (task.cancelled() and work.is_dead()):
        work.future.fail(asyncio.CancelledError() if task.cancelled() else task.exception() or _lost(work))
    if work.lane is not None:
        work.lane.lend()


def _lost(work: Work) -> BaseException:
    return RuntimeError(f"{work.future.name} ended without an outcome")


_background: asyncio.AbstractEventLoop | None = None
_background_lock = threading.Lock()


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop on which async tasks that sync flows submit are run; one thread per process."""
    global _background  # noqa: PLW0603 - one per process, made at first use
    with _background_lock:
        if _background is None or _background.is_closed():
            loop = asyncio.new_event_loop()
            branches.install(loop)
            threading.Thread(target=loop.run_forever, name="agentflow-loop", daemon=True).start()
            _background = loop
        return _background


def pool_of(run: ActiveRun, runner: TaskRunner | None) -> Threads:
    """The threads of a run for the tasks of flows with that task runner."""
    found = run.threads.get(runner)
    if found is None:
        limit = runner.max_workers if runner is not None else None
        with run.lock:
            found = run.threads.setdefault(runner, Threads(limit or run.options.settings.max_workers))
    return found
