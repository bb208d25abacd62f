"""Calls made beside their caller: one (`submit_in`), or one per item of iterables (`map_in`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar, cast

from agentflow.engine.context import CURRENT, Frame
from agentflow.engine.futures import TaskFuture, TaskFutureList, futures_in, resolved
from agentflow.engine.places import LOOP_AWAY, place_for, runner_of, send_away
from agentflow.engine.step import Call
from agentflow.engine.submission import Lane, launch_on_loop, submit_async, submit_sync

T = TypeVar("T")


class unmapped(Generic[T]):  # noqa: N801 - Prefect's name
    """Marks an argument of ``map`` that every call gets whole."""

    def __init__(self, value: T) -> None:
        self.value = value


def _whole(value: Any) -> Any:
    return cast("unmapped[Any]", value).value if isinstance(value, unmapped) else value


def _column(value: Any) -> list[Any] | None:
    """The items of a mapped argument; None for a constant."""
    if isinstance(value, TaskFuture):
        value = cast("TaskFuture[Any]", value).result()
    if isinstance(value, (unmapped, str, bytes)) or not isinstance(value, Iterable):
        return None
    return list(cast("Iterable[Any]", value))


def map_in(task: Any, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskFutureList[Any]:
    """Submit a task once per item of the iterable arguments. Raises ValueError as `Task.map` says."""
    names = list(kwargs)
    columns = [_column(value) for value in (*args, *kwargs.values())]
    lengths = {len(column) for column in columns if column is not None}
    if len(lengths) != 1:
        what = "no iterable argument" if not lengths else f"iterables of different lengths {sorted(lengths)}"
        message = f"{task.name}.map() got {what}; wrap constants in unmapped(...)"
        raise ValueError(message)
    constants = [_whole(value) for value in (*args, *kwargs.values())]
    futures: TaskFutureList[Any] = TaskFutureList()
    lane = Lane(frame.run.options.settings.map_concurrency, launch_on_loop)
    context = copy_context()
    for index in range(lengths.pop()):
        row = [
            constant if column is None else column[index]
            for column, constant in zip(columns, constants, strict=True)
        ]
        split = len(row) - len(names)
        futures.append(
            submit_in(task, frame, row[:split], dict(zip(names, row[split:], strict=True)), context, lane)
        )
    return futures


def submit_in(
    task: Any,
    frame: Frame,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    context: Context | None = None,
    lane: Lane | None = None,
) -> TaskFuture[Any]:
    """Submit a task in a frame. With futures among the arguments, the call is made once they have ended."""
    whole = (*task.receiver, *args)
    awaited = futures_in((whole, kwargs))
    if not awaited:
        call = task.call_in(frame, whole, kwargs)

        def prepare() -> Call:
            return call
    else:
        frame.run.check(frame)
        late = frame.branched(_late_branch(frame, task.name))

        def prepare() -> Call:
            values, named = resolved(whole), resolved(dict(kwargs))
            CURRENT.set(late)
            return task.call_in(late, values, named)

    runner = runner_of(frame)
    place = place_for(frame, task.policy, runner)
    if place is not None:

        def sent() -> Call:
            return send_away(prepare(), place)

        future = submit_async(task.name, frame.run, sent, awaited, context, lane, LOOP_AWAY)
    elif task.is_async:
        future = submit_async(task.name, frame.run, prepare, awaited, context, lane)
    else:
        future = submit_sync(task.name, frame.run, prepare, awaited, context, runner)
    frame.bear(future)
    return future


def _late_branch(frame: Frame, name: str) -> bytes:
    """The branch of a call whose arguments are not known yet: named by where and in which order it was submitted."""
    base = frame.run.hasher.digest(b"late|" + name.encode())
    count = frame.kids.get(base, 0)
    frame.kids[base] = count + 1
    return frame.run.hasher.digest(b"%b|%b|%d" % (frame.branch, base, count))
