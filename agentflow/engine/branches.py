"""Names concurrent branches: an asyncio task that user code makes inside a flow is a branch of its frame.

A branch is named by the branch that made it, the coroutine's qualified name and arguments, and which of several equal
ones it is. A task factory sees each task at its creation, while the arguments are still what they were.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from contextvars import Context, copy_context
from types import CodeType
from typing import Any

from agentflow.engine.context import CURRENT, Frame
from agentflow.payloads.digests import canonical

_PLAIN: set[CodeType] = set()
_WAIT_FOR_MAKES_A_TASK = sys.version_info < (3, 12)
#: Of this module and of asyncio, between ``wait_for`` and `_inside_wait_for`.
_FRAMES_ABOVE = 7
_FLAGGED = "_agentflow_factory"


def own_coroutine(function: Callable[..., Any]) -> None:
    """Count coroutines of `function` (the engine's own) as calls, not as branches."""
    _PLAIN.add(function.__code__)


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Have `loop` name the branches of flows; another factory that is set stays in use beneath."""
    inner = loop.get_task_factory()
    if getattr(inner, _FLAGGED, False):
        return

    def make(coro: Any, *, loop: asyncio.AbstractEventLoop, **options: Any) -> Any:
        return asyncio.Task(coro, loop=loop, **options) if inner is None else inner(loop, coro, **options)

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None, **options: Any
    ) -> Any:
        frame = context.get(CURRENT) if context is not None else CURRENT.get()
        if frame is None:
            return make(coro, loop=loop, context=context, **options)
        code = getattr(coro, "cr_code", None)
        if code in _PLAIN:  # a call of the engine: it leaves the set by itself
            task = make(coro, loop=loop, context=context, **options)
            frame.run.tasks.add(task)
            return task
        context = copy_context() if context is None else context
        branch: Frame | None = None
        if not (_WAIT_FOR_MAKES_A_TASK and _inside_wait_for()):
            branch = frame.branched(_name(frame, coro))
            context.run(CURRENT.set, branch)
        task = make(coro, loop=loop, context=context, **options)
        if branch is None:
            frame.run.aliases[task] = frame.task
        else:
            branch.task = task
        frame.run.tasks.add(task)
        if frame.in_effect:
            frame.run.shielded.add(task)
        task.add_done_callback(frame.run.tasks.discard, context=_EMPTY)
        return task

    setattr(factory, _FLAGGED, True)
    loop.set_task_factory(factory)


_EMPTY = Context()


def _inside_wait_for() -> bool:
    """Whether the task is made by ``asyncio.wait_for`` (until 3.11), whose caller does nothing meanwhile."""
    frame = inspect.currentframe()
    for _ in range(_FRAMES_ABOVE):
        if frame is None:
            return False
        if frame.f_code is asyncio.wait_for.__code__:
            return True
        frame = frame.f_back
    return False


def _name(frame: Frame, coro: Any) -> bytes:
    run = frame.run
    code: CodeType | None = getattr(coro, "cr_code", None)
    values: list[Any] = []
    if code is not None and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        local = coro.cr_frame.f_locals
        values = [local.get(name) for name in code.co_varnames[:count]]
    named = getattr(coro, "__qualname__", type(coro).__qualname__)
    data, _ = canonical([frame.branch, named, *values])
    base = run.hasher.digest(data)
    count = frame.kids.get(base, 0)
    frame.kids[base] = count + 1
    return base if not count else run.hasher.digest(base + count.to_bytes(4))
