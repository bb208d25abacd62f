"""What a life of a run did with each step - reused, ran anew, ran again, took over, left out - and why, in words.

Read from the journal alone: the rows before the life, the rows of the life, and what it said at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

import orjson

from agentflow.engine.records import ROOT, Place, Record, Records, identity
from agentflow.fingerprints import unmarked
from agentflow.journal.protocol import Journal
from agentflow.model.lives import Life, LifeEnd
from agentflow.model.runs import Run
from agentflow.model.steps import StepEvent, StepKind, StepRow, sequence_of
from agentflow.payloads.digests import Hasher
from agentflow.views import stamp

REUSED, NEW, AGAIN, TAKEN, REMOVED = "reused", "new", "re-executed", "taken over", "removed"
WAITING, IN_DOUBT, RECORDED = "not asked for", "in doubt", "recorded"
_MOVED = {
    "name": "recorded under an earlier name of the task",
    "branch": "recorded in another branch",
}
_IN_DOUBT = "it was started, and nobody knows whether it happened"
_SHOWN = 20
Spot = tuple[bytes, Place]


class Verdict(NamedTuple):
    """What became of a step in a life."""

    #: Identity of the step, hexadecimal, and the sequence of its first row.
    id: str
    seq: int
    name: str
    how: str
    reason: str


@dataclass(slots=True)
class _Step:
    """A step's rows, before the life and in it."""

    first: StepRow
    before: StepRow | None = None
    during: list[StepRow] = field(default_factory=list[StepRow])


