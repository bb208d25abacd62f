"""``agentflow db``: what is said of a journal, what is removed from it, and how it is carried elsewhere."""

import json
import shutil
from base64 import b64decode, b64encode
from pathlib import Path

import apsw
import pytest

from tests.cli.conftest import Shell

FLOWS = Path(__file__).with_name("command_line_flows.py")


@pytest.fixture
def filled(shell: Shell) -> str:
    """A journal with a run that has completed; its id."""
    done = shell("run", f"{FLOWS}:squares", "-p", "numbers=[1, 2, 3]", "--json")
    assert done.code == 0, done.err
    return str(done.json()["run_id"])


def elsewhere(shell: Shell, tmp_path: Path, *, key: bool = True) -> Shell:
    """A shell whose home is another one, with the same installation's key or without."""
    home = tmp_path / "other"
    home.mkdir()
    if key:
        shutil.copy(Path(shell.environment["AGENTFLOW_HOME"]) / "key", home / "key")
    return Shell(shell.folder, shell.environment | {"AGENTFLOW_HOME": str(home)})


def test_a_journal_is_checked(shell: Shell, filled: str) -> None:
    """Its size, its rows, and that it is whole; a broken one is told by its faults and the exit code."""
    checked = shell("db", "check", "--json")
    assert (checked.code, checked.json()["rows"]["run"], checked.json()["faults"]) == (0, 1, [])
    assert "the journal is whole" in shell("db", "check").err
    assert shell("db", "upgrade", "--json").json()["schema"] == checked.json()["schema"]
    path = Path(shell.environment["AGENTFLOW_HOME"]) / "agentflow.db"
    db = apsw.Connection(str(path))
    page, size = (
        db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'step'").get,
        db.pragma("page_size"),
    )
    db.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(data)
    broken = shell("db", "check")
    assert broken.code == 1, broken
    assert ("broken: " in broken.err, "Traceback" in broken.err) == (True, False)
    failed = shell("db", "export", "all.jsonl")
    assert (failed.code, "agentflow db check" in failed.err) == (1, True)
    assert not (shell.folder / "all.jsonl").exists()


def test_payloads_are_removed_by_hand(shell: Shell, filled: str) -> None:
    """First counted, then removed; the run is still shown, and says so; it cannot be forked any more."""
    assert shell("db", "prune", "--json").json()["runs"] == 0
    would = shell("db", "prune", "--older-than", "0", "--dry-run", "--json").json()
    assert (would["runs"], would["dry_run"]) == (1, True)
    assert would["values"] > 3
    assert shell.look("runs", "show", filled, "--json").json()["result"] is not None
    gone = shell("db", "prune", "--older-than", "0", "--json").json()
    assert gone == would | {"dry_run": False}
    shown = shell("runs", "show", filled, "--json").json()
    assert (shown["result"], shown["parameters"], shown["pruned"] is not None) == (None, {}, True)
    assert "pruned" in shell("runs", "show", filled).out
    name = shown["steps"][0]["name"]
    forked = shell("runs", "fork", filled, "--from", f"{name}#1")
    assert (forked.code, "were removed on" in forked.err) == (2, True)


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_a_journal_is_carried_elsewhere(shell: Shell, filled: str, tmp_path: Path, name: str) -> None:
    """Exported, imported, and shown there as it was here; a second import is refused."""
    assert shell("db", "export", name).code == 0
    other = elsewhere(shell, tmp_path)
    assert other("db", "import", name).code == 0
    here, there = (at("runs", "show", filled, "--json").json() for at in (shell, other))
    assert there == here
    again = other("db", "import", name)
    assert (again.code, "is not empty" in again.err) == (2, True)


def test_what_cannot_be_imported_is_refused(shell: Shell, filled: str, tmp_path: Path) -> None:
    """By name, with exit code 2, and the journal stays empty."""
    shell("db", "export", "all.jsonl")
    assert shell("db", "export", "all.jsonl").code == 2
    folder = shell.folder
    lines = (folder / "all.jsonl").read_text().splitlines(keepends=True)
    (folder / "cut.jsonl").write_text("".join(lines[:-1]))
    (folder / "bad.jsonl").write_text("".join(lines[:3]) + "{")
    (folder / "other.jsonl").write_text('{"some": "thing"}\n')
    (folder / "list.jsonl").write_text(lines[0] + '["run"]\n')
    (folder / "type.jsonl").write_text(
        "".join(lines).replace('"created": ', '"created": "a day", "ended": ', 1)
    )
    (folder / "zip.jsonl.gz").write_bytes(b"not compressed")
    other = elsewhere(shell, tmp_path)
    for name, said in {
        "cut.jsonl": "is cut off", "bad.jsonl": "cannot read", "other.jsonl": "was not written by",
        "list.jsonl": "cannot read", "type.jsonl": "cannot read", "zip.jsonl.gz": "cannot read",
        "none.jsonl": "No such file",
    }.items():  # fmt: skip
        refused = other("db", "import", name)
        assert (refused.code, said in refused.err) == (2, True), (name, refused)
    assert other.look("runs", "ls", "--json").json() == []
    (tmp_path / "strange").mkdir()
    strange = elsewhere(shell, tmp_path / "strange", key=False)
    refused = strange("db", "import", "all.jsonl")
    assert (refused.code, "another installation" in refused.err) == (2, True)


