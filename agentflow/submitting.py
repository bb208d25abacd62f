"""Calls made beside their caller: one (`submit_in`), or one per item of iterables (`map_in`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any, cast

from agentflow.engine.annotations import Annotation, opaque, quote, unmapped
from agentflow.engine.calling import preparation, taken_out
from agentflow.engine.context import Frame
from agentflow.engine.futures import TaskFuture, TaskFutureList
from agentflow.engine.places import LOOP_AWAY, place_for, runner_of, send_away
from agentflow.engine.runtime import running_loop
from agentflow.engine.step import Call
from agentflow.engine.submission import Lane, launch_on_loop, submit_async, submit_sync
from agentflow.errors import ColourError, MappingLengthMismatch, MappingMissingIterable
from agentflow.model.states import State


def _column(value: Any) -> list[Any] | None:
    """The items of a mapped argument; None for a constant. A mark around it is put around each item."""
    if isinstance(value, (TaskFuture, State)):
        value = cast("TaskFuture[Any] | State[Any]", value).result()
    if isinstance(value, Annotation):
        mark = cast("Annotation[Any]", value)
        if isinstance(mark, (unmapped, quote, opaque)):
            return None
        items = _column(mark.unwrap())
        return None if items is None else [mark.around(item) for item in items]
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return None
    return list(cast("Iterable[Any]", value))


def map_in(task: Any, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskFutureList[Any]:
    """Submit a task once per item of the iterable arguments. Raises as `Task.map` does."""
    own, wait_for, _ = taken_out(kwargs)
    futures: TaskFutureList[Any] = TaskFutureList()
    lane = Lane(frame.run.options.settings.map_concurrency, launch_on_loop)
    context = copy_context()
    for positional, named in mapped(f"{task.name}.map()", args, own):
        if wait_for is not None:
            named["wait_for"] = wait_for
        futures.append(submit_in(task, frame, positional, named, context, lane))
    return futures


def mapped(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """The arguments of each call of a ``map``. Raises as `Task.map` does."""
    names = list(kwargs)
    values = [*args, *kwargs.values()]
    columns = [_column(value) for value in values]
    lengths = {len(column) for column in columns if column is not None}
    if not lengths:
        message = f"{name} got no iterable argument; wrap constants in unmapped(...)"
        raise MappingMissingIterable(message)
    if len(lengths) > 1:
        message = (
            f"{name} got iterables of different lengths {sorted(lengths)}; wrap constants in unmapped(...)"
        )
        raise MappingLengthMismatch(message)
    for index in range(lengths.pop()):
        row = [
            value if column is None else column[index] for column, value in zip(columns, values, strict=True)
        ]
        yield row[: len(args)], dict(zip(names, row[len(args) :], strict=True))


def submit_in(
    task: Any,
    frame: Frame,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    context: Context | None = None,
    lane: Lane | None = None,
) -> TaskFuture[Any]:
    """Submit a task in a frame. With futures among the arguments, the call is made once they have ended."""
    request = task.request((*task.receiver, *args), kwargs)
    awaited, prepare = request.futures, preparation(request, frame)
    runner = runner_of(frame)
    place = place_for(frame, task.policy, runner)
    if place is not None:

        def sent() -> Call:
            return send_away(prepare(), place)

        future = submit_async(
            task.name, frame.run, sent, awaited, context, lane, LOOP_AWAY, request.late.futures
        )
    elif task.is_async:
        future = submit_async(
            task.name, frame.run, prepare, awaited, context, lane, inputs=request.late.futures
        )
    else:
        future = submit_sync(task.name, frame.run, prepare, awaited, context, runner)
    frame.bear(future)
    return future


def check_may_block(name: str) -> None:
    """Raise `ColourError` where to wait for states would block an event loop."""
    if running_loop() is not None:
        message = (
            f"{name} with return_state=True would block this thread's event loop; "
            "submit without it, `await` the futures and read their `.state`, or call the task itself with it"
        )
        raise ColourError(message)


def states_of(futures: Sequence[TaskFuture[Any]]) -> list[State[Any]]:
    """The states in which futures end, waited for."""
    for future in futures:
        future.wait()
    return [future.state for future in futures]
