"""Futures of submitted tasks: handles of results to be, awaitable, and blocking through `result`.

A future holds a small value itself and a large one by its row in the journal, so that a hundred thousand of them are
only handles. What submits and runs the tasks: see `agentflow.engine.submission`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from agentflow.engine.awakening import wait_until_set
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.endings import Ending
from agentflow.engine.runtime import LOOP, running_loop
from agentflow.engine.seats import lent
from agentflow.errors import ColourError, Unwinding, UsageError
from agentflow.model.states import State, StateType
from agentflow.payloads.envelopes import Draft, takes_long

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class TaskFuture(Generic[R_co]):
    """The result to be of a submitted task. A failure that nobody looks at fails the flow."""

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_content",
        "_drafts",
        "_home",
        "_kind",
        "_run",
        "begun",
        "ending",
        "name",
        "seen",
    )

    _PENDING, _VALUE, _ROW, _ERROR = range(4)

    def __init__(self, name: str, run: ActiveRun) -> None:
        self.name = name
        #: Somebody has looked at the outcome.
        self.seen = False
        #: Its call was made; before, it waits for others or for a place.
        self.begun = False
        #: How it ended, where that says more than a value or an exception.
        self.ending: Ending | None = None
        self._run = run
        self._kind = self._PENDING
        #: The value, the id of the row that holds it, or the exception.
        self._content: Any = None
        self._callbacks: list[Callable[[], None]] | None = None
        #: Its value, opened: once for each who is about to ask for it.
        self._drafts: list[Draft] | None = None
        run.submitted = True
        self._home = run.futures
        self._home[self] = None

    def belong(self, home: dict[TaskFuture[Any], None]) -> None:
        """Let the body that submitted it look after it, too, until it has ended well."""
        home[self] = None
        self._home = home
        if self.done() and not self.failed():
            home.pop(self, None)

    # -- its end
    def settle(self, value: Any, row: int = 0) -> None:
        """It ended with `value`, which is read from the journal's row whenever somebody asks, if there is one."""
        if self.ending is not None and self.ending.state is None:
            self.ending = None
        self._end(*((self._ROW, row) if row else (self._VALUE, value)))
        self._run.futures.pop(self, None)
        self._home.pop(self, None)

    def fail(self, error: BaseException) -> None:
        """It ended with an exception."""
        self._end(self._ERROR, error)

    def _end(self, kind: int, content: Any) -> None:
        with self._run.lock:
            self._content, self._kind = content, kind
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback()

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once it has ended, in the thread that ends it; at once if it has."""
        with self._run.lock:
            if self._kind == self._PENDING:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback()

    # -- looking at it
    def failed(self) -> bool:
        """Whether it has ended with an exception."""
        return self._kind == self._ERROR

    def done(self) -> bool:
        """Whether it has ended."""
        return self._kind != self._PENDING

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it has ended, at most `timeout` seconds; True if it has."""
        self._block(timeout)
        return self.done()

    def result(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> R_co:
        """Block until it has ended and return its value, or raise its exception (or return that instead).

        A value of more than a kilobyte is read from the journal at each call. Raises TimeoutError after `timeout`
        seconds, `ColourError` on a thread whose event loop runs.
        """
        if timeout is not None and timeout < 0:
            message = "timeout must not be negative"
            raise ValueError(message)
        self.seen = True
        self._block(timeout)
        if not self.done():
            self._refuse_stopped()
            message = f"{self.name} has not ended within {timeout:g} s"
            raise TimeoutError(message)
        try:
            return cast("R_co", self._outcome())
        except Exception as error:
            if raise_on_failure:
                raise
            return cast("R_co", error)

    def exception(self) -> BaseException | None:
        """Block until it has ended and return its exception, if any."""
        self.seen = True
        self._block(None)
        if not self.done():
            self._refuse_stopped()
        if self._kind != self._ERROR:
            return None
        if not isinstance(self._content, Exception):
            raise self._content
        return self._content

    @property
    def state(self) -> State[R_co]:
        """How far it has come; does not wait. To read the state of one that has ended counts as looking."""
        if not self.done():
            return State(StateType.RUNNING if self.begun else StateType.PENDING)
        self.seen = True
        ending = self.ending or Ending()
        if self._kind != self._ERROR:
            return ending.of_value(self._outcome())
        crashed = not isinstance(self._content, Exception)
        return ending.of_failure(self._content, StateType.CRASHED if crashed else StateType.FAILED)

    def __await__(self) -> Generator[Any, None, R_co]:
        self._check_not_inside()
        self.seen = True
        yield from self.ended().__await__()
        if self._kind == self._ROW:
            yield from self.fetch().__await__()
        return cast("R_co", self._outcome())

    async def fetch(self) -> None:
        """Once it has ended: have its value opened beside the running loop for the next look, where that takes long."""
        if self._kind != self._ROW:
            return
        data = self._run.stored_value(self._content)
        if not takes_long(data):
            return
        draft = await LOOP.read(self._run, partial(self._run.codec.open, data))
        self._drafts = [*(self._drafts or ()), draft]

    async def ended(self) -> None:
        """Return when it has ended, whatever came of it."""
        if not self.done():
            turn = asyncio.get_running_loop().create_future()
            self.wake(turn)
            await turn

    def wake(self, turn: asyncio.Future[None]) -> None:
        """Resolve `turn`, a future of a running loop, once this one has ended."""
        self.add_done_callback(partial(_wake, turn.get_loop(), turn))

    def __repr__(self) -> str:
        return f"<TaskFuture {self.name} {'done' if self.done() else 'pending'}>"

    def _outcome(self) -> Any:
        if self._kind == self._ERROR:
            raise self._content
        if self._kind != self._ROW:
            return self._content
        drafts = self._drafts
        return self._run.codec.read(drafts.pop()) if drafts else self._run.read_value(self._content)

    def _check_not_inside(self) -> None:
        """Raise `UsageError` where the code that waits for it is its own."""
        if self in INSIDE.get():
            message = f"{self.name} waits for its own result: a deadlock; do not hand a task its own future"
            raise UsageError(message)

    def _block(self, timeout: float | None) -> None:
        if self.done():
            return
        self._check_not_inside()
        if running_loop() is not None:
            message = (
                f"result() of {self.name} would block this thread's event loop; `await` the future instead"
            )
            raise ColourError(message)
        over, run = threading.Event(), self._run
        waiting = _Waiting(run)
        self.add_done_callback(partial(waiting.tell, over.set))
        frame = CURRENT.get()
        with (
            waiting,
            nullcontext() if frame is None else blocked(frame),
            run.blocked.when_stopped(run, over.set),
        ):
            wait_until_set(over, timeout)
        if frame is not None and not self.done():
            self._run.check(frame)

    def _refuse_stopped(self) -> None:
        fence = self._run.fence
        if fence is not None:  # nobody waits for what may never end
            raise fence.__class__(*fence.args)


#: The futures whose tasks' code this is, from the outside in.
INSIDE: ContextVar[tuple[TaskFuture[Any], ...]] = ContextVar("agentflow_inside", default=())


def _wake(loop: asyncio.AbstractEventLoop, turn: asyncio.Future[None]) -> None:
    if running_loop() is loop:
        _resolve(turn)
    else:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, turn)


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class TaskFutureList(list[TaskFuture[T]]):
    """The futures of one ``map``: a list that can be waited for as a whole."""

    def result(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> list[T]:
        """All values, in order; fails at the first failure that is there, even behind a slow future.

        Raises TimeoutError after `timeout` seconds in all.
        """
        late = len(self)
        for future in ends_of(self, timeout):
            late -= 1
            if raise_on_failure and future.failed():
                future.result()
        if late:
            message = f"{late} of {len(self)} futures have not ended in time"
            raise TimeoutError(message)
        return [future.result(raise_on_failure=raise_on_failure) for future in self]

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all have ended, at most `timeout` seconds in all; True if they have."""
        return sum(1 for _ in ends_of(self, timeout)) == len(self)

    def __await__(self) -> Generator[Any, None, list[T]]:
        return asyncio.gather(*self).__await__()


@contextmanager
def blocked(frame: Frame) -> Generator[None, None, None]:
    """The calling thread blocks on others of its run: its place among the run's threads is free meanwhile."""
    bodies = list(frame.in_this_thread())
    for body in bodies:
        body.blocked += 1
    try:
        with lent():
            yield
    finally:
        for body in bodies:
            body.blocked -= 1


def ends_of(futures: Sequence[TaskFuture[T]], timeout: float | None = None) -> Iterator[TaskFuture[T]]:
    """The futures as they end, blocking for the next one; stops where `timeout` seconds, counted from now, are over.

    Raises ValueError for a negative timeout, `ColourError` on a thread whose event loop runs.
    """
    if timeout is not None and timeout < 0:
        message = "timeout must not be negative"
        raise ValueError(message)
    if running_loop() is not None and not all(future.done() for future in futures):
        message = "waiting for futures would block this thread's event loop; `await` them instead"
        raise ColourError(message)
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: SimpleQueue[TaskFuture[T] | None] = SimpleQueue()
    frame = CURRENT.get()
    waiting = None if frame is None else _Waiting(frame.run)
    for future in futures:
        put = partial(ended.put, future)
        future.add_done_callback(put if waiting is None else partial(waiting.tell, put))
    for _ in futures:
        found: TaskFuture[T] | None = None
        with suppress(Empty):
            found = ended.get_nowait()
        if found is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with (
                waiting or nullcontext(),
                nullcontext() if frame is None else _until_stopped(frame, partial(ended.put, None)),
            ):
                try:
                    found = ended.get(timeout=left)
                except Empty:
                    return
        if found is None:
            return  # cannot be: see `_until_stopped`
        yield found


class _Waiting:
    """A thread that blocks until it is told to go on; from then on it moves, whenever it gets to run."""

    def __init__(self, run: ActiveRun) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._blocks = False

    def tell(self, how: Callable[[], object]) -> None:
        """Tell it, by `how`; from any thread."""
        with self._lock:
            if self._blocks:
                self._run.moving.add(self)
        how()

    def __enter__(self) -> None:
        self._blocks = True

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._blocks = False
            self._run.moving.discard(self)


@contextmanager
def _until_stopped(frame: Frame, wake: Callable[[], None]) -> Generator[None, None, None]:
    """Block; `wake` is called when the run is stopped, and then what stopped it is raised."""
    with blocked(frame), frame.run.blocked.when_stopped(frame.run, wake):
        yield
    if frame.run.guarded:
        frame.run.check(frame)


def unlooked(futures: Iterable[TaskFuture[Any]]) -> BaseException | None:
    """The first failure among futures that ended and that nobody looked at."""
    for future in futures:
        if not future.seen and future.done():
            error = future.exception()
            if error is not None and not isinstance(error, Unwinding):
                return error
    return None