class Explanation:
    """The verdicts on the steps that a life found or ran."""

    def __init__(self, journal: Journal, run: Run, life: Life, following: Life | None) -> None:
        self.life = life
        self._hasher = Hasher(journal.key)
        self._said: dict[str, Any] = orjson.loads(life.account) if life.account else {}
        end = following.first if following is not None else None
        rows = list(
            takewhile(lambda row: end is None or sequence_of(row.id) < end, journal.steps(run.number))
        )
        self._steps = _fold(rows, life.first)
        earlier = [row for row in rows if sequence_of(row.id) < life.first]
        self._old = Records(earlier, self._identify)
        self._all = Records(rows, self._identify) if len(earlier) < len(rows) else self._old
        self._fork = journal.fork_of(run.number)
        #: What was recorded before the life: keys by scope and name, branches by scope and key.
        self._keys: dict[bytes, dict[str, set[bytes]]] = {}
        self._branches: dict[tuple[bytes, bytes], set[bytes]] = {}
        for (scope, (key, branch, _)), step in self._steps.items():
            if step.before is not None:
                self._keys.setdefault(scope, {}).setdefault(step.first.name, set()).add(key)
                self._branches.setdefault((scope, key), set()).add(branch)
        self._followers: dict[bytes, list[bytes]] = {}
        for after, handed in self._all.handed.items():
            self._followers.setdefault(handed.before, []).append(after)
        self.verdicts = sorted([*self._ran(), *self._found()], key=lambda verdict: verdict.seq)

    def _identify(self, scope: bytes, place: Place) -> bytes:
        return identity(self._hasher, scope, place)

    def _verdict(self, spot: Spot, how: str, reason: str) -> Verdict:
        first = self._steps[spot].first
        return Verdict(self._identify(*spot).hex(), sequence_of(first.id), first.name, how, reason)

    # -- what the life ran
    def _ran(self) -> Iterable[Verdict]:
        for spot, step in self._steps.items():
            if step.during:
                how, reason = self._why(spot, step)
                yield self._verdict(spot, how, reason)

    def _why(self, spot: Spot, step: _Step) -> tuple[str, str]:
        last = step.during[-1]
        detail: dict[str, Any] = orjson.loads(last.detail) if last.detail else {}
        if last.event in (StepEvent.INTENT, StepEvent.UNKNOWN) or detail.get("doubt"):
            return IN_DOUBT, _IN_DOUBT
        if detail.get("told"):
            return REUSED, "it was in doubt, and a person said that it had happened"
        if last.event == StepEvent.CACHED:
            return TAKEN, "from the cache"
        if step.before is not None:
            return AGAIN, _gone_on(step.before)
        if step.first.kind == StepKind.HOOK:
            return NEW, ""  # each belongs to one step, and has no arguments that could differ
        return self._again(spot) or (NEW, self._news(spot, step, detail))

    def _again(self, spot: Spot) -> tuple[str, str] | None:
        """Why a step runs that an attempt before had; None where none had it."""
        scope, place = spot
        for before in list(self._line(scope))[1:]:
            handed, scope = self._all.handed[scope], before
            recorded = self._steps.get((before, place))
            if recorded is None:
                continue
            sequences = {
                sequence_of(row.id) for row in (recorded.before, *recorded.during) if row is not None
            }
            if sequences & handed.guilty:
                return AGAIN, f"culprit of the failed attempt {handed.attempt} of {handed.name}"
            if handed.guilty:
                return AGAIN, "comes after a re-executed step in its branch"
            return AGAIN, f"the code of {handed.name} itself failed in attempt {handed.attempt}"
        return None

    def _news(self, spot: Spot, step: _Step, detail: dict[str, Any]) -> str:
        if detail.get("refused") == "DivergenceError":
            return "stopped before it began: another side effect was recorded at its place, and a person said: fail"
        scope, (key, branch, _) = spot
        scopes = list(self._line(scope))
        names = {name for here in scopes for name in self._keys.get(here, ())}
        around = self._all.owner(scope)
        if not names:
            began = around is not None and self.life.first > 1
            return f"part of {around.name}, of which nothing was recorded" if began and around else ""
        if step.first.name not in names:
            return "no step of this name was recorded"
        if not any(key in self._keys.get(here, {}).get(step.first.name, ()) for here in scopes):
            return "recorded with other arguments"
        if not any(branch in self._branches.get((here, key), ()) for here in scopes):
            return "recorded in another branch"
        return "recorded fewer times, or on the other side of a side effect"

    def _line(self, scope: bytes) -> Iterator[bytes]:
        """A scope, and those of the attempts that came before it."""
        yield scope
        while (handed := self._all.handed.get(scope)) is not None:
            scope = handed.before
            yield scope

    # -- what the life found
    def _found(self) -> Iterable[Verdict]:
        if self.life.first == 1:
            return
        adopted = {seq: _MOVED[why] for seq, why in self._said.get("moved", ())}
        unasked = _numbers(self._said.get("unasked", {}))
        known: dict[Spot, tuple[str, str] | None] = {}
        for record in self._old.reachable():
            known[record.scope, record.place] = self._fate(record, adopted, unasked)
        for spot, step in self._steps.items():
            if step.before is None or step.during:
                continue
            if step.before.event == StepEvent.INTENT:
                yield self._verdict(spot, IN_DOUBT, _IN_DOUBT)
            if not StepEvent(step.before.event).is_end:
                continue
            fate = known[spot] if spot in known else self._below(spot[0], known)
            if fate is not None:
                yield self._verdict(spot, *fate)

    def _fate(
        self, record: Record, adopted: dict[int, str], unasked: Callable[[int], bool]
    ) -> tuple[str, str] | None:
        if not self._said.get("found"):
            return RECORDED, "the life has not said whether it asked for it"
        if record.seq in adopted:
            return TAKEN, adopted[record.seq]
        if not unasked(record.seq):
            copied = self._fork is not None and record.seq <= self._fork.taken
            return REUSED, "copied from the run that it was forked from" if copied else ""
        if self._ran_again(record):
            return None
        if self.life.end in (LifeEnd.SUSPENDED, LifeEnd.RUNNING):
            return WAITING, "the life has not come so far"
        return REMOVED, "nobody asked for it"

    def _ran_again(self, record: Record) -> bool:
        """Whether an attempt of this life ran the step anew."""
        scopes, seen = [record.scope], set[bytes]()
        while scopes:
            scope = scopes.pop()
            if scope in seen:
                continue
            seen.add(scope)
            step = self._steps.get((scope, record.place))
            if step is not None and step.during:
                return True
            scopes += self._followers.get(scope, ())
        return False

    def _below(self, scope: bytes, known: dict[Spot, tuple[str, str] | None]) -> tuple[str, str] | None:
        """The fate of a step inside of one that was found whole."""
        around = self._old.owner(scope)
        while around is not None:
            fate = known.get((around.scope, around.place))
            if fate is not None:
                return fate[0], f"part of {around.name}"
            around = self._old.owner(around.scope)
        return None

    # -- told
    @property
    def changed(self) -> bool:
        """Whether the life ran other code, or other parameters, than some record came from."""
        return bool(self._said.get("changed"))

    def counts(self) -> dict[str, int]:
        """How many steps of each fate."""
        found: dict[str, int] = {}
        for verdict in self.verdicts:
            found[verdict.how] = found.get(verdict.how, 0) + 1
        return found

    def groups(self) -> list[dict[str, Any]]:
        """The verdicts by fate, name and reason, in the order of their first steps; of each, a few steps."""
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        for verdict in self.verdicts:
            group = found.setdefault(
                (verdict.how, verdict.name, verdict.reason),
                {"how": verdict.how, "name": verdict.name, "reason": verdict.reason, "count": 0, "steps": []},
            )
            group["count"] += 1
            if len(group["steps"]) < _SHOWN:
                group["steps"].append(verdict.id)
        return list(found.values())


