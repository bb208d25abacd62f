"""Large values in a container of Azure: against Azurite, the emulator that Microsoft makes, over a socket."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from email.utils import formatdate
from urllib.request import Request, urlopen

import pytest

from agentflow.journal.sqlite import SqliteJournal
from agentflow.payloads.encryption import new_key
from agentflow.payloads.objects import ObjectStore
from agentflow.payloads.opening import open_vault
from agentflow.reencryption import rotate
from agentflow.stored_values import missing_values, references, sweep
from tests.fundamentals.lives import die, resume, start
from tests.payloads.driver import ALIVE, LARGE, RAN, pipeline
from tests.payloads.keeping import keeping

pytestmark = pytest.mark.azure

URL = "az://values/team"
#: Of every Azurite, and no secret.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def make_container(address: str) -> None:
    """Have a container, by a request that is signed with the account's key."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    what = f"/{ACCOUNT}/{ACCOUNT}/values\nrestype:container"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n{what}"
    mark = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date, "x-ms-version": version, "Content-Length": "0",
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(mark).decode()}",
    }  # fmt: skip
    asked = Request(f"{address}/{ACCOUNT}/values?restype=container", method="PUT", headers=headers)  # noqa: S310 - our own server
    urlopen(asked, timeout=30).close()  # noqa: S310 - our own server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an Azurite of our own, with one container."""
    program = shutil.which("azurite-blob")
    assert program, "Azurite is not on the path: make test-azure"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        program,
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        str(port),
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("successfully listens" in line for line in process.stdout)
        address = f"http://127.0.0.1:{port}"
        make_container(address)
        yield address
        process.terminate()


@pytest.fixture(autouse=True)
def account(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", server)
    RAN.clear()
    ALIVE[0] = True


def dead(journal: SqliteJournal, kind: str, **settings: str) -> str:
    """A run that died after its large value was recorded; its id."""
    ALIVE[0] = False
    run_id = die(pipeline, kind, journal=journal, using=keeping(payloads_url=URL, **settings))
    ALIVE[0] = True
    return run_id


@pytest.mark.parametrize("kind", LARGE)
def test_values_are_stored_and_read_back(journal: SqliteJournal, kind: str) -> None:
    """The next life reads them and runs nothing again."""
    run_id = dead(journal, kind)
    using = keeping(payloads_url=URL)
    assert isinstance(open_vault(journal, using.settings).store, ObjectStore)
    assert resume(pipeline, run_id, journal, using).value == LARGE[kind]
    assert (RAN, len(references(journal))) == ([kind], 1)


def test_a_value_of_many_parts_comes_back_whole(journal: SqliteJournal) -> None:
    """One that is larger than a part of an upload."""
    LARGE["huge"] = bytes(range(256)) * 90_000
    outcome = start(pipeline, "huge", journal=journal, using=keeping(payloads_url=URL))
    assert outcome.value == LARGE.pop("huge")
    assert missing_values(journal, keeping(payloads_url=URL).settings, read=True) == []


def test_the_key_of_stored_values_is_changed_and_old_ones_are_removed(journal: SqliteJournal) -> None:
    """From blob to blob; then nothing is left of the old key, and of a run that was pruned."""
    old, new = new_key("old"), new_key("new")
    run_id = dead(journal, "text", encryption_keys=old)
    assert (
        rotate(journal, keeping(payloads_url=URL, encryption_keys=f"{new},{old}").settings).unreadable == ()
    )
    after = keeping(payloads_url=URL, encryption_keys=new, payload_grace=-1.0)
    assert resume(pipeline, run_id, journal, after).value == LARGE["text"]
    assert (sweep(journal, after.settings).marked, sweep(journal, after.settings).removed) == (1, 1)
    journal.prune_runs(time.time() + 10)
    assert (sweep(journal, after.settings).marked, sweep(journal, after.settings).removed) == (1, 1)
