"""Commits of a run with several concurrent branches: together, batch by batch, in the order of their rows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING

from agentflow.engine.delivery import when_settled
from agentflow.engine.runtime import NO_EXTRAS, Extras, writer

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun
    from agentflow.model.steps import StepRow


@dataclass(slots=True)
class _Request:
    rows: list[StepRow]
    extras: Extras | None
    turn: asyncio.Future[None]


class GroupCommit:
    """Commits of a run with several branches: what ends before the loop settles is one batch, in one transaction.

    One batch at a time, so that the order in which values reach their callers is the order of the rows.
    """

    def __init__(self) -> None:
        self._waiting: list[_Request] = []
        self._flushing = False
        self._hop: asyncio.Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether rows are on their way."""
        return bool(self._waiting) or self._flushing

    async def drained(self) -> None:
        """Return when nothing is on its way any more."""
        while self.busy:
            last = self._waiting[-1].turn if self._waiting else self._hop
            if last is not None:
                await asyncio.wait([last])

    async def commit(self, run: ActiveRun, rows: list[StepRow], extras: Extras | None) -> None:
        """Return when the rows are committed and it is their turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        if not self.busy:
            when_settled(loop, partial(self._flush, run, loop))
        self._waiting.append(_Request(rows, extras, turn))
        await turn

    def _flush(self, run: ActiveRun, loop: asyncio.AbstractEventLoop) -> None:
        if run.readings.busy:
            run.readings.after(partial(self._flush, run, loop))
            return
        batch, self._waiting = self._waiting, []
        rows = [row for request in batch for row in request.rows]
        if len(rows) > 1:
            first = rows[0].id
            rows = [row._replace(batch=first) for row in rows]
        extras = reduce(Extras.__add__, (request.extras for request in batch if request.extras), NO_EXTRAS)
        try:
            done = extras is NO_EXTRAS and run.journal.try_append(run.number, run.epoch, rows)
        except BaseException as error:
            _tell(batch, error)
            return
        if done:
            _tell(batch, None)
            return
        self._flushing = True
        append = partial(run.journal.append, run.number, run.epoch, rows, **extras.options())
        hop = self._hop = loop.run_in_executor(writer(), append)
        hop.add_done_callback(lambda hop: self._landed(run, loop, batch, hop))

    def _landed(
        self,
        run: ActiveRun,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Request],
        hop: asyncio.Future[None],
    ) -> None:
        if run.readings.busy:
            run.readings.after(partial(self._landed, run, loop, batch, hop))
            return
        self._flushing = False
        _tell(batch, hop.exception())
        if self._waiting:
            when_settled(loop, partial(self._flush, run, loop))


def _tell(batch: list[_Request], error: BaseException | None) -> None:
    for request in batch:
        if request.turn.done():
            continue
        if error is None:
            request.turn.set_result(None)
        else:
            request.turn.set_exception(error)
