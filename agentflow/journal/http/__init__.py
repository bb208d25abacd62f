"""The journal behind a server: a worker beside the user's data, with nothing but an address and an API key.

Every verb is a request; the server has the store. A request that changes something has a number, so that it can be
sent again when its answer was lost. Not here: the other end (`agentflow.server.journal`), what travels
(`agentflow.journal.wire`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import orjson

from agentflow.errors import DecisionRefusedError, Fenced, JournalOpenError, JournalUnavailable
from agentflow.journal.http.appends import Append, Appends
from agentflow.journal.http.line import Answer, Line
from agentflow.journal.http.session import Keeper, Session
from agentflow.journal.protocol import CacheRow
from agentflow.journal.protocol.retention import Pruned
from agentflow.journal.wire import VERBS, Asked, Verb, protocol
from agentflow.model.runs import Run
from agentflow.model.steps import StepRow

LEASE = 30.0
"""Seconds after which the server gives a process up that it does not hear of."""
PATIENCE = 30.0
"""Seconds for which a verb tries to reach a server that is away."""
REPLY = 20.0
"""Seconds after which an answer is not waited for any more, and the request is sent once more."""
_LOST = "another process has taken this run over"
_FORKED = (
    "a forked process cannot use its parent's journal; call tasks in the parent, or start processes by spawn"
)
#: About how many bytes of a row are not its value.
_ROW = 400
_OK, _REFUSED, _OVER = 200, 403, 410

#: What others of this process wake up for at once; of what other processes do, the server tells.
_NEWS = frozenset(
    {
        "create_run", "claim_run", "claim_runs", "release_run", "set_state", "request_cancel", "reopen_run",
        "fork_run", "open_wait", "decide", "withdraw_wait", "send_event", "set_limit", "delete_limit", "reset_limit",
        "release_slots", "unlock_key", "bind_run", "save_deployment", "pause_deployment", "delete_deployment",
    }
)  # fmt: skip
Claim = tuple[int, int]
"""A run's number and its epoch."""