def _fold(rows: Sequence[StepRow], first: int) -> dict[Spot, _Step]:
    steps: dict[Spot, _Step] = {}
    for row in rows:
        if row.scope == row.key == ROOT:
            continue
        spot = (row.scope, (row.key, row.branch, row.occurrence))
        step = steps.get(spot)
        if step is None:
            step = steps[spot] = _Step(row)
        if sequence_of(row.id) < first:
            step.before = row if step.before is None or row.event != StepEvent.STARTED else step.before
        else:
            step.during.append(row)
    return steps


def _gone_on(before: StepRow) -> str:
    """Why a step runs in this life whose rows of an earlier one are no end that counts."""
    if before.event == StepEvent.STARTED:
        return "it was under way when the life before ended"
    if before.event == StepEvent.ATTEMPT:
        return f"its attempt {before.attempt + 1} had failed"
    if before.event == StepEvent.NOT_DONE:
        return "it certainly had not happened"
    if before.event in (StepEvent.INTENT, StepEvent.UNKNOWN):
        return "it was in doubt, and was to run again"
    if before.event == StepEvent.ROLLING_BACK:
        return "its rollback had not ended"
    return "it had been refused"


def _numbers(ranges: dict[str, list[list[int]]]) -> Callable[[int], bool]:
    spans = [span for spans in ranges.values() for span in spans]
    within = {number for first, last in spans for number in range(first, last + 1)}
    return within.__contains__


def explain(journal: Journal, run: Run, number: int | None = None) -> Explanation | None:
    """What a life of a run did; the last one, or that of `number`. None where there is none."""
    lives = journal.lives(run.number)
    followers = [*lives[1:], None] if lives else []  # nobody may have taken it up yet
    for life, following in zip(lives, followers, strict=True):
        if number == life.number or (number is None and following is None):
            return Explanation(journal, run, life, following)
    return None


def life_view(life: Life, *, owned: bool = False) -> dict[str, Any]:
    """A life, as JSON. `owned`: a process runs it now; else one that has not said how it ended has crashed."""
    end = life.end if owned or life.end is not LifeEnd.RUNNING else LifeEnd.CRASHED
    return {
        "life": life.number,
        "began": stamp(life.began),
        "ended": stamp(life.ended),
        "end": end.value,
        "message": life.message,
        "origin": life.origin,
        "owner": life.owner,
        "fingerprint": unmarked(life.fingerprint)[0],
    }


def history_view(journal: Journal, run: Run, life: int | None = None) -> dict[str, Any]:
    """When a run's values were removed, its lives, where it was forked from, and what became of each step in one life.

    `life`: that one; default: the last.
    """
    lives, owned, fork = journal.lives(run.number), journal.is_owned(run), journal.fork_of(run.number)
    explanation = explain(journal, run, life)
    return {
        "pruned": stamp(journal.pruned_at(run.number)) if run.state.is_final else None,
        "lives": [life_view(one, owned=owned and one is lives[-1]) for one in lives],
        "forked_from": None
        if fork is None
        else {
            "run_id": fork.source,
            "step": fork.step,
            "name": fork.name,
            "happened": orjson.loads(fork.happened),
        },
        "explanation": None
        if explanation is None
        else {
            "life": explanation.life.number,
            "changed_code": explanation.changed,
            "counts": explanation.counts(),
            "groups": explanation.groups(),
        },
    }
