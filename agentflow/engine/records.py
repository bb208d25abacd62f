"""What an earlier life of a run recorded, indexed for replay.

A record is one step; its rows are folded into it. Records are grouped by scope (the enclosing step's attempt) and found
by ``(key, branch, occurrence)``. Only what is still reachable takes part in replay: nothing below a finished step, and
nothing of an earlier attempt, except what that attempt hands on to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar

import orjson

from agentflow.engine.handing_on import Handed, hand_down
from agentflow.model.steps import StepEvent, StepRow
from agentflow.payloads.digests import Hasher

Place = tuple[bytes, bytes, int]
"""(key, branch, occurrence): where a call stands within its scope."""

_ENDS = frozenset(event.value for event in StepEvent if event.is_end)
_COMMON = ("completed", "task")
_OPENS = ("started", "intent")
_ROLLED_BACK = ("rolling_back", "rolled_back")
_FAILURES = ("failed", "not_done", "unknown")
ROOT = b""


class Record:
    """One recorded step: its place and its last row."""

    ASKED: ClassVar = 1
    DELIVERED: ClassVar = 2
    #: 0 nobody has asked for it yet, else ASKED or DELIVERED.
    claimed: int = 0
    #: Failed attempts before the one that counts, and the rows that say so.
    attempts: int = 0
    failures: Mapping[int, StepRow] = MappingProxyType({})
    #: Where it, a side effect, failed (sequences): attempts around it saw one each.
    failed_at: tuple[int, ...] = ()
    #: How often it was refused, or failed by a person's word.
    refusals: int = 0
    #: How often it, a side effect, was about to start.
    intents: int = 0
    #: Digests of the step for its own attempt and over all attempts; known where something may be recorded below it.
    identity: bytes = b""
    stable: bytes = b""
    #: Whether it is a side effect itself; whether it is one or contains one.
    direct: bool = False
    effect: bool = False
    #: The scope in which it counts now, if a later attempt has taken it over from the one that it was recorded in.
    home: bytes | None = None

    def __init__(self, row: StepRow, place: Place) -> None:
        self.place = place
        self.row: StepRow = row
        if row[9]:
            self.direct = self.effect = True
        if row[1] != "started":
            self._note(row)

    @property
    def event(self) -> str:
        """What its last row says."""
        return self.row[1]

    @property
    def end(self) -> bool:
        """Whether it has ended."""
        return self.row[1] in _ENDS

    @property
    def is_transaction(self) -> bool:
        """Whether it is a transaction: its code runs in every life, so what is in it counts although it has ended."""
        return self.row[2] == "transaction"

    @property
    def is_rolled_back(self) -> bool:
        """Whether it is a transaction that is, or is being, rolled back."""
        return self.row[1] in _ROLLED_BACK

    @property
    def seq(self) -> int:
        """Its position in the run's journal."""
        return self.row[0] & 0xFFFFFFFF

    def fold(self, row: StepRow) -> None:
        """Take in another row of the same step."""
        if row.event == "started":
            return
        self._note(row)
        if row.detail is None and self.row.detail is not None:
            row = row._replace(detail=self.row.detail)
        self.row = row

    def _note(self, row: StepRow) -> None:
        if row.event == "attempt":
            self.attempts = row.attempt + 1
            self.failures = {**self.failures, row.attempt: row}
        elif row.event == "intent":
            self.intents += 1
        elif row.effect and row.event in _FAILURES:
            self.failed_at += (row.id & 0xFFFFFFFF,)
            self.refusals += row.event == "failed"

    @property
    def scope(self) -> bytes:
        """The scope it was recorded in."""
        return self.row.scope

    @property
    def name(self) -> str:
        """The step's name."""
        return self.row.name

    @property
    def effects(self) -> int:
        """How many effects its branch had asked for before it."""
        return self.row.effects

    @property
    def batch(self) -> int:
        """Equal for what was committed together."""
        return self.row.batch

    @property
    def value(self) -> bytes | None:
        """Its encoded value or exception."""
        return self.row.value

    def details(self) -> dict[str, Any]:
        """The parsed detail of its last row that has one."""
        return orjson.loads(self.row.detail) if self.row.detail else {}


class Scope:
    """The records of one scope."""

    __slots__ = ("effects", "index", "repeats")

    def __init__(self) -> None:
        self.index: dict[Place, Record] = {}
        #: Per branch, the places of effects (and of steps that contain one) by how many effects came before them.
        self.effects: dict[bytes, dict[int, Place]] = {}
        #: (key, branch) pairs that occur more than once.
        self.repeats: set[tuple[bytes, bytes]] = set()

    def add(self, row: StepRow, claimed: int = 0) -> Record:
        """Fold a row into its record, which is `claimed` then: nobody sees it otherwise."""
        place = row[5:8]
        record = self.index.get(place)
        if record is None:
            record = Record(row, place)
            record.claimed = claimed
            self.index[place] = record
            if row[7]:
                self.repeats.add((row.key, row.branch))
            if row[9]:
                self.effects.setdefault(row.branch, {})[row.effects] = place
        else:
            record.fold(row)
            record.claimed = claimed or record.claimed
        return record

    def elsewhere(self, place: Place) -> Record | None:
        """The only unclaimed ended pure record of that key in another branch or occurrence."""
        found = [
            record
            for record in list(self.index.values())  # other threads add to it
            if record.place[0] == place[0] and not record.claimed and not record.effect and record.end
        ]
        return found[0] if len(found) == 1 else None


