"""Recorded sources of what differs between two lives: the time, identifiers, chance.

``recorded.now()``, ``recorded.uuid4()`` and ``recorded.random()`` are steps: a replay gets what the first life got.
They work in sync and async flows alike. Outside of a flow they are what they are named after.
"""

from __future__ import annotations

import datetime as dt
import random as _random
import uuid
from collections.abc import Callable
from typing import TypeVar, cast

from agentflow.engine.context import CURRENT
from agentflow.engine.policy import StepPolicy
from agentflow.engine.step import Call, execute_now
from agentflow.model.steps import StepKind

T = TypeVar("T")


def _nothing() -> dict[str, object]:
    return {}


def _record(name: str, make: Callable[[], T]) -> T:
    frame = CURRENT.get()
    if frame is None:
        return make()
    policy = StepPolicy(name=name, kind=StepKind.RECORDED, plain=True)
    key = frame.run.hasher.digest(name.encode())
    call = Call(frame, policy, key, make, (), {}, _nothing, lambda _: ((), {}))
    return cast("T", execute_now(call))


def now(zone: dt.tzinfo = dt.UTC) -> dt.datetime:
    """The time of the first life, aware, in `zone` (default: UTC)."""
    return _record("recorded.now", lambda: dt.datetime.now(dt.UTC)).astimezone(zone)


def uuid4() -> uuid.UUID:
    """A random UUID, the same in every life."""
    return _record("recorded.uuid4", uuid.uuid4)


def random() -> float:
    """A random number in [0, 1), the same in every life."""
    return _record("recorded.random", _random.random)
