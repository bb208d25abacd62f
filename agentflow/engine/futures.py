"""Futures of submitted tasks: run in threads (sync) or on a loop (async); awaitable, and blocking through `result`."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError as ConcurrentCancelled
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from agentflow.engine import branches
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.runtime import INLINE, LOOP, drive, running_loop
from agentflow.engine.step import Call, execute
from agentflow.errors import ColourError, Unwinding

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class TaskFuture(Generic[R_co]):
    """The result to be of a submitted task. A failure that nobody looks at fails the flow."""

    def __init__(self, name: str, inner: Future[Any], run: ActiveRun) -> None:
        self.name = name
        self.inner = inner
        self._run = run
        #: Somebody has looked at the outcome.
        self.seen = False
        inner.set_running_or_notify_cancel()  # whoever awaits it may be cancelled, it itself goes on
        run.futures.append(self)

    def done(self) -> bool:
        """Whether it has ended."""
        return self.inner.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it has ended, at most `timeout` seconds; True if it has."""
        with suppress(BaseException):  # its outcome is read elsewhere
            self._block(timeout)
        return self.inner.done()

    def result(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> R_co:
        """Block until it has ended and return its value, or raise its exception (or return that instead).

        Raises TimeoutError after `timeout` seconds, `ColourError` on a thread whose event loop runs.
        """
        if timeout is not None and timeout < 0:
            message = "timeout must not be negative"
            raise ValueError(message)
        self.seen = True
        try:
            return cast("R_co", self._block(timeout))
        except Exception as error:
            if raise_on_failure or (isinstance(error, TimeoutError) and not self.inner.done()):
                raise
            return cast("R_co", error)

    def exception(self) -> BaseException | None:
        """Block until it has ended and return its exception, if any."""
        self.seen = True
        try:
            self._block(None)
        except Exception as error:
            return error
        return None

    def __await__(self) -> Generator[Any, None, R_co]:
        self.seen = True
        return asyncio.wrap_future(self.inner).__await__()

    def __repr__(self) -> str:
        return f"<TaskFuture {self.name} {'done' if self.done() else 'pending'}>"

    def _block(self, timeout: float | None) -> Any:
        if not self.inner.done() and running_loop() is not None:
            message = (
                f"result() of {self.name} would block this thread's event loop; `await` the future instead"
            )
            raise ColourError(message)
        frame = CURRENT.get()
        if frame is None:
            return self.inner.result(timeout)
        with blocked(frame):
            try:
                return self.inner.result(timeout)
            except ConcurrentCancelled:
                frame.run.check(frame)
                raise


@contextmanager
def blocked(frame: Frame) -> Generator[None, None, None]:
    """The calling thread blocks on others of its run: its place among the run's threads is free meanwhile."""
    root, threads = frame.root, frame.run.threads
    root.blocked += 1
    lends = threads is not None and threads.is_mine()
    if lends and threads is not None:
        threads.lend()
    try:
        yield
    finally:
        if lends and threads is not None:
            threads.take_back()
        root.blocked -= 1


Prepare = Callable[[], Call]


def submit_sync(
    name: str, run: ActiveRun, prepare: Prepare, wait_for: Sequence[TaskFuture[Any]] = ()
) -> TaskFuture[Any]:
    """Run a sync task in a thread of its own, at most ``max_workers`` bodies of a run at once.

    `prepare` makes the call, in that thread, once the futures of `wait_for` have ended. Nested submits never deadlock:
    a thread that blocks on a future lends its place while it waits.
    """
    inner: Future[Any] = Future()
    future = TaskFuture[Any](name, inner, run)
    context = copy_context()

    def work() -> None:
        try:
            inner.set_result(context.run(lambda: drive(execute(_own(prepare()), INLINE))))
        except BaseException as error:
            inner.set_exception(error)

    _after(wait_for, lambda: pool_of(run).start(work))
    return future


def _after(futures: Sequence[TaskFuture[Any]], then: Callable[[], None]) -> None:
    """Call `then` once all `futures` have ended; no thread waits for them."""
    left = iter(futures)

    def following(_: object = None) -> None:
        other = next(left, None)
        if other is None:
            then()
        else:
            other.inner.add_done_callback(following)

    following()


class Gate:
    """Lets at most so many asyncio tasks of one ``map`` through at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._semaphore: asyncio.Semaphore | None = None

    async def __aenter__(self) -> None:
        if self._semaphore is None:  # made on the loop that uses it
            self._semaphore = asyncio.Semaphore(self._limit)
        await self._semaphore.acquire()

    async def __aexit__(self, *error: object) -> None:
        if self._semaphore is not None:
            self._semaphore.release()


def submit_async(
    name: str,
    run: ActiveRun,
    prepare: Prepare,
    wait_for: Sequence[TaskFuture[Any]] = (),
    gate: Gate | None = None,
) -> TaskFuture[Any]:
    """Run an async task as an asyncio task of the running loop, or on one background loop if there is none here.

    `prepare` makes the call, once the futures of `wait_for` have ended.
    """
    inner: Future[Any] = Future()
    future = TaskFuture[Any](name, inner, run)

    async def work() -> None:
        try:
            for other in wait_for:
                await other
            async with gate or nullcontext():
                inner.set_result(await execute(_own(prepare()), LOOP))  # takes this task out of the run's
        except asyncio.CancelledError as error:
            inner.set_exception(error if run.fence is None else run.fence.__class__(*run.fence.args))
            raise
        except BaseException as error:
            inner.set_exception(error)

    branches.own_coroutine(work)
    loop = running_loop()
    if loop is not None:
        _keep(loop.create_task(work()))
        return future
    own = run.loop
    background = own if own is not None and own.is_running() else background_loop()
    run.loop = background
    context = copy_context()
    background.call_soon_threadsafe(lambda: _keep(context.run(_create, background, work)))
    return future


def _own(call: Call) -> Call:
    call.own = True
    return call


def _create(loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> asyncio.Task[Any]:
    return loop.create_task(work())


_kept: set[asyncio.Task[Any]] = set()


def _keep(task: asyncio.Task[Any]) -> None:
    _kept.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _kept.discard(task)
    if not task.cancelled():
        task.exception()


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


class Threads:
    """Threads of one run: as many bodies at once as allowed, not counting those that block on others."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._queue: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._local = threading.local()

    def is_mine(self) -> bool:
        """Whether the calling thread is one of these."""
        return getattr(self._local, "mine", False)

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread, now or when a place is free."""
        with self._lock:
            self._queue.append(work)
        self._fill()

    def lend(self) -> None:
        """The calling thread blocks: its place is free meanwhile."""
        with self._lock:
            self._running -= 1
        self._fill()

    def take_back(self) -> None:
        """The calling thread goes on."""
        with self._lock:
            self._running += 1

    def _fill(self) -> None:
        while True:
            with self._lock:
                if not self._queue or self._running >= self._limit:
                    return
                self._running += 1
                work = self._queue.pop(0)
            threading.Thread(target=self._loop, args=(work,), name="agentflow-task", daemon=True).start()

    def _loop(self, work: Callable[[], None] | None) -> None:
        self._local.mine = True
        while work is not None:
            work()
            with self._lock:
                if self._queue and self._running <= self._limit:
                    work = self._queue.pop(0)
                else:
                    self._running -= 1
                    work = None


def pool_of(run: ActiveRun) -> Threads:
    """The threads of a run."""
    if run.threads is None:
        with run.lock:
            if run.threads is None:
                run.threads = Threads(run.options.settings.max_workers)
    return run.threads


def unlooked(futures: Iterable[TaskFuture[Any]]) -> BaseException | None:
    """The first failure among futures that ended and that nobody looked at."""
    for future in futures:
        if not future.seen and future.done():
            error = future.exception()
            if error is not None and not isinstance(error, Unwinding):
                return error
    return None


def futures_in(value: Any) -> list[TaskFuture[Any]]:
    """The futures in a value: itself, or inside lists, tuples, sets, dicts and dataclasses."""
    found: list[TaskFuture[Any]] = []
    seen: set[int] = set()
    queue: list[Any] = [value]
    while queue:
        item = queue.pop()
        if isinstance(item, TaskFuture):
            found.append(cast("TaskFuture[Any]", item))
            continue
        parts = _parts(item)
        if parts and id(item) not in seen:
            seen.add(id(item))
            queue.extend(reversed(parts))
    return found


def _parts(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(cast("Iterable[Any]", value))
    if isinstance(value, dict):
        return list(cast("dict[Any, Any]", value).values())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, item.name, None) for item in dataclasses.fields(value)]
    return []


def resolved(value: Any) -> Any:
    """`value` with its futures, which have ended, replaced by their values."""
    whole: Any = value
    if isinstance(value, TaskFuture):
        return whole.result()
    if not futures_in(whole):
        return whole
    if isinstance(value, dict):
        return {key: resolved(item) for key, item in whole.items()}
    if dataclasses.is_dataclass(value):
        made: Any = copy.copy(whole)
        for item in dataclasses.fields(whole):
            object.__setattr__(made, item.name, resolved(getattr(whole, item.name, None)))
        return made
    if hasattr(whole, "_fields"):
        return type(whole)(*map(resolved, whole))
    return type(whole)(map(resolved, whole))
