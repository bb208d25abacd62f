"""From every schema that was ever released: upgraded with what is in it, by several processes, killed on the way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from agentflow.journal import schema
from agentflow.journal.commits import connect
from agentflow.journal.postgres import PostgresJournal
from agentflow.journal.postgres.schema import FIRST_OF_ALL
from agentflow.journal.postgres.statements import FOLDER
from agentflow.journal.protocol import Journal
from agentflow.journal.sql import Migration, migrations
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from tests.faults import Measured
from tests.journal.postgres_server import PostgresServer

KEY = b"k" * 32
ROOT = Path(__file__).parents[2]
RELEASED = Path(__file__).with_name("released_schemas.txt")
SQLITE, POSTGRES = len(migrations()), len(migrations(FOLDER))
#: In the columns of the first schema; what came later has a default, or is a table of its own.
DATA = {
    "run": {
        "number": 1, "id": "old", "flow": "f", "name": "n", "entrypoint": "f.py:f", "parameters": b"{}",
        "fingerprint": "fp", "origins": "person", "state": "RUNNING", "message": "", "created": 1.0, "started": 1.0,
        "epoch": 1, "owner": "host:1", "cwd": "", "interpreter": "", "tags": "", "crashes": 0,
    },
    "step": {
        "id": (1 << 32) + 1, "event": "completed", "kind": "task", "name": "step", "scope": b"", "key": b"k",
        "branch": b"", "occurrence": 0, "effects": 0, "effect": 0, "attempt": 0, "batch": 0, "started": 1.0,
        "ended": 2.0, "value": b"42", "detail": None,
    },
    "wait": {
        "id": "w", "run": 1, "run_id": "old", "flow": "f", "step": "00", "kind": "input", "name": "who",
        "question": b"{}", "schema": b"{}", "digest": "", "policy": "", "opened": 1.0, "due": None,
        "allowed_digest": "",
    },
}  # fmt: skip


def statements(columns: dict[str, set[str]], mark: str) -> Iterator[tuple[str, list[Any]]]:
    """What stores `DATA`; `columns`: those that the tables of that schema have."""
    for table, row in DATA.items():
        known = {name: value for name, value in row.items() if name in columns[table]}
        if table == "run":  # of PostgreSQL's first schema, and of later ones
            for name in ("parent", "on_cancellation"):
                if name in columns[table]:
                    known[name] = "" if name == "parent" else 0
        names = ", ".join(f'"{name}"' for name in known)
        yield f"INSERT INTO {table} ({names}) VALUES ({', '.join([mark] * len(known))})", list(known.values())  # noqa: S608 - our own names


#: Migrations that once had the number of the one before them, and what there was with them.
SWAPPED = {"retention": 7, "identity": 12}
SWAPPED_ON_POSTGRES = {"identity": 7}


def as_swapped(known: tuple[Migration, ...], number: int) -> tuple[Migration, ...]:
    """The migrations up to one that had the number of the one before it, which was not there yet."""
    return (*known[: number - 2], known[number - 1]._replace(number=number - 1))


def as_at_first(known: tuple[Migration, ...]) -> tuple[Migration, ...]:
    """PostgreSQL's first migration as it was at first."""
    text = known[0].text.replace("  on_cancellation BIGINT NOT NULL DEFAULT 0,\n", "")
    checksum = hashlib.sha256(text.encode()).hexdigest()
    assert checksum == FIRST_OF_ALL
    return (known[0]._replace(text=text, checksum=checksum),)


def old_file(path: Path, number: int) -> Path:
    """A database as it was when the schema had that number, with data."""
    return made_file(path, migrations()[:number])


