"""Large values in a bucket: against a server that speaks S3, over a socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer

from agentflow.errors import CorruptRecord, JournalUnavailable, UsageError
from agentflow.journal.sqlite import SqliteJournal
from agentflow.payloads.encryption import new_key
from agentflow.payloads.objects import ObjectStore
from agentflow.payloads.opening import open_vault
from agentflow.payloads.vault import CONDEMNED
from agentflow.reencryption import rotate
from agentflow.settings import Settings
from agentflow.stored_values import missing_values, references, sweep
from tests.fundamentals.lives import die, resume, rows, start
from tests.payloads.driver import ALIVE, LARGE, RAN, pipeline
from tests.payloads.keeping import keeping

URL = "s3://values/team"
SECRET = "not-for-anybodys-eyes"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 of our own, with one bucket."""
    s3 = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    address = f"http://{host}:{port}"
    urlopen(Request(f"{address}/values", method="PUT"), timeout=30).close()  # noqa: S310 - our own server
    yield address
    s3.stop()


@pytest.fixture(autouse=True)
def credentials(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    RAN.clear()
    ALIVE[0] = True


def store_of(journal: SqliteJournal, **settings: Any) -> ObjectStore:
    """The part of the bucket that is the journal's."""
    store = open_vault(journal, keeping(payloads_url=URL, **settings).settings).store
    assert isinstance(store, ObjectStore)
    return store


def names(journal: SqliteJournal) -> list[str]:
    """What is stored, without marks."""
    return sorted(blob.name for blob in store_of(journal).blobs() if not blob.name.startswith(CONDEMNED))


@pytest.mark.parametrize("kind", LARGE)
def test_values_are_stored_and_read_back(journal: SqliteJournal, kind: str) -> None:
    """Each once, below a prefix of the journal's own; the next life reads them and runs nothing again."""
    using = keeping(payloads_url=URL)
    ALIVE[0] = False
    run_id = die(pipeline, kind, journal=journal, using=using)
    ALIVE[0] = True
    assert resume(pipeline, run_id, journal, using).value == LARGE[kind]
    assert (RAN, len(names(journal))) == ([kind], 1)
    assert not journal.beside.exists()
    assert store_of(journal).where == f"{URL}/{journal.identity}"
    (row,) = rows(journal, "completed", name="made")
    assert len(row.value or b"") < 200


def test_a_value_of_many_parts_comes_back_whole(journal: SqliteJournal) -> None:
    """One that is larger than a part of an upload."""
    LARGE["huge"] = bytes(range(256)) * 90_000
    outcome = start(pipeline, "huge", journal=journal, using=keeping(payloads_url=URL))
    assert outcome.value == LARGE.pop("huge")
    vault = open_vault(journal, keeping(payloads_url=URL).settings)
    (row,) = rows(journal, "completed", name="made")
    assert vault.open(row.value or b"").parts == [outcome.value]


def test_the_key_of_stored_values_is_changed(journal: SqliteJournal) -> None:
    """From object to object: read, decrypted, encrypted anew and stored in pieces."""
    old, new = new_key("old"), new_key("new")
    before, both = (keeping(payloads_url=URL, encryption_keys=keys) for keys in (old, f"{new},{old}"))
    ALIVE[0] = False
    run_id = die(pipeline, "text", journal=journal, using=before)
    ALIVE[0] = True
    assert rotate(journal, both.settings).unreadable == ()
    assert {name.partition("/")[0] for name in references(journal)} == {"new"}
    after = keeping(payloads_url=URL, encryption_keys=new)
    assert missing_values(journal, after.settings, read=True) == []
    assert resume(pipeline, run_id, journal, after).value == LARGE["text"]
    assert RAN == ["text"]


def test_what_nothing_refers_to_is_swept_and_what_is_missing_is_named(journal: SqliteJournal) -> None:
    """As in a folder; journals that share a bucket leave each other's values alone."""
    using = keeping(payloads_url=URL, payload_grace=-1.0)
    start(pipeline, "text", journal=journal, using=using)
    other = SqliteJournal(journal.path.with_name("other.db"), journal.key)
    start(pipeline, "text", journal=other, using=using)
    assert missing_values(journal, using.settings) == []
    journal.prune_runs(time.time() + 10)
    assert (sweep(journal, using.settings).marked, sweep(journal, using.settings).removed) == (1, 1)
    assert (names(journal), len(names(other))) == ([], 1)
    store_of(other).remove(names(other))
    (name,) = references(other)
    (fault,) = missing_values(other, using.settings)
    assert name in fault
    other.close()


def test_a_missing_value_stops_the_run(journal: SqliteJournal) -> None:
    """And says where it was looked for."""
    using = keeping(payloads_url=URL)
    ALIVE[0] = False
    run_id = die(pipeline, "rows", journal=journal, using=using)
    ALIVE[0] = True
    store_of(journal).remove(names(journal))
    with pytest.raises(CorruptRecord, match="is missing in s3://values/team"):
        resume(pipeline, run_id, journal, using)
    assert RAN == ["rows"]


def test_a_store_that_refuses_is_said_so_without_secrets(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that does not exist stops the run, which can go on once it does."""
    using = keeping(payloads_url="s3://no-such-bucket/x")
    with pytest.raises(JournalUnavailable, match="s3://no-such-bucket") as raised:
        start(pipeline, "text", journal=journal, using=using)
    assert SECRET not in str(raised.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")


@pytest.mark.parametrize(
    "url",
    ["s3://", "ftp://host/x", "s3://user:password@bucket/x", "s3://bucket/x?token=1", "file://", "values"],
)
def test_an_address_that_cannot_be_is_refused(tmp_path: Path, url: str) -> None:
    """In one line that does not repeat what it holds."""
    journal = SqliteJournal(tmp_path / "u.db", b"k" * 32)
    with pytest.raises(UsageError, match="AGENTFLOW_PAYLOADS_URL is not an address") as raised:
        open_vault(journal, Settings(payloads_url=url))
    assert "password" not in str(raised.value)
    journal.close()