class HttpJournal:
    """See `agentflow.journal.protocol.Journal`; most of its verbs are made below from the table of the wire.

    `lease`, `patience`, `reply`: seconds. Raises `JournalOpenError` where there is no server, or it does not know the
    key.
    """

    def __init__(
        self,
        url: str,
        key: bytes,
        api_key: str,
        *,
        lease: float = LEASE,
        patience: float = PATIENCE,
        reply: float = REPLY,
    ) -> None:
        self.line = Line(url, api_key, patience=patience, reply=reply)
        self.key, self.url, self.address = key, self.line.url, url
        #: None: this machine and the server share no folder.
        self.beside: Path | None = None
        try:
            self._check_server()
        except BaseException:
            self.line.close("the journal is closed")
            raise
        self._listeners: list[Callable[[], None]] = []
        worker = f"{socket.gethostname()}:{os.getpid()}"
        self._keeper = Keeper(self.line, worker, lease, self._tell)
        self._appends = Appends(self._send_appends)
        #: First rows of what may be stored: the server was away for too long.
        self._doubtful: set[int] = set()
        #: In which session a run was claimed.
        self._claims: dict[Claim, Session] = {}
        _journals.add(self)

    def _check_server(self) -> None:
        try:
            answer, _ = self.line.ask("", lambda _: None, patience=0.0)
        except JournalUnavailable as error:
            message = f"{str(error).partition(';')[0]}; start it there with: agentflow serve"
            raise JournalOpenError(message) from None
        if answer.status != _OK:
            raise JournalOpenError(f"{self.url}: {answer.message}")
        try:
            told = orjson.loads(answer.body)
            theirs, self.identity = told["protocol"], str(told["identity"])
        except (ValueError, KeyError, TypeError):
            raise JournalOpenError(
                f"{self.url} is no agentflow server; use the address that it prints"
            ) from None
        if theirs != protocol():
            message = f"{self.url} runs another version of agentflow; install the same one on both sides"
            raise JournalOpenError(message)

    # -- what is not a verb of a noun
    def version(self) -> int:
        answer, _ = self.line.ask("/version", lambda _: None)
        return int(orjson.loads(_good(answer))["version"])

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(callback)
        self._keeper.watch()
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def hears(self) -> bool:
        return self._keeper.listening

    def close(self) -> None:
        if not self.line.closed:
            self._keeper.close()
            self.line.close("the journal is closed")

    def leave_to_parent(self) -> None:
        """Forbid its use in a forked process."""
        self.line.leave_to_parent(_FORKED)
        self._keeper.leave_to_parent()
        self._appends.leave_to_parent()

    def _tell(self) -> None:
        for callback in tuple(self._listeners):
            callback()

    # -- verbs that are not simply sent
    def try_append(self, number: int, epoch: int, rows: Sequence[StepRow]) -> bool:
        """There is always somebody to wait for."""
        del number, epoch, rows
        return False

    def append(
        self,
        number: int,
        epoch: int,
        rows: Sequence[StepRow],
        *,
        durable: bool = False,
        cache: Sequence[CacheRow] = (),
        consumed: Sequence[str] = (),
        released: Sequence[str] = (),
    ) -> None:
        session = self._session_of((number, epoch))
        values = (row.value for row in (*rows, *cache))
        size = sum(_ROW + len(value or b"") for value in values)
        arguments = {"number": number, "epoch": epoch, "rows": rows}
        options = {"durable": durable, "cache": cache, "consumed": consumed, "released": released}
        arguments |= {name: value for name, value in options.items() if value}
        first = rows[0].id if rows else 0
        try:
            self._appends.add(Append(session, arguments, size, repeat=first in self._doubtful))
        except JournalUnavailable:
            self._doubtful.add(first)
            raise
        self._doubtful.discard(first)

    def prune_runs(
        self, ended_before: float, *, after: int = 0, limit: int = 100, dry_run: bool = False
    ) -> Pruned:
        """Nothing: what is removed, and when, is decided where the server is."""
        del ended_before, after, limit, dry_run
        return Pruned()

    # -- sending
    def session(self) -> Session:
        """What the server knows this process by. Raises `JournalUnavailable`."""
        return self._keeper.session()

    def ask(self, verb: Verb, arguments: Mapping[str, Any]) -> Any:
        """What a verb comes to at the server."""
        if verb.reads:
            body = verb.request_bytes([Asked(arguments)])
            answer, _ = self.line.ask(f"/verbs/{verb.name}", lambda _: body)
            return _told(verb.reply_from(_good(answer))[0])
        claim = _claim(verb, arguments)
        while True:
            session = self.session() if claim is None else self._session_of(claim)
            outcomes = self.send(verb, session, [Asked(arguments)])
            if outcomes is not None:
                result = _told(outcomes[0])
                self._note(verb, arguments, result, session)
                if verb.name in _NEWS:
                    self._tell()
                return result
            if claim is not None:
                raise Fenced(_LOST)

    def release_run(self, run: Run) -> None:
        """Own it no longer; what was lost need not be given back."""
        session = self._claims.get((run.number, run.epoch))
        if session is None or not session.over:
            with suppress(Fenced):
                self.ask(VERBS["release_run"], {"run": run})

    def send(self, verb: Verb, session: Session, calls: Sequence[Asked]) -> list[Any] | None:
        """What the calls came to; None where the session is over, and nothing was done.

        Raises `JournalUnavailable` where that is not known.
        """
        serials = [session.numbered() for _ in calls]

        def body(again: bool) -> bytes:  # noqa: FBT001 - the only thing that it is told
            asked = [
                Asked(call.arguments, serial, again or call.repeat)
                for call, serial in zip(calls, serials, strict=True)
            ]
            return verb.request_bytes(asked, session.known)

        try:
            answer, again = self.line.ask(f"/verbs/{verb.name}", body, session=session.id)
        finally:
            for serial in serials:
                session.settled(serial)
        if answer.status == _OVER:
            session.over = True
            if again and verb.name not in _CLAIMS:
                message = f"the server had given this process up when {verb.name} was sent again; look at what it did"
                raise JournalUnavailable(message)
            return None
        return verb.reply_from(_good(answer))

    def _send_appends(self, batch: Sequence[Append]) -> Sequence[BaseException | None]:
        try:
            calls = [Asked(request.arguments, repeat=request.repeat) for request in batch]
            outcomes = self.send(VERBS["append"], batch[0].session, calls)
        except JournalUnavailable as error:
            return [JournalUnavailable(str(error)) for _ in batch]
        return [Fenced(_LOST) for _ in batch] if outcomes is None else outcomes

    def _session_of(self, claim: Claim) -> Session:
        """The session that owns a run. Raises `Fenced` where that is over."""
        session = self._claims.get(claim)
        if session is None:
            return self.session()
        if session.over:
            raise Fenced(_LOST)
        return session

    def _note(self, verb: Verb, arguments: Mapping[str, Any], result: Any, session: Session) -> None:
        """Remember in which session a run was claimed, for as long as it is owned."""
        if verb.name in ("create_run", "claim_run", "claim_runs"):
            runs = cast("list[Run]", result if isinstance(result, list) else [result])
            self._claims |= {(run.number, run.epoch): session for run in runs if run.owner}
        elif verb.name == "release_run" or (verb.name == "set_state" and arguments.get("release")):
            self._claims.pop(_claim(verb, arguments) or (0, 0), None)


def _good(answer: Answer) -> bytes:
    """The body of an answer that is no refusal."""
    if answer.status == _REFUSED:
        raise DecisionRefusedError(answer.message)
    if answer.status != _OK:
        raise JournalUnavailable(f"the server refuses this: {answer.message}")
    return answer.body


def _told(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _claim(verb: Verb, arguments: Mapping[str, Any]) -> Claim | None:
    return _CLAIMS[verb.name](arguments) if verb.name in _CLAIMS else None


#: Verbs that only the owner of a run may ask for, and which claim of a run they need.
_CLAIMS: Mapping[str, Callable[[Mapping[str, Any]], Claim | None]] = {
    "append": lambda given: (given["number"], given["epoch"]),
    "start_effect": lambda given: (given["number"], given["epoch"]),
    "set_state": lambda given: (given["number"], given["epoch"]),
    "bind_run": lambda given: (given["number"], given["epoch"]),
    "release_run": lambda given: (given["run"].number, given["run"].epoch),
    "open_wait": lambda given: (given["wait"].run, given["epoch"]),
    "withdraw_wait": lambda given: (given["wait"].run, given["epoch"]),
    "claim_slots": lambda given: (given["claim"].run, given["claim"].epoch) if given["claim"].run else None,
    "lock_key": lambda given: (given["lock"].run, given["lock"].epoch),
}


def _sent(verb: Verb) -> Callable[..., Any]:
    def send(self: HttpJournal, *args: Any, **kwargs: Any) -> Any:
        return self.ask(verb, verb.bound(args, kwargs))

    send.__name__ = verb.name
    return send


for _name, _verb in VERBS.items():
    if _name not in vars(HttpJournal):
        setattr(HttpJournal, _name, _sent(_verb))

_journals: WeakSet[HttpJournal] = WeakSet()


def _leave_to_parent() -> None:
    for journal in tuple(_journals):
        journal.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)

__all__ = ["HttpJournal"]
