"""Background tasks: `Task.delay` makes a run of a single task, for whichever process serves the task.

A thin flow around the task, not a second engine: the task is a step of that run, with its retries, its timeouts, its
approvals. Serving them is the business of `agentflow.workers`.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import time
import uuid
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from agentflow.engine.annotations import Annotation
from agentflow.engine.arriving import Arrival
from agentflow.engine.away import ABROAD, refusal
from agentflow.engine.calling import RESERVED
from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.policy import StepPolicy
from agentflow.engine.resolving import is_late
from agentflow.engine.runtime import LOOP, running_loop
from agentflow.engine.shielding import plainly
from agentflow.engine.step import Call, execute, execute_now
from agentflow.errors import ColourError, MissingContextError, ParameterError, RunCancelled, StepFailed
from agentflow.flows import Flow, default_options
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.runs import Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepKind
from agentflow.payloads.codec import Codec, register_codec
from agentflow.payloads.digests import canonical
from agentflow.payloads.envelopes import takes_long
from agentflow.payloads.failures import decode_failure
from agentflow.payloads.opening import open_codec
from agentflow.shells import shell_origin
from agentflow.submitting import mapped

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

#: Before the task's name: the name of the flow around it.
PREFIX = "task:"


def background_flow(task: Any) -> Flow[..., Any]:
    """The flow around a task; its parameters are those of the task's function, a method's receiver among them."""
    plain = copy.copy(task)
    plain.receiver = ()
    function = task.function

    async def gather(*args: Any, **kwargs: Any) -> Any:
        return [item async for item in plain(*args, **kwargs)]

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        return await plain(*args, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        return list(plain(*args, **kwargs)) if task.is_generator else plain(*args, **kwargs)

    body: Callable[..., Any] = call
    if task.is_async:
        body = gather if task.is_generator else call_async
    functools.update_wrapper(body, function, updated=())
    return Flow(
        body,
        name=PREFIX + task.name,
        description=task.policy.description,
        validate_parameters=False,
        retries=0,  # the task has its own
        tags=task.policy.tags,
    )


def delay(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RunFuture[Any]:
    """Have a task run by whoever serves it. Inside of a flow this is a step: a replay finds what it has asked for.

    Raises `ParameterError` where the arguments do not fit, are futures, or cannot be stored, and `MissingContextError`
    in a body that a task runner has sent to another process.
    """
    if ABROAD.get() is not None:
        raise MissingContextError(refusal(f"{task.name}.delay()"))
    if not RESERVED.isdisjoint(kwargs):
        given = " or ".join(sorted(RESERVED & kwargs.keys()))
        message = (
            f"{task.name}.delay() takes no {given}: it waits for nothing, and has no state yet; ask for it once what "
            "it needs has ended, and read the state of the future"
        )
        raise ParameterError(message)
    whole = (*task.receiver, *args)
    if is_late((whole, dict(kwargs))):
        message = f"{task.name}.delay() got a future; wait for it, and pass its result"
        raise ParameterError(message)
    flow = background_flow(task)
    arguments = flow.binder.arguments(whole, kwargs)
    frame = CURRENT.get()
    if frame is None:
        journal = open_journal()
        run = _enqueue(flow, arguments, journal, shell_origin())
        return RunFuture[Any](run.id, task.name).within(journal)
    policy = StepPolicy(name=f"{task.name}.delay", plain=True)
    data, _ = canonical(list(arguments.values()))
    key = frame.run.hasher.digest(policy.name.encode() + b"\0" + data)
    run_id = _step(frame, policy, key, functools.partial(_enqueue_step, flow, arguments))
    return RunFuture[Any](run_id, task.name).within(frame.run.journal)


def delay_each(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RunFutureList[Any]:
    """`delay` once per item of the iterable arguments. Raises as `Task.map` does."""
    return RunFutureList(
        delay(task, list(map(_bare, row)), {name: _bare(item) for name, item in named.items()})
        for row, named in mapped(f"{task.name}.map(deferred=True)", args, kwargs)
    )


def _bare(value: Any) -> Any:
    return cast("Annotation[Any]", value).unwrap() if isinstance(value, Annotation) else value


def _enqueue_step(flow: Flow[..., Any], arguments: Mapping[str, Any]) -> str:
    """What the step of a delay does. Done once more after a crash, it finds the run that it has made."""
    frame = cast("Frame", CURRENT.get())
    run, around = frame.run, cast("Frame", frame.parent)
    place = run.identify(around.stable, frame.place)
    run_id = as_id(run.hasher.digest(b"delay|%b|%b" % (run.run.id.encode(), place)))
    if run.journal.get_run(run_id) is None:
        _enqueue(flow, arguments, run.journal, Origin.PARENT, run_id, run.origins())
    return run_id


def as_id(digest: bytes) -> str:
    """16 bytes as a UUID of version 8."""
    number = int.from_bytes(digest)
    number = number & ~(0xF << 76) | 8 << 76
    return str(uuid.UUID(int=number & ~(0b11 << 62) | 0b10 << 62))


def _enqueue(
    flow: Flow[..., Any],
    arguments: Mapping[str, Any],
    journal: Journal,
    origin: Origin,
    run_id: str = "",
    also: frozenset[Origin] = frozenset(),
) -> Run:
    new = flow.new_run(arguments, journal, default_options(), origin, run_id=run_id, also=also)
    return journal.create_run(new, state=StateType.PENDING)


def _nothing() -> dict[str, Any]:
    return {}


def _call(frame: Frame, policy: StepPolicy, key: bytes, fn: Callable[[], Any]) -> Call:
    return Call(frame, policy, key, fn, (), {}, _nothing, lambda _: ((), {}))


def _step(frame: Frame, policy: StepPolicy, key: bytes, fn: Callable[[], T]) -> T:
    return cast("T", execute_now(_call(frame, policy, key, fn)))


@dataclass(frozen=True)
class RunFuture(Generic[R_co]):
    """A run in the background: what `Task.delay` gives. Readable from any process that has the journal.

    Inside of a flow, looking at it is a step: a replay sees what the first life saw.
    """

    run_id: str
    #: The task.
    name: str

    def within(self, journal: Journal) -> RunFuture[R_co]:
        """The same, read from this journal instead of the one that the environment names."""
        object.__setattr__(self, "_journal", journal)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "name": self.name}

    @property
    def state(self) -> StateType:
        """What the run is doing. Raises `RunNotFoundError`."""
        return StateType(self._seen("state", lambda: self._arrival(None).run().state.value))

    def done(self) -> bool:
        """Whether it has ended."""
        return self.state.is_final

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it has ended, at most `timeout` seconds; True if it has."""
        return self._seen("wait", lambda: self._block(timeout) is not None)

    def result(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> R_co:
        """Block until it has ended and return its value, or raise its exception (or return that instead).

        Raises TimeoutError after `timeout` seconds, `ColourError` on a thread whose event loop runs.
        """
        try:
            return self._seen("result", lambda: self._value(self._block(timeout), timeout))
        except Exception as error:
            if raise_on_failure or isinstance(error, (TimeoutError, ColourError)):
                raise
            return cast("R_co", error)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self._awaited().__await__()

    # -- inner
    def _awaited(self) -> Coroutine[Any, Any, R_co]:
        async def arrive() -> R_co:
            run = await self._arrival(None).arrive(_checking())
            if run is None or run.state is not StateType.COMPLETED or not takes_long(run.result or b"0"):
                return self._value(run, None)
            codec = self._codec()
            return codec.read(await plainly(LOOP.transfer(functools.partial(codec.open, run.result or b""))))

        frame = CURRENT.get()
        if frame is None:
            return arrive()
        return execute(_call(frame, self._policy("result"), self._key(frame, "result"), arrive), LOOP)

    def _block(self, timeout: float | None) -> Run | None:
        if timeout is not None and timeout < 0:
            message = "timeout must not be negative"
            raise ValueError(message)
        arrival = self._arrival(timeout)
        if running_loop() is not None and timeout != 0 and not arrival.run().state.is_final:
            message = (
                f"waiting for {self.name} would block this thread's event loop; `await` the future instead"
            )
            raise ColourError(message)
        return arrival.block(_checking())

    def _value(self, run: Run | None, timeout: float | None) -> R_co:
        if run is None:
            message = f"{self.name} (run {self.run_id}) has not ended within {timeout} s"
            raise TimeoutError(message)
        codec = self._codec()
        if run.state is StateType.COMPLETED:
            return cast("R_co", None if run.result is None else codec.decode(run.result))
        if run.error is not None:
            raise decode_failure(codec, run.error)
        if run.state is StateType.CANCELLED:
            raise RunCancelled(run.message)
        raise StepFailed(run.state.value.capitalize(), run.message)

    def _codec(self) -> Codec:
        return open_codec(self._store(), default_options().settings)

    def _seen(self, what: str, look: Callable[[], T]) -> T:
        frame = CURRENT.get()
        if frame is None:
            return look()
        return _step(frame, self._policy(what), self._key(frame, what), look)

    def _policy(self, what: str) -> StepPolicy:
        return StepPolicy(name=f"{self.name}.{what}", kind=StepKind.WAIT, plain=True)

    def _key(self, frame: Frame, what: str) -> bytes:
        return frame.run.hasher.digest(f"{what} of {self.run_id}".encode())

    def _arrival(self, timeout: float | None) -> Arrival:
        return Arrival(
            self._store(), self.run_id, timeout, look_seconds=default_options().settings.poll_interval
        )

    def _store(self) -> Journal:
        return getattr(self, "_journal", None) or open_journal()


class RunFutureList(list[RunFuture[T]]):
    """What a deferred ``map`` gives: handles to runs in the background, in the order of the items."""

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all have ended, at most `timeout` seconds in all; True if they have."""
        left = _countdown(timeout)
        return all(future.wait(left()) for future in self)

    def result(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> list[T]:
        """All values, in order, or the exception of the first that failed (or the exceptions among the values).

        Raises TimeoutError after `timeout` seconds in all.
        """
        left = _countdown(timeout)
        return [future.result(left(), raise_on_failure=raise_on_failure) for future in self]

    def __await__(self) -> Generator[Any, None, list[T]]:
        return asyncio.gather(*self).__await__()


def _countdown(timeout: float | None) -> Callable[[], float | None]:
    """What is left of `timeout` seconds."""
    if timeout is None or timeout < 0:
        return lambda: timeout
    end = time.monotonic() + timeout
    return lambda: max(0.0, end - time.monotonic())


def _checking() -> Callable[[], None]:
    frame = CURRENT.get()
    return (lambda: None) if frame is None else functools.partial(frame.run.check, frame)


def _read_future(parts: list[str]) -> RunFuture[Any]:
    return RunFuture(*parts)


register_codec(
    RunFuture, tag="run_future", encode=lambda future: [future.run_id, future.name], decode=_read_future
)
