"""A worker's request carried out: what it may ask for, and every error of the tree told by its name. Blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any

from agentflow.errors import AgentflowError, Unwinding, UsageError
from agentflow.journal.protocol import Journal
from agentflow.journal.protocol.serving import SessionOver
from agentflow.journal.wire import BY_ROWS, Asked, Verb, is_sendable
from agentflow.model.steps import StepRow
from agentflow.model.waits import Decision, Verdict, Wait
from agentflow.server.journal.sessions import Served

#: How many calls that wait for the disk are carried out at once, of all requests that have more than one.
_AT_ONCE = 64
_TIME_IS_UP = Decision(Verdict.ELAPSED)


class Forbidden(Exception):
    """Nothing that a worker's key is for; the message says who can do it."""


def carry_out(
    verb: Verb, calls: Sequence[Asked], known: int, journal: Journal, session: Served | None, inbox: str
) -> list[object]:
    """What the calls came to: values, and errors to be told. Raises `Forbidden`, `SessionOver`."""
    if verb.reads:
        return [_outcome(verb, journal, call.arguments) for call in calls]
    if session is None:
        raise SessionOver
    for call in calls:
        _check(verb, call.arguments, journal, inbox)
    return _together([partial(_answer, verb, call, known, session) for call in calls], calls)


def _together(works: Sequence[Callable[[], object]], calls: Sequence[Asked]) -> list[object]:
    """What calls come to. Those that wait for the disk do so at once, so that the journal commits them together."""
    if len(works) == 1:
        return [works[0]()]
    others = {
        at: _threads().submit(works[at]) for at, call in enumerate(calls) if call.arguments.get("durable")
    }
    try:
        return [others[at].result() if at in others else work() for at, work in enumerate(works)]
    finally:
        wait(others.values())


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="agentflow-appends")


def _answer(verb: Verb, call: Asked, known: int, session: Served) -> object:
    def work() -> object:
        if call.repeat and verb.name in BY_ROWS and _are_stored(session.journal, call.arguments):
            return None
        return _outcome(verb, session.journal, call.arguments)

    return session.answer(call.serial, known, work)


def _outcome(verb: Verb, journal: Journal, arguments: Mapping[str, Any]) -> object:
    try:
        return getattr(journal, verb.name)(**arguments)
    except OverflowError:
        return UsageError("a number in the request is too large for the journal")
    except (AgentflowError, Unwinding, ValueError) as error:
        if is_sendable(error):
            return error
        if isinstance(error, ValueError):
            return ValueError(str(error))
        raise


def _are_stored(journal: Journal, arguments: Mapping[str, Any]) -> bool:
    """Whether a request whose answer was lost had been carried out: its rows are there, as they were sent."""
    rows: Sequence[StepRow] = arguments.get("rows") or [row for row in (arguments.get("row"),) if row]
    return bool(rows) and journal.steps(arguments["number"], rows[0].id - 1, len(rows)) == list(rows)


def _check(verb: Verb, arguments: Mapping[str, Any], journal: Journal, inbox: str) -> None:
    """Refuse to answer for a person: a worker tells that a time has come, and nothing else."""
    if verb.name == "open_wait":
        wait: Wait = arguments["wait"]
        if not wait.is_open or wait.decided is not None or wait.allowed_digest:
            message = "a worker asks; it cannot bring the answer with it"
            raise Forbidden(message)
    if verb.name == "decide":
        found = journal.get_wait(arguments["wait_id"])
        elapses = arguments["decision"] == _TIME_IS_UP and not arguments["allowed_digest"]
        if found is not None and not (elapses and found.due is not None):
            message = (
                f"a worker's key decides nothing; a person does, in the inbox: {inbox}/approvals/{found.id}"
            )
            raise Forbidden(message)