def test_wrong_use_is_explained(shell: Shell) -> None:
    """Negative ages, a switched off retention, a journal in memory."""
    assert "say after how many days" in shell("db", "prune", "--older-than=-1").err
    assert shell("db", "prune", AGENTFLOW_RETENTION_DAYS="0").code == 2
    nowhere = shell("db", "check", AGENTFLOW_DATABASE_URL="memory:")
    assert (nowhere.code, "in memory" in nowhere.err) == (2, True)


def test_large_values_are_checked_and_carried_along(shell: Shell, tmp_path: Path) -> None:
    """The file holds them; the check names one that is missing; a run shows its large result wherever it is."""
    limited = {"AGENTFLOW_PAYLOAD_INLINE_LIMIT": "100"}
    text = "a long line " * 20
    done = shell("run", f"{FLOWS}:echoed", "-p", f"text={text}", "--json", **limited)
    assert (done.code, done.json()["result"]) == (0, text), done.err
    assert shell("db", "check").code == 0
    assert shell("db", "export", "all.jsonl").code == 0
    other = elsewhere(shell, tmp_path)
    lines = (shell.folder / "all.jsonl").read_text().splitlines(keepends=True)
    name, number, chunk = json.loads(lines[-2])
    chunk = b64encode(b64decode(chunk).swapcase()).decode()
    lines[-2] = json.dumps([name, number, chunk]) + "\n"
    (shell.folder / "altered.jsonl").write_text("".join(lines))
    refused = other("db", "import", "altered.jsonl")
    assert (refused.code, "was altered" in refused.err) == (2, True)
    assert other("db", "import", "all.jsonl").code == 0
    run_id = str(done.json()["run_id"])
    assert other("runs", "show", run_id, "--json").json()["result"] == text
    (stored, *_) = (Path(other.environment["AGENTFLOW_HOME"]) / "agentflow.db-payloads" / "plain").iterdir()
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-1] + b"?")
    checked = other("db", "check", "--json")
    assert (checked.code, f"{stored.name} was altered" in checked.json()["faults"][0]) == (1, True)
    assert other("db", "check", "--sizes-only").code == 0
    stored.unlink()
    checked = other("db", "check", "--json")
    assert (checked.code, stored.name in checked.json()["faults"][0]) == (1, True)
    failed = other("db", "export", "again.jsonl")
    assert (failed.code, "is missing" in failed.err, "Traceback" in failed.err) == (2, True, False)


def test_stored_values_that_nothing_needs_are_removed(shell: Shell) -> None:
    """Marked by one prune, removed by one after the grace, and counted."""
    limited = {"AGENTFLOW_PAYLOAD_INLINE_LIMIT": "100", "AGENTFLOW_PAYLOAD_GRACE": "0"}
    assert shell("run", f"{FLOWS}:echoed", "-p", f"text={'x' * 200}", **limited).code == 0
    first = shell("db", "prune", "--older-than", "0", **limited)
    assert (first.code, "2 stored values" in first.err) == (0, True), first.err
    second = shell("db", "prune", "--json", **limited).json()["stored_values"]
    assert (second["removed"], second["marked"]) == (2, 0)


def test_keys_are_made_listed_and_changed(shell: Shell) -> None:
    """Values under the old key are encrypted anew; without their key they are shown as encrypted."""
    old, new = (shell("encryption-keys", "generate", name).out.strip() for name in ("old", "new"))
    done = shell("run", f"{FLOWS}:echoed", "-p", "text=canary", "--json", AGENTFLOW_ENCRYPTION_KEYS=old)
    assert (done.code, done.json()["result"]) == (0, "canary"), done.err
    run_id = str(done.json()["run_id"])
    shown = shell("runs", "show", run_id, "--json")
    assert (shown.code, shown.json()["result"]) == (0, "<encrypted (key ID old)>"), shown.err
    assert "encrypted (key ID old)" in shell("runs", "show", run_id).out
    turned = shell("encryption-keys", "rotate", "--json", AGENTFLOW_ENCRYPTION_KEYS=f"{new},{old}")
    assert (turned.code, turned.json()["renewed"]) == (0, 2), turned.err
    listed = shell("encryption-keys", "ls", "--json", AGENTFLOW_ENCRYPTION_KEYS=new).json()
    assert listed == [{"id": "new", "here": True, "encrypts": True, "values": 2}]
    shown = shell("runs", "show", run_id, "--json", AGENTFLOW_ENCRYPTION_KEYS=new).json()
    assert (shown["result"], shown["parameters"]) == ("canary", {"text": "canary"})
    refused = shell("encryption-keys", "rotate")
    assert (refused.code, "no key is set" in refused.err) == (2, True)
