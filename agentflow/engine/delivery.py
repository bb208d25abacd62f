"""Order between concurrent branches: values reach their callers in journal order, in every life alike.

Branches of a gather may append what they get to one list; a replay must fill that list in the same order. So results
are handed out batch by batch, and the next batch only when the loop has settled: when all that the one before has
set in motion has happened. On replay a record waits until it is the lowest that nobody has received; live results and
effects wait until the records are used up. After a quiet spell the lowest outstanding record goes first, so that
changed code cannot deadlock.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from typing import Any

from agentflow.engine.records import Record, Records

_MOST_TURNS = 24
_NAP = 0.002
_NAPS = 12


def when_settled(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    """Call `then` once nothing else is ready to run on the loop, or after so many turns at the most."""
    ready: Sequence[Any] | None = getattr(loop, "_ready", None)
    turns = 0

    def look() -> None:
        nonlocal turns
        turns += 1
        if turns >= _MOST_TURNS or (ready is not None and not ready):
            then()
        else:
            loop.call_soon(look)

    loop.call_soon(look)


class Delivery:
    """The queue of one run on its event loop. All methods run on that loop."""

    def __init__(self, records: Records | None) -> None:
        self._records = records
        self._next = 0
        self._heap: list[tuple[int, int, asyncio.Future[None], Record]] = []
        self._holds: list[asyncio.Future[None]] = []
        self._pumping = False
        self._naps = 0
        self._count = 0

    @property
    def order(self) -> Sequence[Record]:
        """What is to be delivered, in its order."""
        return () if self._records is None else self._records.order

    def expected(self) -> Record | None:
        """The lowest record that nobody has received."""
        order, position = self.order, self._next
        while position < len(order) and order[position].claimed == Record.DELIVERED:
            position += 1
        self._next = position
        return order[position] if position < len(order) else None

    @property
    def busy(self) -> bool:
        """Whether something is still to be delivered or released."""
        return bool(self._heap or self._holds)

    async def deliver(self, loop: asyncio.AbstractEventLoop, record: Record) -> None:
        """Return when it is `record`'s turn."""
        turn = loop.create_future()
        self._count += 1
        heapq.heappush(self._heap, (record.seq, self._count, turn, record))
        self._start(loop)
        await turn

    async def settled(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when no record is left to be delivered first."""
        if self.expected() is not None:
            turn = loop.create_future()
            self._holds.append(turn)
            self._start(loop)
            await turn

    def release(self) -> None:
        """Let everybody go (the run is being fenced)."""
        self._let_go()
        while self._heap:
            _resolve(heapq.heappop(self._heap)[2])

    def _let_go(self) -> None:
        for turn in self._holds:
            _resolve(turn)
        self._holds.clear()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._naps = 0
        if not self._pumping:
            self._pumping = True
            when_settled(loop, lambda: self._pump(loop))

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        patient = self._naps < _NAPS
        moved = bool(self._heap) and self._hand_out(patient=patient)
        if not self._heap and self._holds and (self.expected() is None or not patient):
            self._let_go()
        if not self._heap and not self._holds:
            self._pumping = False
        elif moved:
            self._naps = 0
            when_settled(loop, lambda: self._pump(loop))
        else:
            self._naps += 1
            loop.call_later(_NAP, when_settled, loop, lambda: self._pump(loop))

    def _hand_out(self, *, patient: bool) -> bool:
        """Deliver the next batch: what was committed together goes together, when all of it has been asked for."""
        expected = self.expected()
        lowest = self._heap[0][3]
        count = 1
        if expected is lowest:
            batch = [record for record in self._batch(lowest.batch) if record.claimed != Record.DELIVERED]
            asked = sum(record.claimed == Record.ASKED for record in batch)
            if asked < len(batch) and patient:
                return False
            count = asked or 1
        elif patient and expected is not None and expected.seq < lowest.seq:
            return False
        for _ in range(min(count, len(self._heap))):
            _, _, turn, record = heapq.heappop(self._heap)
            record.claimed = Record.DELIVERED
            _resolve(turn)
        return True

    def _batch(self, batch: int) -> list[Record]:
        found: list[Record] = []
        for position in range(self._next, len(self.order)):
            if self.order[position].batch != batch:
                break
            found.append(self.order[position])
        return found


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
