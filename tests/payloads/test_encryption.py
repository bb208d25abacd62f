"""Values encrypted with keys that only workers hold: nothing readable is left, nothing altered is read, keys change."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from agentflow import flow, task
from agentflow.engine.active import Options
from agentflow.errors import CorruptRecord, EncryptedValue, UsageError
from agentflow.journal.protocol import RunFilter
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.steps import FAILURES
from agentflow.payloads.codec import Codec
from agentflow.payloads.encryption import Keyring, read_keys
from agentflow.payloads.failures import describe_failure
from agentflow.payloads.opening import open_codec, open_for_people
from agentflow.reencryption import keys_in_use, rotate
from agentflow.settings import Settings
from agentflow.stored_values import missing_values, sweep
from agentflow.views import plain, run_view
from tests.fundamentals.lives import Death, die, log_of, resume, start
from tests.payloads.keeping import grow_old, keeping, stored

OLD, NEW = (f"{name}:{base64.b64encode(name.encode() * 11)[:43].decode()}=" for name in ("old", "new"))
CANARY = "canary-7f3a"
ALIVE = [True]
RAN: list[str] = []


@task
def small(text: str) -> dict[str, str]:
    RAN.append("small")
    return {"said": f"{text} small"}


@task
def large(text: str) -> str:
    RAN.append("large")
    return f"{text} large " * 500


@task
def several(text: str) -> Any:
    yield f"{text} item"
    yield f"{text} large item " * 200
    if not ALIVE[0]:
        raise Death


@task(retries=1, retry_delay_seconds=0)
def failing(text: str) -> None:
    raise ValueError(f"{text} error")


@flow
def secretive(text: str) -> list[Any]:
    found: list[Any] = [small(text), large(text)]
    try:
        failing(text)
    except ValueError as error:
        found.append(str(error))
    return [*found, *several(text)]


@flow
def ending_badly(text: str) -> None:
    failing(text)


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()
    ALIVE[0] = True


def under(*keys: str) -> Options:
    """Options under which those keys are there, the first of which encrypts."""
    return keeping(encryption_keys=",".join(keys))


def everything(journal: SqliteJournal) -> bytes:
    """All bytes of a journal and its store."""
    journal.close()
    files = [path for path in journal.path.parent.rglob("*") if path.is_file()]
    assert len(files) > 2
    return b"".join(path.read_bytes() for path in files)


def codec_of(journal: SqliteJournal, *keys: str) -> Codec:
    """A codec under those keys."""
    return open_codec(journal, under(*keys).settings)


def test_nothing_of_a_value_is_readable_in_the_journal_or_the_store(journal: SqliteJournal) -> None:
    """Not arguments, values, items, results or errors, in no log line of ours and no message."""
    whole = start(secretive, CANARY, journal=journal, using=under(NEW))
    failed = start(ending_badly, CANARY, journal=journal, using=under(NEW))
    assert (len(whole.value), str(failed.error)) == (5, f"{CANARY} error")
    assert "ValueError" in "".join(log_of(journal))
    found = everything(journal)
    assert CANARY.encode() not in found
    assert base64.b64encode(CANARY.encode())[:-4] not in found


def test_a_run_goes_on_with_its_key(journal: SqliteJournal) -> None:
    """As ever: nothing that had ended runs again."""
    ALIVE[0] = False
    run_id = die(secretive, CANARY, journal=journal, using=under(NEW))
    ALIVE[0] = True
    again = resume(secretive, run_id, journal, under(NEW))
    assert (len(again.value), RAN) == (5, ["small", "large"])


@pytest.mark.parametrize("keys", [(), (OLD,)])
def test_without_its_key_a_run_stops_and_says_which_one_it_needs(
    journal: SqliteJournal, keys: tuple[str, ...]
) -> None:
    """Nothing runs again, and with the key it goes on."""
    ALIVE[0] = False
    run_id = die(secretive, CANARY, journal=journal, using=under(NEW))
    ALIVE[0] = True
    with pytest.raises(EncryptedValue, match="encrypted with key new"):
        resume(secretive, run_id, journal, under(*keys))
    assert RAN == ["small", "large"]
    assert len(resume(secretive, run_id, journal, under(OLD, NEW)).value) == 5


def test_people_are_shown_that_it_is_encrypted(journal: SqliteJournal) -> None:
    """Also where the process has the key: pages, API and tools of models never decrypt."""
    start(secretive, CANARY, journal=journal, using=under(NEW))
    start(ending_badly, CANARY, journal=journal, using=under(NEW))
    for settings in (Settings(), under(NEW).settings):
        opened = open_for_people(journal, settings)
        last, first = journal.list_runs(RunFilter())
        view, failed = run_view(first, opened=opened), run_view(last, opened=opened)
        assert view["parameters"] == "<encrypted (key ID new)>"
        assert view["result"].endswith("encrypted (key ID new)>")
        assert failed["error"]["type"].endswith("encrypted (key ID new)")
        assert failed["error"]["text"] == failed["error"]["traceback"] == ""
        assert failed["message"] == "ValueError"
    for row in journal.steps(1):
        assert CANARY not in str(plain(row.value))
        assert row.event not in FAILURES or CANARY not in str(describe_failure(row.value or b""))


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def cut(data: bytes) -> bytes:
    return data[:-20]


def swapped(data: bytes) -> bytes:
    """The first two chunks in the other order."""
    size = (1 << 20) + 16
    return data[:32] + data[32 + size : 32 + 2 * size] + data[32 : 32 + size] + data[32 + 2 * size :]


def shortened(data: bytes) -> bytes:
    """Without its last chunk."""
    return data[: 32 + 2 * ((1 << 20) + 16)]


@pytest.mark.parametrize("change", [flipped, cut, swapped, shortened])
def test_an_altered_ciphertext_is_not_read(journal: SqliteJournal, change: Callable[[bytes], bytes]) -> None:
    """Wherever it was altered: the chunks of a blob are bound to their order and their number."""
    codec = codec_of(journal, NEW)
    data = codec.encode(b"0123456789abcdef" * 150_000)
    (path,) = stored(journal)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorruptRecord, match="altered"):
        codec.decode(data)
    if change in (flipped, cut):
        with pytest.raises(CorruptRecord, match="altered"):
            codec.decode(change(codec.encode("a small one that is long enough to be cut")))


def test_one_stored_value_does_not_pass_for_another(journal: SqliteJournal) -> None:
    """Each is bound to the name that it was stored under."""
    codec = codec_of(journal, NEW)
    first = codec.encode("a" * 5000)
    (path,) = stored(journal)
    codec.encode("b" * 5000)
    (other,) = [found for found in stored(journal) if found != path]
    path.write_bytes(other.read_bytes())
    with pytest.raises(CorruptRecord, match="altered"):
        codec.decode(first)


def test_equal_values_are_stored_once_under_a_key_and_apart_from_readable_ones(
    journal: SqliteJournal,
) -> None:
    """What was stored readably before is not relied on once there is a key."""
    text = "the same " * 500
    assert codec_of(journal).encode(text) == codec_of(journal).encode(text)
    assert codec_of(journal, NEW).encode(text) == codec_of(journal, NEW).encode(text)
    assert len(stored(journal)) == 2


def test_a_key_is_changed(journal: SqliteJournal) -> None:
    """The new one in front, everything encrypted anew; then the old one is not needed any more."""
    start(secretive, CANARY, journal=journal, using=keeping())
    ALIVE[0] = False
    run_id = die(secretive, CANARY, journal=journal, using=under(OLD))
    ALIVE[0] = True
    assert set(keys_in_use(journal)) == {"old"}
    done = rotate(journal, under(NEW, OLD).settings)
    assert (done.renewed > 5, done.unreadable) == (True, ())
    assert set(keys_in_use(journal)) == {"new"}
    assert rotate(journal, under(NEW, OLD).settings).renewed == 0
    assert missing_values(journal, under(NEW).settings) == []
    for _ in range(2):
        grow_old(journal)
        sweep(journal, under(NEW).settings)
    assert {path.parent.name for path in stored(journal)} == {"new"}
    assert len(resume(secretive, run_id, journal, under(NEW)).value) == 5
    assert CANARY not in str([row for table in (1, 2) for row in journal.steps(table)])


def test_a_change_of_keys_that_was_stopped_is_gone_on_with(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is not done again, and everything is readable in between."""
    for _ in range(3):
        start(secretive, CANARY, journal=journal, using=under(OLD))
    calls: list[str] = []
    replace = journal.replace_holdings

    def stopping(table: str, changes: Any) -> int:
        if calls:
            raise Death
        calls.append(table)
        return replace(table, changes)

    monkeypatch.setattr(journal, "replace_holdings", stopping)
    with pytest.raises(Death):
        rotate(journal, under(NEW, OLD).settings)
    monkeypatch.undo()
    between = keys_in_use(journal)
    assert between["old"] > 0 < between["new"]
    rest = rotate(journal, under(NEW, OLD).settings).renewed
    after = keys_in_use(journal)
    assert set(after) == {"new"}
    assert 0 < rest < after["new"]


