"""A tool call that is about a run: follow it, ask on the way, say what became of it - within the client's patience.

The call is not the run: it may end early (the client gave up, the patience is over), and the run goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from fastmcp.tools import InputRequiredToolResult, ToolResult

from agentflow.mcp import asking
from agentflow.mcp.callers import Caller
from agentflow.mcp.following import Bell, Follower, Sight, listening
from agentflow.mcp.results import status_result
from agentflow.mcp.sealing import Continuation, Keys, call_digest
from agentflow.model.runs import Run
from agentflow.model.steps import LogRow
from agentflow.workers.inline import Worker

#: With less than this share of the patience left, a person would only see the form disappear.
_LEAST_FOR_A_PERSON = 0.2


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may last, in seconds. Many clients give up after 60."""

    #: Until a run that still works is left to itself.
    run: float = 45.0
    #: Until a question that a legacy client shows is left open, counted from the call's start.
    question: float = 50.0
    #: How long a call of a client that knows tasks waits for the result itself before it becomes a task.
    task: float = 0.5


@dataclass(frozen=True, slots=True)
class Desk:
    """What every tool needs: the worker, where its pages are, and how long to wait."""

    worker: Worker
    base_url: str
    patience: Patience
    keys: Keys


@dataclass(slots=True)
class RunCall:
    """One call of a tool, by one client, about one run."""

    desk: Desk
    caller: Caller
    tool: str
    arguments: dict[str, Any]
    #: Makes the result of a run that has completed.
    finish: Callable[[Run], ToolResult]
    #: Makes the result of a run that has not; None: a tool error where it has ended.
    status: Callable[[Sight], ToolResult] | None = None
    seconds: float = 0.0

    async def follow(self, run_id: str, continuation: Continuation | None) -> ToolResult:
        """Follow the run to a result. `continuation` is what a retried call brought with it."""
        worker = self.desk.worker
        self.seconds = self.seconds or self.desk.patience.run
        try:
            async with listening(worker.journal, worker.options.settings.poll_interval) as bell:
                follower = Follower(worker.journal, run_id, bell, self._tell)
                faults: dict[str, str] = {}
                if continuation is None:
                    continuation = Continuation(call=call_digest(self.tool, self.arguments), run_id=run_id)
                else:
                    await follower.skip()
                    continuation, faults = await asking.take_round(worker.journal, continuation, self.caller)
                    worker.interrupt()
                return await self._to_the_end(follower, continuation, faults, bell)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._note_departure, run_id)
            raise

    async def _to_the_end(
        self, follower: Follower, continuation: Continuation, faults: dict[str, str], bell: Bell
    ) -> ToolResult:
        begun = time.monotonic()
        aside = set(continuation.aside)
        while True:
            left = self.seconds - (time.monotonic() - begun)
            sight = await follower.until(left, stop=partial(self._is_news, moment=time.time() + left))
            questions = [wait for wait in sight.questions if wait.id not in aside]
            if not self._can_ask(sight, continuation) or not questions:
                return self._result(sight)
            if self.caller.modern:
                return InputRequiredToolResult(
                    asking.round_of_questions(continuation, questions, self.desk.keys, faults)
                )
            left = self.desk.patience.question - (time.monotonic() - begun)
            if left < self.desk.patience.question * _LEAST_FOR_A_PERSON:
                return self._result(sight)
            answered = await asking.ask_now(self.desk.worker.journal, questions[0], self.caller, bell, left)
            if not answered:
                aside.add(questions[0].id)
            self.desk.worker.interrupt()

    def _is_news(self, sight: Sight, *, moment: float) -> bool:
        return sight.asks(time.time()) or sight.sleeps_beyond(moment)

    def _can_ask(self, sight: Sight, continuation: Continuation) -> bool:
        return (
            self.caller.shows_forms and sight.asks(time.time()) and continuation.rounds < asking.MOST_ROUNDS
        )

    def _result(self, sight: Sight) -> ToolResult:
        if sight.run.result is not None:
            return self.finish(sight.run)
        if self.status is not None:
            return self.status(sight)
        return status_result(sight.run, sight.waits, self.desk.base_url)

    async def _tell(self, ended: int, name: str) -> None:
        await self.caller.session.report_progress(ended, None, name)

    def _note_departure(self, run_id: str) -> None:
        """The client cancelled the call, gave up or vanished: the run's log says so, the run goes on.

        Clients send the same signal for "stop" as for "I waited too long", and a durable run must survive the latter;
        `cancel_run` and ``tasks/cancel`` mean the run.
        """
        journal = self.desk.worker.journal
        run = journal.get_run(run_id)
        if run is not None and not run.state.is_final:
            text = f"{self.caller.name} no longer waits for this call; the run goes on (cancel_run stops it)"
            journal.add_logs([LogRow(run.number, time.time(), logging.INFO, "agentflow.mcp", "", text)])
