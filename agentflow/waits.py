"""Durable waits of a flow: `sleep`, `wait_for_event`, `request_input`. Each gives a handle to await, or to block on.

A waiting run costs nothing: it may leave memory, survive restarts and deployments, and continue elsewhere.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast, overload

import orjson

from agentflow.engine.context import CURRENT, Frame, current_frame
from agentflow.engine.policy import StepPolicy
from agentflow.engine.records import ROOT
from agentflow.engine.runtime import INLINE, LOOP, Runtime, drive
from agentflow.engine.step import Call, execute
from agentflow.engine.waiting import wait_durably, wait_id
from agentflow.errors import ApprovalDenied, ParameterError, UsageError, WaitTimeoutError
from agentflow.model.steps import StepKind
from agentflow.model.waits import Verdict, Wait, WaitKind
from agentflow.payloads.digests import canonical
from agentflow.signatures import adapter_schema, make_adapter

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Seconds = float | dt.timedelta


class Coloured(Protocol):
    """The body of a wait's step."""

    runtime: Runtime


class Waiting(Coroutine[Any, Any, T_co]):
    """A wait that has been asked for: ``await`` it in an async flow, call ``result()`` in a sync one."""

    def __init__(self, call: Call, body: Coloured) -> None:
        self._call, self._body = call, body
        self._inner: Coroutine[Any, Any, Any] = execute(call, LOOP)
        call.run.unstarted[call] = self._inner

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._inner.__await__()

    def send(self, value: Any, /) -> Any:
        """Part of being a coroutine."""
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        """Part of being a coroutine."""
        return self._inner.throw(*error)

    def close(self) -> None:
        """Part of being a coroutine."""
        self._inner.close()

    def handed_over(self) -> Call:
        """The call, for somebody else to execute on a loop."""
        self._call.run.unstarted.pop(self._call, None)
        self._inner.close()
        return self._call

    def result(self) -> T_co:
        """Block until the wait is over. Raises `ColourError` on a thread whose event loop runs."""
        self.handed_over()
        self._body.runtime = INLINE
        return cast("T_co", drive(execute(self._call, INLINE)))


class _Body:
    """What a wait's step executes."""

    def __init__(
        self,
        kind: WaitKind,
        name: str,
        due: float | None,
        read: Callable[[Wait], Any],
        key: str | None = None,
    ) -> None:
        self.kind, self.name, self.seconds, self.read = kind, name, due, read
        #: By which it is asked once in the whole run, wherever it is asked; None = wherever the code comes by, anew.
        self.key = key
        self.question: dict[str, Any] = {}
        self.schema: dict[str, Any] = {}
        self.runtime: Runtime = LOOP
        self.call: Call

    async def asked(self) -> Any:
        """Ask durably and read the answer."""
        child = cast("Frame", CURRENT.get())
        run, frame = child.run, self.call.frame
        now = run.options.clock()
        keyed = None if self.key is None else run.hasher.digest(self.key.encode())
        scope, place = (frame.scope, child.place) if keyed is None else (ROOT, (keyed, ROOT, 0))
        wait = Wait(
            id=wait_id(run, self.kind, scope, place),
            run=run.number,
            run_id=run.run.id,
            flow=run.run.flow,
            step=run.identify(frame.scope, child.place).hex(),
            kind=self.kind,
            name=self.name,
            question=self.question,
            schema=self.schema,
            digest="",
            policy="",
            opened=now,
            due=None if self.seconds is None else now + self.seconds,
        )
        decided = await wait_durably(run, child, wait, self.runtime)
        self.call.answered += (decided.id,)
        return self.read(decided)

    def run(self) -> Any:
        """The step's function, in the colour of the caller."""
        return self.asked() if self.runtime is LOOP else drive(self.asked())


def _start(body: _Body, *identity: Any, verb: str = "") -> Waiting[Any]:
    what = f"{body.kind}" + (f" {body.name!r}" if body.name else "")
    frame = current_frame(f"a wait ({what})")
    if any(body.policy.kind is StepKind.TRANSACTION for body in frame.enclosing()):
        message = (
            f"{what} is a durable wait, and inside transaction() what has happened would stay half done for as long; "
            "wait before the block or after it"
        )
        raise UsageError(message)
    name = verb or {WaitKind.TIMER: "sleep", WaitKind.EVENT: "wait_for_event"}.get(body.kind, "request_input")
    policy = StepPolicy(name=name if not body.name else f"{name}:{body.name}", kind=StepKind.WAIT, plain=True)
    data, _ = canonical([body.kind.value, *identity])
    key = frame.run.hasher.digest(b"wait\0" + data)
    call = Call(frame, policy, key, body.run, (), {}, dict, lambda _: ((), {}))
    body.call = call
    return Waiting(call, body)


