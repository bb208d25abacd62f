"""The journal behind a server: answers that are lost, a server that is started anew, workers that are not heard of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from agentflow import flow
from agentflow.engine.active import Options
from agentflow.errors import Fenced, JournalOpenError, JournalUnavailable
from agentflow.journal.http import HttpJournal
from agentflow.journal.opening import open_journal
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.protocol import Journal
from agentflow.journal.protocol.serving import SessionOver, SessionRow
from agentflow.journal.sqlite import SqliteJournal
from agentflow.journal.sqlite.sessions import SqliteSession
from agentflow.journal.wire import VERBS, Asked, Verb, is_kept
from agentflow.model.lives import LifeEnd
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.steps import LogRow
from agentflow.model.waits import Wait, WaitKind
from agentflow.server.journal.sessions import Sessions
from agentflow.settings import Settings
from agentflow.workers.inline import InlineWorker
from tests.journal.http_server import HttpServer, Served
from tests.journal.postgres_driver import KEY, new, row
from tests.journal.postgres_server import PostgresServer
from tests.journal.tcp_proxy import TcpProxy
from tests.journal.test_leases import Process, until

ROOT = Path(__file__).parents[2]
LEASE = 1.0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.service)])
def served(request: pytest.FixtureRequest, http_server: HttpServer, tmp_path: Path) -> Iterator[Served]:
    """A journal behind a server."""
    journal: Journal = SqliteJournal(tmp_path / "j.db", KEY)
    if request.param == "postgres":
        journal.close()
        server: PostgresServer = request.getfixturevalue("postgres")
        journal = PostgresJournal(server.url(), KEY)
    made = http_server.serve(journal)
    yield made
    made.close()
    journal.close()


@pytest.fixture
def proxy(served: Served) -> Iterator[TcpProxy]:
    """Between a worker and that server."""
    with TcpProxy(urlsplit(served.url).port or 0) as made:
        yield made


@pytest.fixture
def worker(served: Served, proxy: TcpProxy) -> Iterator[HttpJournal]:
    """A worker's journal, through the proxy."""
    made = HttpJournal(proxy.through(served.url), KEY, served.key())
    yield made
    made.close()


@flow
def greeted() -> str:
    return "hello"


def journal_of(worker: HttpJournal) -> Journal:
    """With its verbs, most of which are made."""
    return cast("Journal", worker)


