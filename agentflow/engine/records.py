"""What an earlier life of a run recorded, indexed for replay.

A record is one step; its rows are folded into it. Records are grouped by scope (the enclosing step's attempt) and found
by ``(key, branch, occurrence)``. Only what is still reachable takes part in replay: nothing below a finished step, and
nothing of an earlier attempt, except what that attempt hands on to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from agentflow.model.steps import StepEvent, StepRow, sequence_of

Place = tuple[bytes, bytes, int]
"""(key, branch, occurrence): where a call stands within its scope."""

_ENDS = frozenset(event.value for event in StepEvent if event.is_end)
ROOT = b""


class Record:
    """One recorded step. `claimed`: 0 nobody asked for it yet, 1 asked for, 2 delivered."""

    __slots__ = (
        "attempts", "batch", "claimed", "detail", "direct", "effect", "effects", "end", "event", "identity", "kind", "name",
        "place", "scope", "seq", "stable", "value",
    )  # fmt: skip

    def __init__(self, row: StepRow, place: Place) -> None:
        self.place = place
        self.scope = row.scope
        self.kind, self.name = row.kind, row.name
        self.effects = row.effects
        #: Whether it is a side effect itself.
        self.direct = bool(row.effect)
        #: Whether it is a side effect, or contains one.
        self.effect = self.direct
        self.seq = 0
        self.batch = 0
        self.event = ""
        self.end = False
        self.value: bytes | None = None
        self.detail: bytes | None = None
        self.attempts = 0
        self.claimed = 0
        self.identity = b""
        self.stable = b""
        self.fold(row)

    def fold(self, row: StepRow) -> None:
        """Take in another row of the same step."""
        event = row.event
        if event == "started" and self.event:
            return
        if event == "attempt":
            self.attempts = row.attempt + 1
        self.event = event
        self.end = event in _ENDS
        self.seq = sequence_of(row.id)
        self.batch = row.batch
        self.value = row.value
        if row.detail is not None:
            self.detail = row.detail

    def details(self) -> dict[str, Any]:
        """The parsed detail of its last row that has one."""
        return orjson.loads(self.detail) if self.detail else {}


class Scope:
    """The records of one scope."""

    __slots__ = ("effects", "index", "repeats")

    def __init__(self) -> None:
        self.index: dict[Place, Record] = {}
        #: Per branch, the places of effects (and of steps that contain one) by how many effects came before them.
        self.effects: dict[bytes, dict[int, Place]] = {}
        #: (key, branch) pairs that occur more than once.
        self.repeats: set[tuple[bytes, bytes]] = set()

    def add(self, row: StepRow) -> Record:
        """Fold a row into its record."""
        place = (row.key, row.branch, row.occurrence)
        record = self.index.get(place)
        if record is None:
            record = self.index[place] = Record(row, place)
            if row.occurrence:
                self.repeats.add((row.key, row.branch))
            if row.effect:
                self.effects.setdefault(row.branch, {})[row.effects] = place
        else:
            record.fold(row)
        return record

    def elsewhere(self, place: Place) -> Record | None:
        """The only unclaimed ended pure record of that key in another branch or occurrence."""
        found = [
            record
            for record in self.index.values()
            if record.place[0] == place[0] and not record.claimed and not record.effect and record.end
        ]
        return found[0] if len(found) == 1 else None

    def carry(self, culprits: frozenset[int]) -> Scope:
        """What an attempt that failed through `culprits` (sequences) hands on: per branch, the pure steps before them."""
        kept = Scope()
        cuts: dict[bytes, int] = {}
        for record in self.index.values():
            if record.seq in culprits:
                branch = record.place[1]
                cuts[branch] = min(cuts.get(branch, record.seq), record.seq)
        if not cuts:
            return kept
        for place, record in self.index.items():
            if record.end and not record.effect and record.seq < cuts.get(place[1], record.seq + 1):
                kept.index[place] = record
        kept.repeats = set(self.repeats)
        return kept


class Records:
    """All records of a run."""

    def __init__(self, rows: Iterable[StepRow], identify: Identify) -> None:
        self._identify = identify
        self.scopes: dict[bytes, Scope] = {}
        self._owners: dict[bytes, tuple[Record, int]] = {}
        self._stable_of: dict[bytes, bytes] = {}
        self.last = 0
        #: Recorded attempts of the flow itself.
        self.root: Record | None = None
        self.spoke = False
        self._fold(rows)
        self._spread_effects()
        #: Ended, reachable records in journal order: the order of delivery.
        self.order = self._reachable()

    def _fold(self, rows: Iterable[StepRow]) -> None:
        scopes, openers = self.scopes, list[Record]()
        for row in rows:
            scope = scopes.get(row.scope)
            if scope is None:
                scope = scopes[row.scope] = Scope()
            record = scope.add(row)
            self.last = row.id
            event = row.event
            if event in ("started", "intent") and not record.identity:
                record.identity = self._identify(record.scope, record.place)
                openers.append(record)
            if row.kind == "model":
                self.spoke = True
        root = scopes.get(ROOT)
        if root is not None:
            self.root = root.index.pop((ROOT, ROOT, 0), None)
        if self.root is not None:
            for attempt in range(1, self.root.attempts + 1):
                self._own(self.root, attempt)
        for record in openers:  # in journal order, so that the step around one comes before it
            record.stable = self._identify(self._stable_of.get(record.scope, record.scope), record.place)
            self._owners.setdefault(record.stable, (record, record.attempts))
            for attempt in range(record.attempts + 1):
                self._own(record, attempt)
        self._hand_on([*openers, *([self.root] if self.root else [])])

    def _own(self, record: Record, attempt: int) -> None:
        scope = attempt_scope(self._identify, record.identity, attempt)
        self._owners[scope] = (record, attempt)
        self._stable_of[scope] = record.stable

    def _hand_on(self, openers: list[Record]) -> None:
        """Give each attempt what the one before left to it."""
        for record in openers:
            if not record.attempts:
                continue
            culprits = frozenset(record.details().get("culprits", ()))
            before = self.scopes.get(attempt_scope(self._identify, record.identity, record.attempts - 1))
            if before is not None and culprits:
                now = attempt_scope(self._identify, record.identity, record.attempts)
                kept = before.carry(culprits)
                scope = self.scopes.setdefault(now, Scope())
                for place, old in kept.index.items():
                    scope.index.setdefault(place, old)
                scope.repeats |= kept.repeats

    def _spread_effects(self) -> None:
        """A step whose recorded subtree contains an effect counts as one, in the branch that called it."""
        for identity in [identity for identity, scope in self.scopes.items() if scope.effects]:
            here = identity
            while (owner := self._owners.get(here)) is not None and owner[0] is not self.root:
                record = owner[0]
                here = self._stable_of.get(record.scope, record.scope)
                parent = self.scopes.setdefault(here, Scope())
                parent.effects.setdefault(record.place[1], {}).setdefault(record.effects, record.place)
                record.effect = True

    def _reachable(self) -> list[Record]:
        live: dict[bytes, bool] = {ROOT: self.root is None or not self.root.attempts}

        def is_live(scope: bytes) -> bool:
            known = live.get(scope)
            if known is None:
                owner = self._owners.get(scope)
                known = owner is not None and owner[1] == owner[0].attempts and is_open(owner[0])
                live[scope] = known
            return known

        def is_open(record: Record) -> bool:
            return record is self.root or (not record.end and is_live(record.scope))

        def is_wanted(scope: bytes, record: Record) -> bool:
            if record.end and is_live(scope):
                return True
            owner = self._owners.get(scope)  # an effect counts for every attempt of the step around it
            around = self.root if scope == ROOT else owner and owner[0]
            return record.end and record.direct and (around is None or is_open(around))

        order = {
            record.seq: record
            for identity, scope in self.scopes.items()
            for record in scope.index.values()
            if is_wanted(identity, record)
        }
        return [order[seq] for seq in sorted(order)]


Identify = Callable[[bytes, Place], bytes]


def attempt_scope(identify: Identify, identity: bytes, attempt: int) -> bytes:
    """The scope of one attempt of a step: the step's identity, or a digest of it and the attempt's number."""
    return identify(identity, (b"#", b"", attempt)) if attempt else identity
