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
from functools import partial
from typing import Any

from agentflow.engine.readings import Readings, carrier
from agentflow.engine.records import Record, Records
from agentflow.payloads.envelopes import Draft

_MOST_TURNS = 24
_NAP = 0.002
_NAPS = 12
#: What a nap counts during which something was on its way through another thread.
_NOT_QUIET = 0.02
Leaving = Callable[[], Sequence[asyncio.Future[Any]]]
"""Called when a record's turn has come, before it is delivered: has branches end, and gives those that have not yet."""

#: How many values, of those that follow, are opened while the next one is.
_AHEAD = 3


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
        #: Journal calls on their way in other threads: while there is one, it is hardly quiet.
        self.hops = 0
        self._nap: asyncio.TimerHandle | None = None
        #: What is on its way to readers, before whom nothing is delivered.
        self.readings = Readings()
        self._next = 0
        self._heap: list[
            tuple[int, int, asyncio.Future[None], Record, _Opening | None, _Departure | None]
        ] = []
        #: How many of those in the heap take long to open.
        self._far = 0
        #: How many of them wait for others to end.
        self._departing = 0
        self._holds: list[asyncio.Future[None]] = []
        self._pumping = False
        self._naps = 0.0
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

    async def deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        record: Record,
        function: Callable[[], Draft] | None = None,
        leaving: Leaving | None = None,
    ) -> Draft | None:
        """Return when it is `record`'s turn; with what `function` gives, which takes long.

        It is called in a thread, before that turn, so that what was committed together still comes together. For the
        same reason nothing is delivered until those have ended that are `leaving`; but after a quiet spell it is: what
        they wait for may wait for that.
        """
        turn = loop.create_future()
        opening = None if function is None else _Opening(function)
        self._far += opening is not None
        self._count += 1
        departure = None if leaving is None else _Departure(leaving, partial(self._look_again, loop))
        self._departing += departure is not None
        heapq.heappush(self._heap, (record.seq, self._count, turn, record, opening, departure))
        self._start(loop)
        await turn
        return None if opening is None else opening.draft()

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
        self._far = self._departing = 0

    def _let_go(self) -> None:
        for turn in self._holds:
            _resolve(turn)
        self._holds.clear()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._naps = 0.0
        if not self._pumping:
            self._pumping = True
            self._settle(loop)

    def _settle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._nap = None
        when_settled(loop, lambda: self._pump(loop))

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.readings.busy:
            self.readings.after(lambda: self._pump(loop))
            return
        patient = self._naps < _NAPS
        count = self._due(patient=patient) if self._heap else 0
        if count and self._far and self._open(loop, count):
            return
        if count and patient and self._departing and not self._have_left(count):
            self._wait(loop)
            return
        moved = count > 0
        self._hand_out(count)
        if not self._heap and self._holds and (self.expected() is None or not patient):
            self._let_go()
        if not self._heap and not self._holds:
            self._pumping = False
        elif moved:
            self._naps = 0.0
            self._settle(loop)
        else:
            self._wait(loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._nap is not None:
            self._nap.cancel()
            self._settle(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._naps += _NOT_QUIET if self.hops else 1
        self._nap = loop.call_later(_NAP, self._settle, loop)

    def _due(self, *, patient: bool) -> int:
        """How many are next: what was committed together goes together, when all of it has been asked for."""
        expected = self.expected()
        lowest = self._heap[0][3]
        count = 1
        if expected is lowest:
            batch = [record for record in self._batch(lowest.batch) if record.claimed != Record.DELIVERED]
            asked = sum(record.claimed == Record.ASKED for record in batch)
            if asked < len(batch) and patient:
                return 0
            count = asked or 1
        elif patient and expected is not None and expected.seq < lowest.seq:
            return 0
        return min(count, len(self._heap))

    def _have_left(self, count: int) -> bool:
        """Whether all have ended that are to before so many are handed out."""
        following = self._heap[:1] if count == 1 else heapq.nsmallest(count, self._heap)
        departures = [entry[5] for entry in following]
        return not sum(not departure.is_over() for departure in departures if departure is not None)

    def _hand_out(self, count: int) -> None:
        for _ in range(count):
            _, _, turn, record, opening, departure = heapq.heappop(self._heap)
            self._far -= opening is not None
            self._departing -= departure is not None
            record.claimed = Record.DELIVERED
            _resolve(turn)

    def _open(self, loop: asyncio.AbstractEventLoop, count: int) -> bool:
        """Open what is next, and some of what follows; True = the pump goes on when what is next is open."""
        missing = 0

        def opened(_: asyncio.Future[Draft]) -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                self._settle(loop)

        for position, entry in enumerate(heapq.nsmallest(count + _AHEAD, self._heap)):
            opening = entry[4]
            if opening is not None:
                found = opening.begun(loop)
                if position < count and not found.done():
                    missing += 1
                    found.add_done_callback(opened)
        return missing > 0

    def _batch(self, batch: int) -> list[Record]:
        found: list[Record] = []
        for position in range(self._next, len(self.order)):
            if self.order[position].batch != batch:
                break
            found.append(self.order[position])
        return found


class _Departure:
    """Branches that are to have ended before a record is delivered."""

    __slots__ = ("_leaving", "_left", "_then")

    def __init__(self, leaving: Leaving, then: Callable[[], None]) -> None:
        self._leaving, self._then = leaving, then
        self._left: Sequence[asyncio.Future[Any]] | None = None

    def is_over(self) -> bool:
        """Whether they have ended; they are told to when this is asked for the first time."""
        if self._left is None:
            self._left = self._leaving()
            for one in self._left:
                one.add_done_callback(lambda _: self._then())
        return all(one.done() for one in self._left)


class _Opening:
    """A value that is opened before its turn comes."""

    __slots__ = ("_found", "_function")

    def __init__(self, function: Callable[[], Draft]) -> None:
        self._function = function
        self._found: asyncio.Future[Draft] | None = None

    def begun(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Draft]:
        """The draft to be."""
        if self._found is None:
            self._found = loop.run_in_executor(carrier(), self._function)
            self._found.add_done_callback(_look)
        return self._found

    def draft(self) -> Draft | None:
        """It; None where it was not opened, because the run is being fenced. Raises what opening it raised."""
        found = self._found
        return found.result() if found is not None and found.done() else None


def _look(found: asyncio.Future[Draft]) -> None:
    if not found.cancelled():
        found.exception()  # nobody may be there any more to whom it could be raised


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