def test_values_whose_key_is_gone_are_named_when_keys_change(journal: SqliteJournal) -> None:
    """The others are encrypted anew all the same."""
    start(secretive, CANARY, journal=journal, using=under(OLD))
    start(secretive, CANARY, journal=journal, using=keeping())
    done = rotate(journal, under(NEW).settings)
    assert (done.renewed > 0, "key old" in done.unreadable[0]) == (True, True)
    assert set(keys_in_use(journal)) == {"old", "new"}
    with pytest.raises(UsageError, match="no key is set"):
        rotate(journal, keeping().settings)


@pytest.mark.parametrize(
    "text",
    ["k1", "k1:", "k1:c2hvcnQ=", ":" + NEW, "plain:" + NEW.partition(":")[2], f"{NEW},{NEW}", "a b:" + NEW],
)
def test_a_key_that_is_none_is_refused_without_being_shown(text: str) -> None:
    """In one line that says what a key is."""
    with pytest.raises(UsageError) as raised:
        read_keys(text)
    assert NEW.partition(":")[2] not in str(raised.value)
    assert "AGENTFLOW_ENCRYPTION_KEYS" in str(raised.value)


def test_keys_are_in_no_representation() -> None:
    """Neither of a key nor of the settings."""
    secret = NEW.partition(":")[2]
    assert secret not in repr(read_keys(NEW))
    assert secret not in repr(Settings(encryption_keys=NEW))
    assert Keyring(read_keys(f"# of 2026\n{NEW}\n{OLD}\n")).ids == ["new", "old"]