def an_event_wait(run: Run, name: str) -> Wait:
    """A question that the outside world answers."""
    return Wait(
        id=f"event-{run.number}-{name}", run=run.number, run_id=run.id, flow="f", step="", kind=WaitKind.EVENT,
        name=name, question={}, schema={}, digest="", policy="", opened=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_connection_that_is_cut_changes_nothing(
    served: Served, proxy: TcpProxy, worker: HttpJournal, fault: str
) -> None:
    """Whether the request did not arrive or its answer did not: it is sent again, and done once."""
    journal, cuts = journal_of(worker), 0

    def cut(verb: str, call: Callable[[], Any]) -> Any:
        nonlocal cuts
        cuts += 1
        proxy.arm(fault, f"/verbs/{verb} ")
        result = call()
        assert proxy.fired == cuts
        return result

    run = cut("create_run", lambda: journal.create_run(new("run")))
    assert journal.get_run("run") == run
    cut("append", lambda: journal.append(run.number, run.epoch, [row(run, 1)]))
    cut("start_effect", lambda: journal.start_effect(run.number, run.epoch, row(run, 2)))
    line = LogRow(run.number, 1.0, 20, "l", "s", "once")
    cut("add_logs", lambda: journal.add_logs([line]))
    cut("open_wait", lambda: journal.open_wait(run.epoch, an_event_wait(run, "a")))
    wait_id = cut("send_event", lambda: journal.send_event("run", "a", b"1", 1.0))
    assert wait_id == f"event-{run.number}-a"
    assert cut("send_event", lambda: journal.send_event("run", "b", b"2", 1.0)) is None
    cut("set_state", lambda: journal.set_state(run.number, run.epoch, StateType.COMPLETED, release=True))
    assert [found.id & 0xFF for found in served.journal.steps(run.number)] == [1, 2]
    assert [text for _, text in served.journal.logs(run.number)] == [line]
    assert [life.end for life in served.journal.lives(run.number)] == [LifeEnd.COMPLETED]
    cut("get_run", lambda: journal.get_run("run"))


@pytest.mark.parametrize("verb", ["send_event", "claim_run", "append"])
def test_a_request_is_carried_out_once_though_the_server_was_started_anew_in_between(
    served: Served, worker: HttpJournal, verb: str
) -> None:
    """The answer that it would have given is in the journal, too."""
    journal = journal_of(worker)
    run = journal.create_run(new("run"))
    other = journal.create_run(new("other"), state=StateType.PENDING)
    session = worker.session()
    arguments: dict[str, Any] = {
        "send_event": {"run_id": "run", "name": "a", "payload": b"1", "now": 1.0},
        "claim_run": {"run_id": other.id},
        "append": {"number": run.number, "epoch": run.epoch, "rows": [row(run, 1)]},
    }[verb]
    serial = session.numbered()

    def ask(*, again: bool) -> list[Any]:
        body = VERBS[verb].request_bytes([Asked(arguments, serial, again)])
        answer, _ = worker.line.ask(f"/verbs/{verb}", lambda _: body, session=session.id)
        return VERBS[verb].reply_from(answer.body)

    first = ask(again=False)
    served.close()
    served.open()
    assert ask(again=True) == ask(again=True) == first
    assert len(served.journal.steps(run.number)) == (verb == "append")
    opened = journal.open_wait(run.epoch, an_event_wait(run, "a"))
    assert (opened.decision is not None) == (verb == "send_event")
    claimed = served.journal.get_run(other.id)
    assert claimed is not None
    assert claimed.epoch == (1 if verb == "claim_run" else 0)
    assert served.journal.is_owned(claimed) == (verb == "claim_run")


def test_what_a_worker_owns_outlives_its_server(served: Served, worker: HttpJournal) -> None:
    """A server that is started anew owns in its stead what it owned, before anybody else could take it."""
    journal = journal_of(worker)
    run = journal.create_run(new("run"))
    served.close()
    appended = threading.Thread(target=lambda: journal.append(run.number, run.epoch, [row(run, 1)]))
    appended.start()
    served.open()
    appended.join()
    assert served.journal.is_owned(run)
    assert served.journal.due_runs(9.0) == []
    journal.set_state(run.number, run.epoch, StateType.COMPLETED, release=True)
    assert not served.journal.is_owned(run)


def test_appends_of_many_threads_travel_together(served: Served, worker: HttpJournal) -> None:
    """Whoever comes while a request is under way goes with the next; each hears what concerns it."""
    journal = journal_of(worker)
    runs = [journal.create_run(new(f"run-{number}")) for number in range(8)]
    requests: list[int] = []
    sent = worker.send

    def counted(verb: Any, session: Any, calls: Any) -> Any:
        requests.append(len(calls))
        return sent(verb, session, calls)

    worker.send = counted
    refused: list[BaseException] = []

    def write(run: Run) -> None:
        for sequence in range(1, 21):
            journal.append(run.number, run.epoch, [row(run, sequence)])
        try:
            journal.append(run.number, run.epoch, [row(run, 20)])
        except ValueError as error:
            refused.append(error)

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(requests) == 8 * 21
    assert len(requests) < sum(requests)
    assert len(refused) == 8
    assert [len(served.journal.steps(run.number)) for run in runs] == [20] * 8


def test_durable_appends_of_one_request_are_committed_together(served: Served, worker: HttpJournal) -> None:
    """In one transaction, each with an outcome of its own; asked for once more, none of them is done again."""
    journal, session = journal_of(worker), worker.session()
    runs = [journal.create_run(new(f"run-{number}")) for number in range(12)]
    serials = [session.numbered() for _ in runs]
    asked = [
        {"number": run.number, "epoch": run.epoch + (at == 5), "rows": [row(run, 1)], "durable": True}
        for at, run in enumerate(runs)
    ]
    outcomes: list[list[Any]] = []

    def ask(*, again: bool) -> None:
        calls = [Asked(arguments, serial, again) for arguments, serial in zip(asked, serials, strict=True)]
        body = VERBS["append"].request_bytes(calls)
        answer, _ = worker.line.ask("/verbs/append", lambda _: body, session=session.id)
        outcomes.append(VERBS["append"].reply_from(answer.body))

    request = threading.Thread(target=lambda: ask(again=False))
    if isinstance(served.journal, SqliteJournal):
        committer: Any = vars(served.journal)["_committer"]
        with committer.writing():  # nothing is committed before all of it waits
            request.start()
            until(lambda: len(committer._waiting) == len(runs))
    else:
        request.start()
    request.join()
    ask(again=True)
    for told in outcomes:
        assert [type(outcome) for outcome in told] == [Fenced if at == 5 else type(None) for at in range(12)]
    assert [len(served.journal.steps(run.number)) for run in runs] == [int(at != 5) for at in range(12)]


def test_a_request_that_is_nested_too_deeply_is_refused(served: Served, worker: HttpJournal) -> None:
    """In one line; the server and its journal go on."""
    run = journal_of(worker).create_run(new("run"))
    session = worker.session().id
    for path in ("/verbs/append", "/verbs/no_such", "/news", "/sessions"):
        for deep in (b'{"calls":' + b"[" * 100_000, b'{"calls":' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
            answer, _ = worker.line.ask(path, lambda _, body=deep: body, session=session)
            assert (answer.status in (400, 404, 422), answer.body[:1]) == (True, b"{"), (path, answer)
    deep_value = b"[" * 10_000 + b"]" * 10_000
    journal_of(worker).append(run.number, run.epoch, [row(run, 1)._replace(value=deep_value)])
    assert served.journal.steps(run.number)[0].value == deep_value


def test_a_worker_that_hears_of_news_hardly_asks(served: Served, worker: HttpJournal) -> None:
    """It looks once in a while only, and yet begins what is there at once."""
    asked: list[str] = []
    ask = worker.line.ask

    def counted(path: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(path)
        return ask(path, *args, **kwargs)

    worker.line.ask = counted
    settings = Settings(poll_interval=0.001)
    with InlineWorker(journal_of(worker), {"greeted": greeted}, options=Options(settings=settings)):
        until(worker.hears)
        until(lambda: "/verbs/due_runs" in asked)
        asked.clear()
        threading.Event().wait(0.5)
        assert len(asked) < 5
        run = served.journal.create_run(replace(new("hello"), flow="greeted"), state=StateType.PENDING)
        until(lambda: cast("Run", served.journal.get_run(run.id)).state is StateType.COMPLETED)


def test_a_server_that_stays_away_stops_the_run(served: Served) -> None:
    """After a bounded time, with what to do; once it is back, the same journal goes on, with every row once."""
    worker = HttpJournal(served.url, KEY, served.key(), patience=0.3)
    journal = journal_of(worker)
    run = journal.create_run(new("run"))
    served.close()
    for attempt in (
        lambda: journal.append(run.number, run.epoch, [row(run, 1)]),
        lambda: journal.set_state(run.number, run.epoch, StateType.PAUSED),
        lambda: journal.steps(run.number),
        journal.version,
    ):
        with pytest.raises(JournalUnavailable):
            attempt()
    served.open()
    journal.append(run.number, run.epoch, [row(run, 1)])
    assert [found.id & 0xFF for found in journal.steps(run.number)] == [1]
    worker.close()


def test_rows_may_be_given_once_more_after_it_was_not_known_whether_they_are_stored(
    served: Served, proxy: TcpProxy
) -> None:
    """A resumed run writes the same rows; what was stored of them is not refused."""
    worker = HttpJournal(proxy.through(served.url), KEY, served.key(), patience=0.0)
    journal = journal_of(worker)
    run = journal.create_run(new("run"))
    proxy.arm("after", "/verbs/append ")
    with pytest.raises(JournalUnavailable):
        journal.append(run.number, run.epoch, [row(run, 1)])
    until(lambda: len(served.journal.steps(run.number)) == 1)
    journal.append(run.number, run.epoch, [row(run, 1)])
    with pytest.raises(ValueError, match="already"):
        journal.append(run.number, run.epoch, [row(run, 1)])
    worker.close()


@pytest.mark.parametrize("served", ["sqlite"], indirect=True)
def test_an_ended_run_that_goes_on_is_nobodys(served: Served, worker: HttpJournal) -> None:
    """Neither is it given to the worker that ended it and is still there, when the server starts anew."""
    journal = journal_of(worker)
    run = journal.create_run(new("run"))
    journal.set_state(run.number, run.epoch, StateType.CANCELLED, message="enough", durable=True)
    served.close()
    served.open()
    assert served.journal.reopen_run(run.number, run.epoch).owner == ""
    served.close()
    served.open()
    assert served.journal.claim_run(run.id).epoch > run.epoch


def test_nobody_goes_on_with_a_session_that_is_being_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question of its worker that was on its way meanwhile does not bring it back: what it owned is free."""
    journal = SqliteJournal(tmp_path / "j.db", KEY)
    sessions = Sessions(journal)
    session = sessions.open("host:1", 30.0, "key")
    run = session.create_run(new("run"))
    drop, asked = SqliteSession.drop_session, list[str]()

    def drop_meanwhile(self: SqliteSession, row: SessionRow, *, lapsed: bool) -> None:
        with pytest.raises(SessionOver):
            sessions.renew(row.id, "key")
        asked.append(row.id)
        drop(self, row, lapsed=lapsed)

    monkeypatch.setattr(SqliteSession, "drop_session", drop_meanwhile)
    sessions.end(session.row.id, "key")
    assert asked == [session.row.id]
    assert not journal.is_owned(run)
    assert journal.claim_run(run.id).epoch == run.epoch + 1
    journal.close()


def test_news_reach_a_worker_that_does_not_ask(served: Served, worker: HttpJournal) -> None:
    """Of what anybody else has done; also after the server was away."""
    journal, heard = journal_of(worker), threading.Event()
    journal.subscribe(heard.set)
    run = served.journal.create_run(new("run"), state=StateType.PENDING)
    assert heard.wait(20)
    served.close()
    served.open()
    version = journal.version()
    heard.clear()
    served.journal.request_cancel(run.id, "enough")
    assert heard.wait(20)
    assert journal.version() != version


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1", "agentflow serve"),
        ("http://", "no address"),
        ("http://127.0.0.1:port", "no address"),
        ("http://key@127.0.0.1", "no address"),
        ("http://[::1", "no address"),
    ],
)
def test_an_address_that_is_no_server(url: str, why: str) -> None:
    """Opening it is refused at once, with what to do; no key is shown in the text."""
    with pytest.raises(JournalOpenError, match=why) as refusal:
        HttpJournal(url, KEY, "afw_secret")
    assert "secret" not in str(refusal.value)


def test_a_key_that_cannot_be_one() -> None:
    """What no header can carry is refused before anything is sent."""
    with pytest.raises(JournalOpenError, match="is no key"):
        HttpJournal("http://127.0.0.1:1", KEY, "afw_" + chr(233))


def test_a_server_is_named_by_its_own_variable(tmp_path: Path) -> None:
    """Or in place of a database; naming two journals, or what is no server, is refused."""
    server = "http://127.0.0.1:1"
    for chosen in (
        Settings(tmp_path, api_url=server),
        Settings(tmp_path, api_url=server, database_url=server),
    ):
        with pytest.raises(JournalOpenError, match="AGENTFLOW_API_KEY"):
            open_journal(chosen)
    with pytest.raises(JournalOpenError, match="two journals"):
        open_journal(Settings(tmp_path, api_url=server, database_url="sqlite:///other.db"))
    with pytest.raises(JournalOpenError, match="no address"):
        open_journal(Settings(tmp_path, api_url="postgresql://me@db/x"))


@pytest.mark.parametrize(
    "verb", [verb for verb in VERBS.values() if not verb.reads], ids=lambda verb: verb.name
)
def test_what_a_request_comes_to_can_be_kept(verb: Verb) -> None:
    """Whatever changes something answers with what the journal can keep for whoever asks once more."""
    assert is_kept(verb.result)


def test_what_is_larger_than_a_server_takes_is_not_sent(
    worker: HttpJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops at that step, and says why; others go on."""
    journal = journal_of(worker)
    run = journal.create_run(new("run"))
    monkeypatch.setattr("agentflow.journal.http.line.BODY_LIMIT", 10_000)
    with pytest.raises(JournalUnavailable, match="more than a server takes"):
        journal.append(run.number, run.epoch, [row(run, 1)._replace(value=b"x" * 10_000)])
    journal.append(run.number, run.epoch, [row(run, 1)])


def test_a_worker_of_another_version_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where anything that travels has another shape, nothing is sent at all."""
    key = served.key()
    HttpJournal(served.url, KEY, key).close()
    monkeypatch.setattr("agentflow.server.journal.door.protocol", lambda: "older")
    with pytest.raises(JournalOpenError, match="another version"):
        HttpJournal(served.url, KEY, key)


# -- processes
@pytest.fixture
def process(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Process]]:
    """Starts workers of that server."""
    monkeypatch.setenv("AGENTFLOW_API_KEY", served.key())
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(served.url, LEASE))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.mark.service
def test_a_killed_worker_owns_nothing_after_a_lease(served: Served, process: Callable[[], Process]) -> None:
    """Until then its run is owned; then it is due, and whoever claims it counts a crash."""
    owner = process()
    assert owner.ask("create") == 1
    run = served.journal.get_run("run")
    assert run is not None
    owner.end()
    assert served.journal.is_owned(run)
    until(lambda: not served.sessions())
    assert [due.id for due in served.journal.due_runs(9.0)] == ["run"]
    claimed = served.journal.claim_run("run")
    assert (claimed.epoch, claimed.crashes) == (2, 1)


@pytest.mark.service
@pytest.mark.parametrize("claimed", [False, True])
def test_a_frozen_worker_is_refused_when_it_goes_on(
    served: Served, process: Callable[[], Process], claimed: bool
) -> None:
    """Whether somebody else has taken its run meanwhile, or nobody has; it can claim it anew like anybody."""
    owner = process()
    owner.ask("create")
    assert owner.ask("write") == "written"
    owner.signal(signal.SIGSTOP)
    until(lambda: not served.sessions())
    assert [due.id for due in served.journal.due_runs(9.0)] == ["run"]
    if claimed:
        served.journal.claim_run("run")
    owner.signal(signal.SIGCONT)
    assert owner.ask("write") == "Fenced"
    assert owner.ask("claim") == ("RunOwnedError" if claimed else 2)
    assert owner.ask("write") == ("Fenced" if claimed else "written")
    run = served.journal.get_run("run")
    assert run is not None
    assert len(served.journal.steps(run.number)) == (1 if claimed else 2)


@pytest.mark.service
def test_a_living_worker_keeps_its_runs(served: Served, process: Callable[[], Process]) -> None:
    """It is heard of, though it has nothing to say for longer than a lease."""
    owner = process()
    owner.ask("create")
    run = served.journal.get_run("run")
    assert run is not None
    deadline, never = time.monotonic() + 2.5 * LEASE, threading.Event()
    while time.monotonic() < deadline:
        assert served.journal.is_owned(run)
        never.wait(0.02)
    assert owner.ask("write") == "written"


class RealServer:
    """``agentflow serve`` in a process of its own, at the same port whenever it is started."""

    def __init__(self, home: Path) -> None:
        self.home, self.url, self._process = home, "", cast("subprocess.Popen[str] | None", None)

    def start(self) -> None:
        port = urlsplit(self.url).port or 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agentflow.cli.main", "serve", "--port", str(port)],
            env=os.environ | {"AGENTFLOW_HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


class Load:
    """Threads that write without a pause, each into a run of its own, and remember what was acknowledged."""

    def __init__(self, journal: Journal, threads: int) -> None:
        self.journal = journal
        self.runs = [journal.create_run(new(f"run-{number}")) for number in range(threads)]
        self.acknowledged = [0] * threads
        self.errors: list[BaseException] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(at,), daemon=True) for at in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, at: int) -> None:
        run, sequence = self.runs[at], 0
        try:
            while not self._over.is_set():
                sequence += 1
                self.journal.append(run.number, run.epoch, [row(run, sequence)], durable=sequence % 20 == 0)
                self.journal.add_logs([LogRow(run.number, 1.0, 20, "l", "", str(sequence))])
                self.journal.send_event(run.id, f"event-{sequence}", b"1", 1.0)
                self.acknowledged[at] = sequence
        except BaseException as error:
            self.errors.append(error)
            raise

    def progress(self, rows: int) -> None:
        """Until every thread has written so many more."""
        targets = [done + rows for done in self.acknowledged]
        while not self.errors and any(
            done < target for done, target in zip(self.acknowledged, targets, strict=True)
        ):
            self._over.wait(0.01)

    def end(self) -> int:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert self.errors == []
        for run, done in zip(self.runs, self.acknowledged, strict=True):
            assert [found.id & 0xFFFF for found in self.journal.steps(run.number)] == list(range(1, done + 1))
            logged = [line.text for _, line in self.journal.logs(run.number, limit=1_000_000)]
            assert logged == [str(number) for number in range(1, done + 1)]
            assert self.journal.is_owned(run)
        return sum(self.acknowledged)


def killed_under_load(home: Path, restarts: int) -> None:
    """A server is killed again and again while a worker writes."""
    server = RealServer(home)
    server.start()
    try:
        key = json.loads(
            subprocess.check_output(
                [sys.executable, "-m", "agentflow.cli.main", "keys", "create", "load", "--json"],
                env=os.environ | {"AGENTFLOW_HOME": str(home)},
            )
        )["key"]
        worker = HttpJournal(server.url, KEY, key, patience=60.0)
        load = Load(journal_of(worker), 4)
        for _ in range(restarts):
            load.progress(10)
            server.kill()
            server.start()
        load.progress(10)
        written = load.end()
        store = SqliteJournal(home / "agentflow.db", KEY)
        events = sum(1 for table, _ in store.dump() if table == "event")
        store.close()
        worker.close()
        assert events == written
        print(f"{3 * written} writes acknowledged over {restarts} kills of the server: 0 lost, 0 twice")
    finally:
        server.kill()


@pytest.mark.service
@pytest.mark.timeout(240)
def test_a_server_that_is_killed_under_load(tmp_path: Path) -> None:
    """With kill -9: its worker sees nothing of it, nothing acknowledged is lost, nothing is done twice."""
    killed_under_load(tmp_path, 3)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_server_that_is_killed_under_load_for_long(tmp_path: Path) -> None:
    """The same, twenty times."""
    killed_under_load(tmp_path, 20)
