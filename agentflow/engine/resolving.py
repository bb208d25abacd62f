"""Futures and states inside of values: found when a call is made, replaced by their values when they have ended.

What is found is found once: a list that grows after the call does not change what the call waits for, so a call never
waits for itself because its own future was appended to the list it had been given.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

from pydantic import BaseModel

from agentflow.engine.annotations import Annotation, allow_failure, opaque, quote
from agentflow.engine.futures import TaskFuture, TaskFutureList
from agentflow.errors import ParameterError, UpstreamFailed
from agentflow.model.states import State

_ATOMS = frozenset({str, int, float, bool, type(None), bytes, complex})
_SEQUENCES = (list, tuple, set, frozenset)
_LATE = (TaskFuture, State, Annotation)
Make = Callable[[], Any]


class Upstream(NamedTuple):
    """Something that has to end first."""

    source: TaskFuture[Any] | State[Any]
    #: It may have failed.
    allowed: bool

    def failure(self) -> BaseException | None:
        """Why it did not complete. A future must have ended; asking counts as looking."""
        return self.source.exception() if isinstance(self.source, TaskFuture) else self.source.error

    @property
    def name(self) -> str:
        """What it is called."""
        return self.source.name if isinstance(self.source, TaskFuture) else repr(self.source)


def is_late(value: Any) -> bool:
    """Whether there is a future, a state or a mark in it, at any depth."""
    queue: list[Any] = [value]
    seen: set[int] = set()
    while queue:
        item = queue.pop()
        if item.__class__ in _ATOMS:
            continue
        if isinstance(item, _LATE):
            return True
        parts = _parts(item)
        if parts and id(item) not in seen:
            seen.add(id(item))
            queue.extend(parts)
    return False


def check_upstream(name: str, value: Any) -> None:
    """Raise `ParameterError` where the call `name` is to wait for something that it cannot wait for."""
    queue: list[Any] = [value]
    seen: set[int] = set()
    while queue:
        item = queue.pop()
        if isinstance(item, Annotation):
            queue.append(cast("Annotation[Any]", item).unwrap())
        elif _is_foreign(item):
            message = (
                f"{name}: wait_for wants futures of submitted tasks and states, not a {item.__class__.__name__}; "
                "await that first"
            )
            raise ParameterError(message)
        elif id(item) not in seen:
            seen.add(id(item))
            queue.extend(_parts(item))


def _is_foreign(item: Any) -> bool:
    """Whether it can be awaited, but is no future of a submitted task, nor several of them."""
    return isinstance(item, Awaitable) and not isinstance(item, (TaskFuture, *_SEQUENCES))


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, _SEQUENCES):
        return cast("Iterable[Any]", value)
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value).values()
    if isinstance(value, BaseModel):
        return value.__dict__.values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, item.name, None) for item in dataclasses.fields(value)]
    return ()


class Late:
    """The futures, states and annotations in a value, taken down now; `resolve` gives the value without them."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.upstream: list[Upstream] = []
        self._open: list[int] = []
        self._make = self._plan(value, allowed=False) if is_late(value) else None

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to replace."""
        return self._make is None

    @property
    def futures(self) -> list[TaskFuture[Any]]:
        """The futures, in their order."""
        return [item.source for item in self.upstream if isinstance(item.source, TaskFuture)]

    def resolve(self) -> Any:
        """The value. The futures must have ended; raises the exception of the first that failed."""
        return self._value if self._make is None else self._make()

    def check(self, name: str) -> None:
        """Raise `UpstreamFailed` if anything that the call `name` waits for did not complete."""
        for item in self.upstream:
            failure = None if item.allowed else item.failure()
            if failure is not None:
                raise UpstreamFailed(name, item.name) from failure
            if item.allowed:
                item.failure()

    def _plan(self, value: Any, *, allowed: bool) -> Make | None:
        """How to make the value anew; None where it can stay as it is."""
        kind = value.__class__
        if kind in _ATOMS:
            return None
        if isinstance(value, (TaskFuture, State)):
            item = Upstream(cast("TaskFuture[Any] | State[Any]", value), allowed)
            self.upstream.append(item)
            return lambda: _value_of(item)
        if isinstance(value, Annotation):
            return self._plan_annotation(cast("Annotation[Any]", value), allowed=allowed)
        if id(value) in self._open:  # it contains itself: that part stays
            return None
        self._open.append(id(value))
        try:
            return self._plan_compound(value, allowed=allowed)
        finally:
            self._open.pop()

    def _plan_annotation(self, value: Annotation[Any], *, allowed: bool) -> Make:
        inner = value.unwrap()
        if isinstance(value, (quote, opaque)):
            return lambda: inner
        return self._plan(inner, allowed=allowed or isinstance(value, allow_failure)) or (lambda: inner)

    def _plan_compound(self, value: Any, *, allowed: bool) -> Make | None:
        if isinstance(value, _SEQUENCES):
            items = list(cast("Iterable[Any]", value))
            makes = [self._plan(item, allowed=allowed) for item in items]
            if not any(makes):
                return None
            return lambda: _sequence_like(
                value, [item if make is None else make() for item, make in zip(items, makes, strict=True)]
            )
        if isinstance(value, dict):
            return self._plan_parts(value, cast("dict[Any, Any]", value), _dict_like, allowed=allowed)
        if isinstance(value, BaseModel):
            return self._plan_parts(value, value.__dict__, _model_like, allowed=allowed)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {item.name: getattr(value, item.name, None) for item in dataclasses.fields(value)}
            return self._plan_parts(value, fields, _dataclass_like, allowed=allowed)
        return None

    def _plan_parts(
        self,
        value: Any,
        parts: Mapping[Any, Any],
        like: Callable[[Any, dict[Any, Any]], Any],
        *,
        allowed: bool,
    ) -> Make | None:
        makes = {name: make for name, item in parts.items() if (make := self._plan(item, allowed=allowed))}
        if not makes:
            return None
        taken = copy.copy(value)
        return lambda: like(taken, {name: make() for name, make in makes.items()})


def resolved(value: Any) -> Any:
    """`value` with its futures, which have ended, and states replaced by their values."""
    return Late(value).resolve()


def _value_of(item: Upstream) -> Any:
    failure = item.failure() if item.allowed else None
    if failure is not None:
        return failure
    return item.source.result()


def _sequence_like(value: Any, items: list[Any]) -> Any:
    if hasattr(value, "_fields"):
        return type(value)(*items)
    if isinstance(value, TaskFutureList):
        return items  # which are no futures any more
    if isinstance(value, list):
        made: list[Any] = copy.copy(cast("list[Any]", value))  # a subclass keeps what else it is
        made[:] = items
        return made
    return type(value)(items)


def _dict_like(value: dict[Any, Any], parts: dict[Any, Any]) -> Any:
    made = copy.copy(value)
    made.update(parts)
    return made


def _model_like(value: BaseModel, parts: dict[str, Any]) -> Any:
    return value.model_copy(update=parts)


def _dataclass_like(value: Any, parts: dict[str, Any]) -> Any:
    made = copy.copy(value)
    for name, item in parts.items():
        object.__setattr__(made, name, item)
    return made
