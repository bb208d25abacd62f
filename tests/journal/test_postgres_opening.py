"""Opening a journal on PostgreSQL: what cannot be opened is refused in one line that says what to do."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from agentflow.errors import JournalOpenError
from agentflow.journal.opening import close_all, open_journal
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.sql import migrations
from agentflow.settings import Settings
from tests.journal.postgres_driver import KEY, new, row
from tests.journal.postgres_server import PostgresServer
from tests.journal.tcp_proxy import TcpProxy

SECRET = "horse-battery"


@pytest.fixture(scope="module")
def locked(postgres: PostgresServer) -> str:
    """The name of a user who needs a password."""
    with psycopg.connect(postgres.url().partition("?")[0], autocommit=True) as db:
        db.execute(f"CREATE ROLE locked LOGIN PASSWORD '{SECRET}'".encode())
    return "locked"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder; journals that were opened are closed."""
    yield tmp_path
    close_all()


def refused(url: str) -> str:
    """The line that says why an address cannot be opened."""
    with pytest.raises(JournalOpenError) as caught:
        PostgresJournal(url, KEY)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    return text


def test_an_address_is_shown_without_its_password(postgres: PostgresServer, locked: str) -> None:
    """Wherever the password stands in it; other processes are given the whole one."""
    with psycopg.connect(postgres.url().partition("?")[0], autocommit=True) as db:
        db.execute(b"GRANT CREATE ON DATABASE postgres TO locked")
    for url in (
        postgres.url("shown", user=f"{locked}:{SECRET}"),
        f"{postgres.url('shown', user=locked)}&password={SECRET}",
    ):
        journal = PostgresJournal(url, KEY)
        assert journal.url == f"postgresql://locked@127.0.0.1:{postgres.port}/postgres?schema=shown"
        assert journal.address == url
        journal.close()


def test_wrong_passwords_users_and_databases_are_told_apart(postgres: PostgresServer, locked: str) -> None:
    """Each with its way out."""
    wrong = refused(postgres.url(user=f"{locked}:wrong"))
    assert "password authentication failed" in wrong
    assert "AGENTFLOW_DATABASE_URL" in wrong
    assert "password" in refused(postgres.url(user=locked))
    assert "createdb" in refused(postgres.url(database="nothing"))
    assert "check the user" in refused(postgres.url(user="nobody_known"))


def test_a_server_that_is_not_there(postgres: PostgresServer) -> None:
    """It may not run; or the host is unknown."""
    assert "see that the server runs" in refused(f"postgresql://ann:{SECRET}@127.0.0.1:1/db")
    assert "check the host" in refused(f"postgresql://ann:{SECRET}@nowhere.invalid/db")


class StartingUp(TcpProxy):
    """Says of the server behind it that it is starting, so many times."""

    def __init__(self, port: int, times: int) -> None:
        super().__init__(port)
        self.times = times
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres?schema=late&sslmode=disable&gssencmode=disable"

    def _serve(self, client: socket.socket) -> None:
        if not self.times:
            super()._serve(client)
            return
        self.times -= 1
        client.recv(1024)
        said = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"
        client.sendall(b"E" + (len(said) + 4).to_bytes(4) + said)
        client.close()


def test_a_server_that_is_starting_is_waited_for(postgres: PostgresServer) -> None:
    """A worker that is started together with its server works; one whose server takes too long says so."""
    with StartingUp(postgres.port, 2) as starting:
        journal = PostgresJournal(starting.url, KEY)
        assert starting.times == 0
        journal.close()
    refused = pytest.raises(JournalOpenError, match="starting up; try again when it has started")
    with StartingUp(postgres.port, 10**6) as starting, refused:
        PostgresJournal(starting.url, KEY, patience=0.0)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{SECRET}@host:port/db",
        f"postgresql://ann:{SECRET}@host/db?nonsense=1",
        f"postgresql://ann:{SECRET}@[::1/db",
        f"postgresql://ann:{SECRET}@host/db?schema=Bad;Name",
    ],
)
def test_an_address_that_makes_no_sense(url: str) -> None:
    """It is refused without being shown."""
    assert "AGENTFLOW_DATABASE_URL" in refused(url)


