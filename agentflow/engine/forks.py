"""Forks: a new run that begins with what another one had recorded before one of its steps, and goes its own way.

What was recorded before the step is copied, row by row, at the same positions: it is found as it would be in the other
run, and never runs again. A side effect that had begun by then is copied to its end. From the step on everything runs
anew, and each side effect is put before a person together with what the other run did from there on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from agentflow.engine.records import ROOT, attempt_scope, identity
from agentflow.errors import UsageError
from agentflow.journal.protocol import Journal
from agentflow.model.lives import Fork
from agentflow.model.runs import Run
from agentflow.model.steps import StepEvent, StepKind, StepRow, sequence_of
from agentflow.payloads.digests import Hasher

_SHORTEST = 4
_NUMBERED = re.compile(r"(?P<name>.+)#(?P<number>[1-9][0-9]*)")
_ENDS = {
    StepEvent.COMPLETED: "done",
    StepEvent.NOT_DONE: "not done",
    StepEvent.ATTEMPT: "not done",
    StepEvent.FAILED: "refused",
}


@dataclass(slots=True)
class _Seen:
    """A step of the run that is to be forked."""

    id: str
    name: str
    around: _Seen | None
    effect: bool
    rows: list[StepRow] = field(default_factory=list[StepRow])

    @property
    def first(self) -> int:
        return sequence_of(self.rows[0].id)

    @property
    def is_whole(self) -> bool:
        """Whether it is copied to its end or not at all: a side effect, or a transaction, which may undo some."""
        return self.effect or self.rows[0].kind == StepKind.TRANSACTION

    @property
    def is_open_transaction(self) -> bool:
        return self.rows[0].kind == StepKind.TRANSACTION and not StepEvent(self.rows[-1].event).is_end

    def enclosing(self) -> Iterator[_Seen]:
        """The steps around it, from the inside out."""
        around = self.around
        while around is not None:
            yield around
            around = around.around


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a run is to be forked."""

    #: Identity of the step, hexadecimal, and its name.
    step: str
    name: str
    #: What was recorded before it.
    rows: Sequence[StepRow]
    #: The side effects that the run began from it on: step, tool, arguments, end (JSON).
    happened: list[dict[str, Any]]

    def fork(self, source: Run, *, changed: bool) -> Fork:
        """What a new run remembers of this. `changed`: it gets other parameters."""
        taken = sequence_of(self.rows[-1].id) if self.rows else 0
        return Fork(source.id, self.step, self.name, taken, changed, orjson.dumps(self.happened))


def cut_at(journal: Journal, run: Run, wanted: str) -> Cut:
    """The run, cut before a step: its id or an end of it, or its name; ``name#2`` is the second one of that name.

    Raises `UsageError` where no step, or more than one, is meant, and for a step inside of a side effect or a
    transaction.
    """
    rows = journal.steps(run.number)
    seen = _fold(rows, Hasher(journal.key))
    step = _find(run, seen, wanted)
    for around in step.enclosing():
        if around.is_whole:
            message = (
                f"{step.name} is part of {around.name}, which is one whole; fork from that: {around.id[-8:]}"
            )
            raise UsageError(message)
    first = step.first
    kept = {id(row) for row in rows if sequence_of(row.id) < first}
    for other in seen:
        whole = [around for around in (other, *other.enclosing()) if around.is_whole and around.first < first]
        if any(around.is_open_transaction for around in whole):
            message = f"the transaction {whole[-1].name} of run {run.id} has not ended; resume the run, then fork it"
            raise UsageError(message)
        if whole:
            kept |= {id(row) for row in other.rows}
    happened = [_told(other) for other in seen if other.effect and other.first >= first]
    return Cut(step.id, step.name, [row for row in rows if id(row) in kept], happened)


def _fold(rows: Iterable[StepRow], hasher: Hasher) -> list[_Seen]:
    """The steps of a run in the order in which they were first recorded; the flow's own attempts are none."""
    found: dict[tuple[bytes, bytes, bytes, int], _Seen] = {}
    owners: dict[bytes, _Seen] = {}
    stable: dict[bytes, bytes] = {}  # effects are recorded in a scope that all attempts share

    def identify(scope: bytes, place: tuple[bytes, bytes, int]) -> bytes:
        return identity(hasher, scope, place)

    for row in rows:
        if row.scope == row.key == ROOT:
            if row.event == StepEvent.ATTEMPT:
                stable[attempt_scope(identify, ROOT, row.attempt + 1)] = ROOT
            continue
        place = (row.key, row.branch, row.occurrence)
        here = identify(row.scope, place)
        step = found.get((row.scope, *place))
        if step is None:
            step = _Seen(here.hex(), row.name, owners.get(row.scope), bool(row.effect))
            found[row.scope, *place] = owners[here] = step
            stable[here] = identify(stable.get(row.scope, row.scope), place)
            owners.setdefault(stable[here], step)
        if row.event == StepEvent.ATTEMPT:
            again = attempt_scope(identify, here, row.attempt + 1)
            owners[again], stable[again] = step, stable[here]
        step.rows.append(row)
    return list(found.values())


def _find(run: Run, seen: Sequence[_Seen], wanted: str) -> _Seen:
    by_id = [step for step in seen if len(wanted) >= _SHORTEST and step.id.endswith(wanted.lower())]
    named = [step for step in seen if step.name == wanted]
    numbered = _NUMBERED.fullmatch(wanted)
    if not named and numbered is not None:
        found = [step for step in seen if step.name == numbered["name"]]
        named = found[int(numbered["number"]) - 1 :][:1]
    fitting = named or by_id
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        names = ", ".join(dict.fromkeys(step.name for step in seen)) or "none"
        message = (
            f"run {run.id} has no step {wanted!r}; `agentflow runs show` lists them, by name: {names[:300]}"
        )
    elif named:
        last = f"{wanted}#{len(named)}"
        message = (
            f"run {run.id} has {len(named)} steps {wanted!r}; say which: {wanted}#1 to {last}, or its id"
        )
    else:
        message = f"several steps of run {run.id} have an id that ends with {wanted!r}; give more of it"
    raise UsageError(message)


def _told(step: _Seen) -> dict[str, Any]:
    last = step.rows[-1]
    said = next((row.detail for row in reversed(step.rows) if row.detail), b"{}")
    detail: dict[str, Any] = orjson.loads(said)
    end = "in doubt" if detail.get("doubt") else _ENDS.get(StepEvent(last.event), "in doubt")
    return {"step": step.id, "tool": step.name, "arguments": detail.get("arguments"), "end": end}


def in_words(effect: dict[str, Any]) -> str:
    """A side effect of the other run in one line: ``pay(amount=3, to="bob"): done``."""
    arguments: dict[str, Any] = effect.get("arguments") or {}
    shown = ", ".join(
        f"{name}={orjson.dumps(value, default=str).decode()}" for name, value in arguments.items()
    )
    return f"{effect['tool']}({shown[:200]}): {effect['end']}"
