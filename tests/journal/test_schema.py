"""What a journal says of databases that it cannot use, and how it makes and changes its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentflow.errors import JournalOpenError
from agentflow.journal import schema
from agentflow.journal.schema import APPLICATION_ID, migrate
from agentflow.journal.sql import Migration, migrations
from agentflow.journal.sqlite import SqliteJournal

KEY = b"k" * 32
FIRST = Path(__file__).with_name("schema_1.sql")


def made(path: Path, *statements: str) -> Path:
    """A journal's file, changed by hand."""
    SqliteJournal(path, KEY).close()
    with apsw.Connection(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path


def said(path: Path) -> str:
    """What somebody who opens it is told: one line."""
    with pytest.raises(JournalOpenError) as raised:
        SqliteJournal(path, KEY)
    text = str(raised.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def run_driver(*arguments: str) -> list[Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.journal.schema_driver", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def schema_of(connection: apsw.Connection) -> list[Any]:
    """The text of every table and index, and the two numbers in the header."""
    found = connection.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name"
    )
    return [*found.fetchall(), connection.pragma("user_version"), connection.pragma("application_id")]


def first_release() -> apsw.Connection:
    """A database as the first version made it, from the dump and not from the code."""
    connection = apsw.Connection(":memory:")
    connection.execute(FIRST.read_text()).fetchall()
    return connection


def test_the_first_migration_makes_the_first_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is made today, by the first migration alone, is exactly the one that was released."""
    monkeypatch.setattr(schema, "migrations", lambda: migrations()[:1])
    connection = apsw.Connection(":memory:")
    migrate(connection, "memory")
    assert schema_of(connection) == schema_of(first_release())
    ledger = "SELECT number, name, checksum FROM migration"
    assert connection.execute(ledger).fetchall() == first_release().execute(ledger).fetchall()


def test_the_first_schema_is_migrated_to_todays() -> None:
    """A released database becomes what a new one is."""
    old, new = first_release(), apsw.Connection(":memory:")
    migrate(old, "old")
    migrate(new, "new")
    assert schema_of(old) == schema_of(new)


def test_a_migration_is_applied_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later version adds is applied to an old database, and a second opening changes nothing."""
    newest = migrations()[-1].number
    added = Migration(
        newest + 1, "added", "CREATE TABLE added (x) STRICT; SELECT 1; INSERT INTO added VALUES (1)", "c"
    )
    added = added._replace(text=added.text.replace("(x)", "(x INTEGER)"))
    connection = first_release()
    monkeypatch.setattr(schema, "migrations", lambda: (*migrations(), added))
    for _ in range(2):
        migrate(connection, "memory")
        assert connection.execute("SELECT x FROM added").fetchall() == [(1,)]
    assert connection.pragma("user_version") == added.number


def test_a_failing_migration_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a migration is none, and the connection is left usable."""
    broken = Migration(
        migrations()[-1].number + 1, "broken", "CREATE TABLE half (x INTEGER) STRICT; NONSENSE", "c"
    )
    connection = first_release()
    migrate(connection, "memory")
    before = schema_of(connection)
    monkeypatch.setattr(schema, "migrations", lambda: (*migrations(), broken))
    with pytest.raises(apsw.SQLError):
        migrate(connection, "memory")
    assert not connection.in_transaction
    assert schema_of(connection) == before


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """It names both versions and what to do."""
    path = made(
        tmp_path / "j.db", "INSERT INTO migration VALUES (999, 'later', 'x')", "PRAGMA user_version=999"
    )
    text = said(path)
    assert "schema 999" in text
    assert "upgrade agentflow" in text


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """And it is left as it was."""
    path = tmp_path / "theirs.db"
    with apsw.Connection(str(path)) as connection:
        connection.execute("CREATE TABLE people (name)")
    connection.close()
    assert "another program" in said(path)
    found = apsw.Connection(str(path))
    assert found.execute("SELECT name FROM sqlite_schema").fetchall() == [("people",)]
    assert found.pragma("application_id") != APPLICATION_ID


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE migration SET checksum = 'x' WHERE number = 1",
        "UPDATE migration SET name = name, checksum = ''",
    ],
)
def test_an_altered_migration_is_refused(tmp_path: Path, change: str) -> None:
    """A database that was made by another text of a migration is not what it says it is."""
    assert "migration 1 differs" in said(made(tmp_path / "j.db", change))


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [no_database, a_folder])
def test_what_is_no_database_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """In one line that names the file."""
    path = tmp_path / "j.db"
    spoil(path)
    assert "cannot open the journal" in said(path)


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    """In one line that says what to set."""
    (tmp_path / "home").write_text("")
    assert "AGENTFLOW_HOME" in said(tmp_path / "home" / "j.db")


def test_a_folder_that_may_not_be_written_is_refused() -> None:
    """In one line that says what to set."""
    with tempfile.TemporaryDirectory() as folder:  # one that anybody may enter, unlike pytest's
        Path(folder).chmod(0o555)
        (text,) = run_driver("read_only", folder)
        Path(folder).chmod(0o755)
    assert "AGENTFLOW_HOME to a folder you can write to" in text
    assert "\n" not in text


def test_a_process_killed_while_it_makes_a_database_leaves_a_usable_one(tmp_path: Path) -> None:
    """At whichever write: the next one opens it, whole."""
    points = run_driver("killed", str(tmp_path))
    print(f"making a database: killed at {len(points) - 1} points")
    assert len(points) > 10
    assert [point["status"] for point in points[:-1]] == [-9] * (len(points) - 1)
    assert [point["at"] for point in points if point["sound"] != "ok"] == []
    assert [point["at"] for point in points if point["schema"] != points[-1]["schema"]] == []