class Standing:
    """What stands for a transaction over all attempts of the steps around it.

    The effects in it carry over to the next attempt, as effects do - unless it was rolled back: then they have been
    undone, and the next attempt has to ask for them anew.
    """

    def __init__(self) -> None:
        self._stable: dict[bytes, bytes] = {}
        self._base: dict[bytes, bytes] = {}
        #: By what would stand for any step in that place: the last one there, and whether it was rolled back.
        self._latest: dict[bytes, tuple[bytes, bool]] = {}

    def enter(self, identity: bytes, base: bytes) -> bytes:
        """The digest that stands for the effects of the transaction `identity`, which is in the place `base`."""
        known = self._stable.get(identity)
        if known is None:
            stable, undone = self._latest.get(base, (base, False))
            known = self._stable[identity] = identity if undone else stable
            self._base[identity] = base
            self._latest[base] = known, False
        return known

    def rolled_back(self, identity: bytes) -> None:
        """What stood for it stands for nothing any more."""
        if identity in self._base:
            self._latest[self._base[identity]] = self._stable[identity], True


class Records:
    """All records of a run."""

    def __init__(self, rows: Iterable[StepRow], identify: Identify) -> None:
        self.identify = identify
        self.scopes: dict[bytes, Scope] = {}
        self._owners: dict[bytes, tuple[Record, int]] = {}
        self._stable_of: dict[bytes, bytes] = {}
        self._by_stable: dict[bytes, list[Record]] = {}
        self.last = 0
        #: Steps whose attempts have been given what the ones before left to them.
        self.handed_down: set[Record] = set()
        #: Scopes that were given something before anything was recorded in them, and the scopes around them.
        self.around: dict[bytes, bytes] = {}
        #: Where the scopes of later attempts got from what they were given.
        self.handed: dict[bytes, Handed] = {}
        #: Culprits (their sequences) because of which the run, which had ended, goes on.
        self.again: set[int] = set()
        #: Recorded attempts of the flow itself.
        self.root: Record | None = None
        self.spoke = False
        self.standing = Standing()
        self._fold(rows)
        self._spread_effects()
        self._count_again(self._stable_of)

    def _fold(self, rows: Iterable[StepRow]) -> None:
        scopes, openers = self.scopes, list[Record]()
        here, index, scope = b"?", dict[Place, Record](), Scope()
        for row in rows:
            if row[4] != here:
                here = row[4]
                scope = scopes.get(here) or scopes.setdefault(here, Scope())
                index = scope.index
            place = row[5:8]
            self.last = row[0]
            if row[1:3] == _COMMON and not row[9] and not row[7] and place not in index:
                index[place] = Record(row, place)  # what most rows are
                continue
            record = scope.add(row)
            if (row[1] in _OPENS or row[2] == "transaction") and not record.identity:
                record.identity = self.identify(here, place)
                openers.append(record)
            if row[2] == "model" and row[1] in ("completed", "cached"):
                self.spoke = True
        self._find_owners(openers)

    def _find_owners(self, openers: list[Record]) -> None:
        """Say of each scope which attempt of which step it is; `openers` have scopes of their own."""
        root = self.scopes.get(ROOT)
        if root is not None:
            self.root = root.index.pop((ROOT, ROOT, 0), None)
        if self.root is not None:
            for attempt in range(1, self.root.attempts + 1):
                self._own(self.root, attempt)
        for record in openers:  # in journal order, so that the step around one comes before it
            self._open(record)
        for record in [*([self.root] if self.root else []), *openers]:
            hand_down(self, record)

    def _open(self, record: Record) -> None:
        record.stable = self.identify(self.stable_of(record.scope), record.place)
        if record.is_transaction:
            record.stable = self.standing.enter(record.identity, record.stable)
            if record.is_rolled_back:
                self.standing.rolled_back(record.identity)
        self._by_stable.setdefault(record.stable, []).append(record)
        self._owners.setdefault(record.stable, (record, record.attempts))
        for attempt in range(record.attempts + 1):
            self._own(record, attempt)

    def scope(self, identity: bytes) -> Scope:
        """What is recorded of a scope."""
        return self.scopes.get(identity) or self.scopes.setdefault(identity, Scope())

    def scope_of(self, record: Record, attempt: int) -> bytes:
        """The scope of an attempt of a recorded step."""
        return attempt_scope(self.identify, record.identity, attempt)

    def stable_of(self, scope: bytes) -> bytes:
        """The scope of side effects over all attempts, of the scope of one."""
        return self._stable_of.get(scope, scope)

    def owner(self, scope: bytes) -> Record | None:
        """The recorded step whose scope that is."""
        found = self._owners.get(scope)
        return None if found is None else found[0]

    def _own(self, record: Record, attempt: int) -> None:
        scope = self.scope_of(record, attempt)
        self._owners[scope] = (record, attempt)
        self._stable_of[scope] = record.stable

    def take(self, rows: Iterable[StepRow], before: bytes, stable: bytes) -> None:
        """Take in what this life has recorded below a scope; side effects have been noted when they were committed."""
        self._stable_of[before] = stable
        known, has_effects = {before, stable}, False
        for row in rows:
            if row.scope not in known:
                continue
            if row.effect:
                has_effects = True
                continue
            scope = self.scope(row.scope)
            record = scope.add(row, 0 if row[5:8] in scope.index else Record.DELIVERED)
            if row.event == "started" and not record.identity:
                record.identity = self.identify(row.scope, record.place)
                self._open(record)
            if record.identity:
                known |= {self.scope_of(record, attempt) for attempt in range(record.attempts + 1)}
                known.add(record.stable)
                self._own(record, record.attempts)
        if has_effects:
            self._spread_effects()
        self._count_again(known)

    def _spread_effects(self) -> None:
        """A step whose recorded subtree contains an effect counts as one, in the branch that called it.

        Every record of such a step: retries of the steps around it have one each.
        """
        queue = [identity for identity, scope in list(self.scopes.items()) if scope.effects]
        seen: set[bytes] = set()
        while queue:
            here = queue.pop()
            if here in seen:
                continue
            seen.add(here)
            for record in self._by_stable.get(here, ()):
                around = self.stable_of(record.scope)
                parent = self.scopes.setdefault(around, Scope())
                parent.effects.setdefault(record.place[1], {}).setdefault(record.row.effects, record.place)
                record.effect = True
                queue.append(around)

    def _count_again(self, identities: Iterable[bytes]) -> None:
        """A step that contains an effect counts as one in a later attempt, too, of the step around it.

        There nothing need be recorded below it: what it asked for was found, over all attempts.
        """
        for identity in identities:
            scope, effects = self.scopes.get(identity), self.scopes.get(self.stable_of(identity))
            if scope is None or effects is None or scope is effects:
                continue
            for branch in effects.effects.values():
                for place in branch.values():
                    record = scope.index.get(place)
                    if record is not None:
                        record.effect = True

    @cached_property
    def order(self) -> list[Record]:
        """Ended, reachable records in journal order: the order of delivery."""
        return sorted(self.reachable(), key=attrgetter("seq"))

    def reachable(self) -> list[Record]:
        """Ended records that a replay can ask for."""
        live: dict[bytes, bool] = {ROOT: self.root is None or not self.root.attempts}

        def is_live(scope: bytes) -> bool:
            known = live.get(scope)
            if known is None:
                owner = self._owners.get(scope)
                known = owner is not None and owner[1] == owner[0].attempts and is_open(owner[0])
                if owner is None and scope in self.around:
                    known = is_live(self.around[scope])
                live[scope] = known
            return known

        def is_open(record: Record) -> bool:
            if record is self.root:
                return True
            goes_on = not record.end or record.is_transaction
            return goes_on and is_live(record.scope if record.home is None else record.home)

        def is_wanted(scope: bytes, record: Record) -> bool:
            owner = self._owners.get(scope)  # an effect counts for every attempt of the step around it
            around = self.root if scope == ROOT else owner and owner[0]
            return record.end and record.direct and (around is None or is_open(around))

        order: list[Record] = []
        for identity, scope in list(self.scopes.items()):
            if is_live(identity):
                order += [record for record in list(scope.index.values()) if record.end]
            else:
                order += [record for record in list(scope.index.values()) if is_wanted(identity, record)]
        return order

    @cached_property
    def has_open_transaction(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return any(
            record.is_transaction and not record.end
            for scope in list(self.scopes.values())
            for record in list(scope.index.values())
        )

    def below(self, transaction: Record) -> Iterator[Record]:
        """What was recorded in a transaction, at any depth: not below others in it that have ended for themselves."""
        for identity, scope in list(self.scopes.items()):
            if self._leads_to(identity, transaction):
                yield from list(scope.index.values())

    def _leads_to(self, scope: bytes, transaction: Record) -> bool:
        while True:
            owner = self._owners.get(scope)
            if owner is None:
                return False
            if owner[0] is transaction:
                return True
            if owner[0].is_transaction and owner[0].event != "started" and "outer" not in owner[0].details():
                return False
            scope = owner[0].scope

    def unclaimed_effects(self) -> list[Record]:
        """Reachable side effects that this life has not asked for."""
        if not any(scope.effects for scope in list(self.scopes.values())):
            return []
        return [record for record in self.order if record.effect and not record.claimed]


def identity(hasher: Hasher, scope: bytes, place: Place) -> bytes:
    """The digest that stands for the step at `place` of `scope`."""
    key, branch, occurrence = place
    return hasher.digest(b"%b|%b|%b|%d" % (scope, key, branch, occurrence))


Identify = Callable[[bytes, Place], bytes]


def attempt_scope(identify: Identify, identity: bytes, attempt: int) -> bytes:
    """The scope of one attempt of a step: the step's identity, or a digest of it and the attempt's number."""
    return identify(identity, (b"#", b"", attempt)) if attempt else identity
