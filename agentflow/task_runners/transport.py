"""Between processes: a body and its arguments there, its value or exception back. Cloudpickle, on this boundary only.

`pack` and `unpack` are for the flow's process, `perform` for the other one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

from agentflow.callables import is_coroutine_function
from agentflow.engine.away import ABROAD, Abroad, Away, Line
from agentflow.engine.context import CURRENT
from agentflow.engine.places import Errand, Returned
from agentflow.engine.runtime import LOOP, Overdue
from agentflow.errors import CodecError, NotSent, StepFailed, WorkerDied
from agentflow.payloads.exceptions import made_of, rebuild, shown_traceback
from agentflow.payloads.shapes import exception_parts
from agentflow.task_runners.pickling import dumps, loads

_WAYS_OUT = "pass plain data, open files and connections inside the task, or use a ThreadPoolTaskRunner"


class RemoteTraceback(Exception):
    """Where an exception was raised in the other process; the cause of the one that is raised here."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def pack(errand: Errand, seconds: float | None = None) -> bytes:
    """What `perform` takes, and the limit that it is to keep. Raises `NotSent`, naming what cannot be sent."""
    parts = (
        errand.away,
        errand.fn,
        tuple(errand.args),
        dict(errand.kwargs),
        _variables(errand.context),
        seconds,
    )
    try:
        return dumps(parts)
    except Exception as error:
        message = (
            f"{errand.away.step}: {_culprit(errand)} cannot be sent to another process ({error}); {_WAYS_OUT}"
        )
        raise NotSent(message) from error


def _culprit(errand: Errand) -> str:
    named = [(f"argument {number}", value) for number, value in enumerate(errand.args, 1)]
    named += [(f"the argument {name!r}", value) for name, value in errand.kwargs.items()]
    for label, value in named:
        try:
            dumps(value)
        except Exception:  # noqa: BLE001 - as above
            return f"{label}, of type {type(value).__qualname__},"
    return "its function"


def _variables(context: Context) -> list[bytes]:
    """The context variables with values that can be sent."""
    packed: list[bytes] = []
    for variable, value in context.items():
        if variable is not CURRENT and variable is not ABROAD:
            with suppress(Exception):
                packed.append(dumps((variable, value)))
    return packed


def perform(data: bytes, tell: Callable[[Line], None], begin: Callable[[], None] | None = None) -> bytes:
    """Run a body in this process; what came of it, for `unpack`. Calls `begin` when all is ready. Raises nothing."""
    try:
        step, fn, args, kwargs, variables, seconds = loads(data)
    except BaseException as error:  # noqa: BLE001 - importing the user's modules may raise anything
        message = f"the body cannot be read where it was to run: {type(error).__name__}: {error}"
        return _outcome("a task", 0.0, None, NotSent(message))

    def body() -> Any:
        for packed in variables:
            with suppress(Exception):
                variable, value = loads(packed)
                variable.set(value)
        ABROAD.set(Abroad(step, tell))
        if not asynchronous:
            return fn(*args, **kwargs)
        return asyncio.run(
            fn(*args, **kwargs) if seconds is None else LOOP.limited(seconds, fn, args, kwargs)
        )

    asynchronous = is_coroutine_function(fn)
    if begin is not None:
        begin()
    began = time.monotonic()
    value, error = None, None
    try:
        value = Context().run(body) if asynchronous or seconds is None else _limited(body, seconds)
    except BaseException as raised:  # noqa: BLE001 - an outcome, to be told
        error = raised
    return _outcome(step.step, time.monotonic() - began, value, error)


def _limited(body: Callable[[], Any], seconds: float) -> Any:
    """Call `body`. Raises `Overdue` when time is up; its thread, which cannot be killed, is abandoned."""
    box: list[tuple[bool, Any]] = []

    def target() -> None:
        try:
            box.append((True, Context().run(body)))
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            box.append((False, error))

    thread = threading.Thread(target=target, name="agentflow-body", daemon=True)
    thread.start()
    thread.join(seconds)
    if not box:
        raise Overdue
    succeeded, value = box[0]
    if succeeded:
        return value
    raise value


def _outcome(name: str, seconds: float, value: Any, error: BaseException | None) -> bytes:
    if error is None:
        try:
            return dumps((seconds, value, None))
        except Exception as broken:  # noqa: BLE001 - the value's own code runs here
            message = (
                f"the result of {name}, of type {type(value).__qualname__}, cannot be sent back ({broken}); "
                "return plain data, or use a ThreadPoolTaskRunner"
            )
            error = CodecError(message)
    if not isinstance(error, Exception):
        message = f"{name} ended with {type(error).__name__}({error}), which would have ended its process"
        error = WorkerDied(message).with_traceback(error.__traceback__)
    text = _text(error)
    shown = shown_traceback(error)
    made: bytes | None = None
    with suppress(Exception):
        made = dumps((type(error), made_of(error), dict(exception_parts(error))))
    return dumps((seconds, None, (type(error).__qualname__, text, shown, made)))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<its text raised {type(second).__name__}>"


def unpack(data: bytes, step: Away) -> Returned:
    """How a body ended."""
    try:
        seconds, value, failure = loads(data)
    except Exception as error:  # noqa: BLE001 - the value's own code runs here
        message = (
            f"the result of {step.step} was sent, but cannot be read here: {type(error).__name__}: {error}"
        )
        return Returned(error=CodecError(message))
    if failure is None:
        return Returned(value, None, seconds)
    kind, text, shown, made = failure
    error = StepFailed(kind, text)
    with suppress(Exception):
        error = rebuild(*loads(made))
    error.__cause__ = RemoteTraceback(shown)
    return Returned(None, error, seconds)