def made_file(path: Path, applied: tuple[Migration, ...]) -> Path:
    """A database that has seen those migrations, with data."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: applied)
        schema.migrate(connection, str(path))
    columns = {
        table: {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")} for table in DATA
    }
    for statement, values in statements(columns, "?"):
        connection.execute(statement, values)
    connection.close()
    return path


def old_schema(server: PostgresServer, number: int) -> str:
    """The same in a schema of PostgreSQL; returns its address."""
    return made_schema(server, migrations(FOLDER)[:number])


def made_schema(server: PostgresServer, applied: tuple[Migration, ...]) -> str:
    """A schema that has seen those migrations, with data; returns its address."""
    url = server.url()
    name = url.partition("schema=")[2]
    with psycopg.connect(url.partition("?")[0], autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {name}; SET search_path = {name}".encode())
        db.execute(
            b"CREATE TABLE migration (number BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)"
        )
        for migration in applied:
            db.execute(migration.text.encode())
            db.execute(
                b"INSERT INTO migration VALUES (%s, %s, %s)", (migration[0], migration[1], migration[3])
            )
        found = db.execute(
            b"SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s", (name,)
        ).fetchall()
        columns = {table: {column for of, column in found if of == table} for table in DATA}
        for statement, values in statements(columns, "%s"):
            db.execute(
                statement.replace("INTO run", "INTO run")
                .replace("VALUES", "OVERRIDING SYSTEM VALUE VALUES")
                .encode(),
                values,
            )
    return url


def check_data(journal: Journal) -> int:
    """What an upgraded journal has to hold; how much of it is missing."""
    run = journal.get_run("old")
    rows, waits = journal.steps(1), journal.list_waits(number=1)
    missing = (run is None) + (len(rows) != 1) + (len(waits) != 1)
    assert run is not None
    assert (run.state, run.tags, run.parent) == (StateType.RUNNING, (), "")
    assert [(row.id, row.value) for row in rows] == [((1 << 32) + 1, b"42")]
    assert [wait.name for wait in waits] == ["who"]
    claimed = journal.claim_run("old")
    journal.set_state(1, claimed.epoch, StateType.COMPLETED, result=b"1", release=True)
    return missing


def test_released_schemas_do_not_change() -> None:
    """A migration that somebody may have applied stays as it is, to the letter. The list grows with each release."""
    known = [
        f"{store} {migration.number} {migration.checksum}"
        for store, folder in (("sqlite", ""), ("postgres", FOLDER))
        for migration in migrations(folder)
    ]
    released = RELEASED.read_text().splitlines()
    assert [line for line in released if line not in known] == []
    assert len(released) > 10


@pytest.mark.fault(16, "upgrade from every schema")
@pytest.mark.parametrize("number", range(1, SQLITE + 1))
def test_a_file_of_each_schema_is_upgraded_with_its_data(
    tmp_path: Path, number: int, fault: Measured
) -> None:
    """Its run goes on, its step is reused, its question can be answered."""
    journal = SqliteJournal(old_file(tmp_path / "j.db", number), KEY)
    missing = check_data(journal)
    journal.close()
    sound = connect(tmp_path / "j.db").pragma("integrity_check") == "ok"
    fault(1, lost=missing, corrupt=not sound)
    assert (missing, sound) == (0, True)


@pytest.mark.fault(16, "upgrade from every schema")
@pytest.mark.service
@pytest.mark.parametrize("number", range(1, POSTGRES + 1))
def test_a_postgres_schema_of_each_number_is_upgraded_with_its_data(
    postgres: PostgresServer, number: int, fault: Measured
) -> None:
    """The same."""
    journal = PostgresJournal(old_schema(postgres, number), KEY)
    missing = check_data(journal)
    journal.close()
    fault(1, lost=missing)
    assert missing == 0


@pytest.mark.parametrize("name", SWAPPED)
def test_a_file_that_has_seen_a_migration_under_another_number_is_upgraded(tmp_path: Path, name: str) -> None:
    """It gets the one that it has not seen, and ends as any other."""
    applied = as_swapped(migrations(), SWAPPED[name])
    assert applied[-1].name == name
    journal = SqliteJournal(made_file(tmp_path / "j.db", applied), KEY)
    assert check_data(journal) == 0
    assert journal.facts()["schema"] == SQLITE
    journal.close()


def columns_of(url: str) -> list[Any]:
    """The columns of runs, in their order."""
    plain, _, name = url.partition("?schema=")
    with psycopg.connect(plain) as db:
        return db.execute(
            b"SELECT column_name, data_type FROM information_schema.columns "
            b"WHERE table_schema = %s AND table_name = 'run' ORDER BY ordinal_position",
            (name,),
        ).fetchall()


@pytest.mark.service
@pytest.mark.parametrize("name", ["initial", *SWAPPED_ON_POSTGRES])
def test_a_postgres_schema_of_an_early_version_is_upgraded(postgres: PostgresServer, name: str) -> None:
    """One without a column that the first migration has now; one that has seen a migration under another number."""
    known = migrations(FOLDER)
    applied = as_at_first(known) if name == "initial" else as_swapped(known, SWAPPED_ON_POSTGRES[name])
    assert applied[-1].name == name
    old, fresh = made_schema(postgres, applied), postgres.url()
    PostgresJournal(fresh, KEY).close()
    journal = PostgresJournal(old, KEY)
    assert columns_of(old) == columns_of(fresh)
    assert check_data(journal) == 0
    assert journal.facts()["schema"] == POSTGRES
    journal.close()


@pytest.mark.fault(16, "killed in the middle of an upgrade")
@pytest.mark.parametrize(
    "number", [1, *(pytest.param(number, marks=pytest.mark.nightly) for number in range(2, SQLITE))]
)
def test_a_process_killed_while_it_upgrades_leaves_a_usable_file(
    tmp_path: Path, number: int, fault: Measured
) -> None:
    """At whichever write: the next one finishes it, and all data are there."""
    old = old_file(tmp_path / "old.db", number)
    command = [sys.executable, "-m", "tests.journal.schema_driver", "upgraded", str(tmp_path), str(old)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    points = [json.loads(line) for line in ran.stdout.splitlines()]
    killed = [point for point in points if point["status"] == -9]
    corrupt = [point["at"] for point in points if point["sound"] != "ok"]
    lost = [point["at"] for point in points if point["there"] != [1, 1, 1]]
    fault(len(killed), lost=len(lost), corrupt=len(corrupt))
    assert len(killed) == len(points) - 1 > 5
    assert (corrupt, lost) == ([], [])


@pytest.mark.fault(16, "several processes upgrade at once")
def test_processes_that_upgrade_the_same_file_at_once(tmp_path: Path, fault: Measured) -> None:
    """Each of them finds it whole."""
    old_file(tmp_path / "j.db", 1)
    code = (
        "import sys; from pathlib import Path; from agentflow.journal.sqlite import SqliteJournal; sys.stdin.read(1);"
        f"journal = SqliteJournal(Path({str(tmp_path / 'j.db')!r}), b'k' * 32);"
        "print(journal.get_run('old').id, len(journal.steps(1))); journal.close()"
    )
    everybody = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in everybody:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    heard = [process.communicate()[0].strip() for process in everybody]
    fault(4, lost=sum(answer != "old 1" for answer in heard))
    assert heard == ["old 1"] * 4


@pytest.mark.fault(16, "killed in the middle of an upgrade")
@pytest.mark.service
def test_a_connection_lost_in_the_middle_of_an_upgrade_changes_nothing(
    postgres: PostgresServer, fault: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has undone it; the next one does all of it."""
    url = old_schema(postgres, 1)
    struck = 0
    plain = psycopg.Connection.execute

    for at in range(1, POSTGRES):
        count = 0

        def dies(self: Any, *given: Any, at: int = at, **options: Any) -> Any:
            nonlocal count
            answer = plain(self, *given, **options)
            if options.get("prepare") is False and b"SET search_path" not in given[0]:
                count += 1
                if count == at:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("struck")
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(psycopg.Connection, "execute", dies)
            with pytest.raises(Exception, match="cannot open the journal"):
                PostgresJournal(url, KEY)
        struck += 1
    journal = PostgresJournal(url, KEY)
    missing = check_data(journal)
    journal.close()
    fault(struck, lost=missing)
    assert struck == POSTGRES - 1