def _seconds(value: Seconds | None, name: str) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else float(value)
    if not 0 <= seconds < float("inf"):
        message = f"{name} must be a finite number of seconds, not negative; got {value!r}"
        raise ParameterError(message)
    return seconds


def sleep(duration: Seconds) -> Waiting[None]:
    """Wait until `duration` (seconds or timedelta) has passed since the first life came here."""
    seconds = _seconds(duration, "duration")
    return _start(_Body(WaitKind.TIMER, "", seconds, lambda _: None), seconds)


@overload
def wait_for_event(name: str, payload_type: type[T], *, timeout: Seconds | None = None) -> Waiting[T]: ...
@overload
def wait_for_event(name: str, *, timeout: Seconds | None = None) -> Waiting[Any]: ...
def wait_for_event(name: str, payload_type: Any = Any, *, timeout: Seconds | None = None) -> Waiting[Any]:
    """Wait for an event sent to this run (`send_event`, ``agentflow events send``); its payload is the result.

    An event that was sent before counts. Raises `WaitTimeoutError` after `timeout`.
    """
    adapter = make_adapter(payload_type)
    seconds = _seconds(timeout, "timeout")
    body = _Body(WaitKind.EVENT, name, seconds, lambda _: None)
    run = current_frame(f"wait_for_event({name!r})").run

    def read(wait: Wait) -> Any:
        _check_elapsed(wait, seconds)
        return adapter.validate_python(
            run.codec.decode(orjson.dumps(wait.decision.answer if wait.decision else None))
        )

    body.read = read
    return _start(body, name)


@overload
def request_input(prompt: str, answer_type: type[T], *, timeout: Seconds | None = None) -> Waiting[T]: ...
@overload
def request_input(prompt: str, *, timeout: Seconds | None = None) -> Waiting[str]: ...
def request_input(prompt: str, answer_type: Any = str, *, timeout: Seconds | None = None) -> Waiting[Any]:
    """Ask a person a question and wait for the answer, validated as `answer_type` (a pydantic model, int, bool, ...).

    Raises `ApprovalDenied` where the person declines, `WaitTimeoutError` after `timeout`.
    """
    adapter = make_adapter(answer_type)
    body = person_asked(prompt, adapter_schema(adapter), adapter.validate_python, timeout)
    return _start(body, prompt)


def pause(
    name: str,
    schema: dict[str, Any],
    read: Callable[[Any], Any],
    timeout: Seconds | None,
    *,
    key: str | None,
    question: dict[str, Any],
) -> Waiting[Any]:
    """Ask a person, in a step named "pause"; see `agentflow.flow_runs`. `read`: JSON to the value; raises ValueError.

    `key`: asked once in the run. `question`: what people and channels are told beside `name`.
    """
    body = person_asked(name, schema, read, timeout, key)
    body.question |= question
    return _start(body, name, key, verb="pause")


def person_asked(
    name: str,
    schema: dict[str, Any],
    read: Callable[[Any], Any],
    timeout: Seconds | None,
    key: str | None = None,
) -> _Body:
    """What the step of a question to a person executes."""
    seconds = _seconds(timeout, "timeout")

    def answer(wait: Wait) -> Any:
        _check_elapsed(wait, seconds)
        decision = wait.decision
        if decision is None or decision.verdict is not Verdict.ANSWERED:
            raise ApprovalDenied(name, decision.reason if decision is not None else "")
        return read(decision.answer)

    body = _Body(WaitKind.INPUT, name, seconds, answer, key)
    body.question = {"message": name}
    body.schema = schema
    return body


def _check_elapsed(wait: Wait, seconds: float | None) -> None:
    if wait.decision is not None and wait.decision.verdict is Verdict.ELAPSED:
        raise WaitTimeoutError(wait.name, seconds or 0.0)


@contextmanager
def busy() -> Generator[None, None, None]:
    """Keep the run in memory while this block is open (raw work that must not be cut off by an eviction)."""
    run = current_frame("busy()").run
    run.busy_blocks += 1
    try:
        yield
    finally:
        run.busy_blocks -= 1
