"""What should be in a journal: the memory journal, and what of an answer two stores can be compared by."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NamedTuple, cast

from agentflow.errors import AgentflowError, Cancelling, Fenced, JournalUnavailable, RunOwnedError
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import CacheFilter, DeploymentFilter, Journal, RunFilter
from agentflow.model.lives import Life
from agentflow.model.runs import Run

EVERYTHING = RunFilter(limit=1000)
KEYS = (b"x", b"y", b"z")


class Oracle(MemoryJournal):
    """What should be in the journal."""

    def orphan(self, numbers: Collection[int]) -> None:
        """The owner of these runs has died."""
        self._owned.difference_update(numbers)

    def is_taken(self, number: int) -> bool:
        return number in self._owned


class Failure(NamedTuple):
    """How a verb was refused."""

    kind: type[BaseException]
    text: str


def outcome(call: Callable[[], object]) -> object:
    """What a verb returned or how it was refused, without what differs between stores by design."""
    try:
        value = call()
    except (AgentflowError, Cancelling, Fenced, JournalUnavailable, ValueError) as error:
        named = not isinstance(error, RunOwnedError | ValueError)
        # of which kind a ValueError is, is the store's business
        kind = ValueError if isinstance(error, ValueError) else type(error)
        return Failure(kind, re.sub(r"is being run by \S+;", "is being run;", str(error)) if named else "")
    return nameless(value)


def nameless(value: object) -> object:
    """`value` without the names of owners."""
    if isinstance(value, list):
        return [nameless(item) for item in cast("list[object]", value)]
    if isinstance(value, Life):
        return replace(value, owner="")
    if isinstance(value, Run):
        return {name: getattr(value, name) for name in Run.__slots__} | {"owner": bool(value.owner)}
    return value


def everything(journal: Journal, now: float) -> object:
    """All that a journal holds."""
    runs = journal.list_runs(EVERYTHING)
    return nameless(
        [
            runs,
            [(journal.is_owned(run), journal.steps(run.number), journal.logs(run.number)) for run in runs],
            [journal.lives(run.number) for run in runs],
            [journal.fork_of(run.number) for run in runs],
            [journal.pruned_at(run.number) for run in runs],
            [journal.unread_answers(run.number) for run in runs],
            journal.due_runs(now),
            journal.list_waits(open_only=False),
            journal.list_waits(),
            [journal.cached(key) for key in KEYS],
            journal.cache_entries(CacheFilter()),
            [journal.key_holder(key) for key in KEYS],
            journal.list_deployments(DeploymentFilter()),
        ]
    )
