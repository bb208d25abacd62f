"""Limits: how much of something may happen at once, and the slots that are held and waited for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

#: What the names of limits begin with that apply by themselves: to each task of a tag, to each run of a flow or of a
#: deployment.
TAG_PREFIX = "tag:"
FLOW_PREFIX = "flow:"
DEPLOYMENT_PREFIX = "deployment:"
#: No limit has more slots, and nobody wants more.
MOST_SLOTS = 1_000_000_000


class ConcurrencyLimitStrategy(StrEnum):
    """What becomes of a run for which no slot is free. Prefect's name."""

    ENQUEUE = "ENQUEUE"
    """It waits for its turn."""
    CANCEL_NEW = "CANCEL_NEW"
    """It is cancelled at once."""


@dataclass(frozen=True, slots=True)
class ConcurrencyLimitConfig:
    """How many runs of a flow or deployment may be executed at once, and what becomes of the next. Prefect's name."""

    limit: int
    collision_strategy: ConcurrencyLimitStrategy = ConcurrencyLimitStrategy.ENQUEUE


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that is defined in the journal."""

    name: str
    #: How many slots there are. 0 holds everybody until it is raised.
    limit: int
    #: False: it is remembered and limits nothing.
    active: bool = True
    #: How many taken slots come back by themselves each second; 0 = a slot comes back when its holder gives it back.
    slot_decay_per_second: float = 0.0
    #: Of a limit of runs: what becomes of a run for which no slot is free.
    collision_strategy: ConcurrencyLimitStrategy = ConcurrencyLimitStrategy.ENQUEUE
    #: Set by the code of a flow, or with a deployment; what a person sets as a limit is changed by neither.
    declared: bool = False


def tag_limits(limits: Iterable[Limit]) -> frozenset[str]:
    """The names of those that apply to each task of a tag."""
    return frozenset(limit.name for limit in limits if limit.active and limit.name.startswith(TAG_PREFIX))


class RunLimits(NamedTuple):
    """What limits a run, as one look at the journal shows it."""

    #: Of these it needs a slot while it is executed.
    names: tuple[str, ...] = ()
    #: Those of them where a new run is cancelled, instead of waiting, when no slot is free.
    cancelling: tuple[str, ...] = ()
    #: Limits that apply to each task of a tag.
    tags: frozenset[str] = frozenset()


class Grant(StrEnum):
    """What became of a claim."""

    UNLIMITED = "unlimited"
    """None of its names is a limit: nothing was taken, and there is nothing to give back."""
    HELD = "held"
    WAITING = "waiting"
    REFUSED = "refused"
    """No slot was free, and the claim did not want to wait."""


class Claim(NamedTuple):
    """A wish for slots of one or several limits: all at once, or none."""

    #: Unique; by this it is given back.
    id: str
    #: Names of limits, each once; one that is not defined does not limit.
    names: tuple[str, ...]
    #: How many slots of each.
    slots: int = 1
    #: The run that holds them, and its epoch; 0 = no run but the process.
    run: int = 0
    epoch: int = 0
    run_id: str = ""
    #: The step that wants them, for people.
    step: str = ""
    #: Whoever renews the lease of this claim: one per process and journal.
    keeper: str = ""
    #: Seconds for which it holds without being renewed.
    lease: float = 30.0
    #: The slots are used up and come back by decay only (a rate limit).
    spends: bool = False
    #: A name that is not defined is an error.
    strict: bool = False
    #: Stay in the queue where no slot is free.
    waits: bool = True


class Slot(NamedTuple):
    """What a claim holds, or waits for, of one limit. Times are seconds since the epoch."""

    claim: str
    limit: str
    slots: int
    #: The place in the queue: smaller ones were there first.
    ticket: int
    run: int
    #: Of the run; of a process without a run, what the store knows it by.
    epoch: int
    run_id: str
    step: str
    #: ``host:pid`` of the process.
    owner: str
    keeper: str
    since: float
    lease: float
    expires: float
    #: When it was given; None = it waits.
    granted: float | None
    spends: bool