def test_an_address_of_no_known_kind_is_not_shown_where_it_may_hold_a_password(home: Path) -> None:
    """What some other program takes for an address of PostgreSQL is refused without being shown."""
    with pytest.raises(JournalOpenError, match="AGENTFLOW_DATABASE_URL") as caught:
        open_journal(Settings(home=home, database_url=f"postgresql+psycopg://ann:{SECRET}@host/db"))
    assert SECRET not in str(caught.value)


def test_a_user_without_the_right_to_make_the_schema(postgres: PostgresServer) -> None:
    """The line names the statement that a person with more rights has to run."""
    with psycopg.connect(postgres.url().partition("?")[0], autocommit=True) as db:
        db.execute(b"CREATE ROLE poor LOGIN")
    assert "CREATE SCHEMA made_by_nobody" in refused(postgres.url("made_by_nobody", user="poor"))


def test_without_the_extra_it_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where psycopg is not installed."""
    for name in [name for name in sys.modules if name.startswith(("psycopg", "agentflow.journal.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(JournalOpenError, match=r"agentflow\[postgres\]"):
        open_journal(Settings(home=home, database_url="postgresql://ann@host/db"))


def test_the_settings_name_it(postgres: PostgresServer, home: Path) -> None:
    """It is opened once per process, with the key of the home folder."""
    settings = Settings(home=home, database_url=postgres.url())
    journal = open_journal(settings)
    assert open_journal(settings) is journal
    assert journal.key == (home / "key").read_bytes()
    run = journal.create_run(new("run"))
    assert journal.is_owned(run)


def test_processes_that_make_the_same_schema_at_once(postgres: PostgresServer) -> None:
    """Every one of them finds a whole journal."""
    url = postgres.url()

    def opened(_: int) -> PostgresJournal:
        return PostgresJournal(url, KEY)

    with ThreadPoolExecutor(6) as pool:
        journals = list(pool.map(opened, range(6)))
    for number, journal in enumerate(journals):
        journal.create_run(new(f"run-{number}"))
        journal.close()


def test_a_newer_schema_is_refused(postgres: PostgresServer) -> None:
    """And so is one whose migrations were others."""
    url = postgres.url("newer")
    PostgresJournal(url, KEY).close()
    newest = migrations("postgres")[-1].number
    with psycopg.connect(url.partition("?")[0], autocommit=True) as db:
        db.execute(b"INSERT INTO newer.migration VALUES (%s, 'later', 'x')", (newest + 1,))
        assert "upgrade agentflow" in refused(url)
        db.execute(b"DELETE FROM newer.migration WHERE number > %s", (newest,))
        db.execute(b"UPDATE newer.migration SET checksum = 'x'")
        assert "differs from the one that was applied" in refused(url)


FORK = """
import os, sys
from agentflow.errors import JournalUnavailable
from agentflow.journal.postgres import PostgresJournal
from tests.journal.postgres_driver import KEY, new, row

journal = PostgresJournal(sys.argv[1], KEY)
run = journal.create_run(new("run"))
journal.append(run.number, run.epoch, [row(run, 1)])
pid = os.fork()
if pid == 0:
    try:
        journal.append(run.number, run.epoch, [row(run, 2)])
    except JournalUnavailable as error:
        print(error, flush=True)
    journal.close()
    os._exit(0)
os.waitpid(pid, 0)
journal.append(run.number, run.epoch, [row(run, 3)], durable=True)
print(len(journal.steps(run.number)), journal.is_owned(run))
journal.close()
"""


def test_a_forked_process_cannot_use_it_and_spoils_nothing(postgres: PostgresServer) -> None:
    """It is told so; the connections stay the parent's, whatever becomes of the child."""
    ran = subprocess.run(
        [sys.executable, "-c", FORK, postgres.url()],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    refusal, parent = ran.stdout.splitlines()
    assert "forked" in refusal
    assert parent == "2 True"
    assert ran.returncode == 0


def test_texts_with_a_nul_are_stored_visibly(postgres: PostgresServer) -> None:
    """PostgreSQL's texts cannot hold one; values can, for they are bytes."""
    journal = PostgresJournal(postgres.url(), KEY)
    run = journal.create_run(new("run"))
    written = row(run, 1)._replace(name="a\0b", value=b"\0")
    journal.append(run.number, run.epoch, [written])
    assert journal.steps(run.number) == [written._replace(name="a\N{SYMBOL FOR NULL}b")]
    journal.close()
