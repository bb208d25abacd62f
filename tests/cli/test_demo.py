"""`agentflow demo`: what it claims is measured, and what it leaves can be finished later."""

import subprocess
from pathlib import Path

from tests.cli.conftest import Shell, SitDown


def test_demo_signed_beforehand(shell: Shell) -> None:
    """In an empty home, without a key and a repository: killed half-way, nothing repeated, the file written."""
    done = shell("demo", "--yes", "--no-browser", "--json")
    found = done.json()
    assert done.code == 0, done.err
    assert (found["state"], found["killed"], found["repeated"]) == ("COMPLETED", True, 0)
    assert found["commits"] == 12
    # six answers before the kill; the other six were under way, and dropped; then those, and the headline
    assert (found["model_requests"], found["cut_off"], found["reused_model_answers"]) == (13, 6, 6)
    # the four steps before them, too; more where the steps around the answers had been recorded as well
    assert 4 + found["reused_model_answers"] <= found["reused"] <= found["steps"]
    assert found["steps"] > found["model_requests"]
    assert found["approval"]["verdict"] == "approved"
    assert found["approval"]["channel"] == "terminal"
    notes = Path(found["wrote"])
    assert notes == shell.folder / "home" / "demo" / "RELEASE_NOTES.md"
    assert "- Fixed: double e-mails after a restart\n" in notes.read_text()
    assert "kill -9" in done.err
    assert "claude mcp add agentflow-release_notes -- " in done.err


def test_demo_without_a_person(shell: Shell) -> None:
    """Without --yes and a terminal the demo ends with 3; approving and resuming finish it, the model being gone."""
    waiting = shell("demo", "--no-browser", "--json")
    found = waiting.json()
    assert (waiting.code, found["state"], found["wrote"]) == (3, "PAUSED", None)
    assert found["killed"]
    [question] = found["waiting_for"]
    assert question["kind"] == "approval"
    assert shell("approvals", "approve", question["id"]).code == 0
    done = shell("runs", "resume", found["run_id"], "--json").json()
    assert done["state"] == "COMPLETED"
    assert done["reused"] == found["steps"]
    assert (Path(found["repository"]) / done["result"]["path"]).exists()


def test_demo_in_ones_own_repository(shell: Shell, sit_down: SitDown) -> None:
    """The demo reads the repository one stands in; on a terminal it asks there and on a page, and can be refused."""
    repository(shell.folder, "Add the first file")
    person = sit_down("demo", "--no-browser", "--port", "0")
    person.expect("Release notes from 1 commits")
    person.expect("kill -9")
    person.expect(r"It also waits at http://127.0.0.1:\d+/approvals/approval-")
    person.expect(r"\[l\]ater > ")
    person.type("d")
    person.expect("Why")
    person.type("not now")
    person.type(person.expect("Type the code ([0-9a-f]{6}) to deny: ")[1])
    person.expect("nothing is written")
    person.expect("0 repeated")
    assert person.end() == 0
    assert not (shell.folder / "RELEASE_NOTES.md").exists()
    [run] = shell.look("runs", "ls", "--json").json()
    assert shell.look("runs", "show", run["run_id"], "--json").json()["result"]["refused"] == "not now"


def repository(folder: Path, *subjects: str) -> None:
    """A git repository with a commit per subject."""
    who = ["-c", "user.name=Sam", "-c", "user.email=sam@example.com"]
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for subject in subjects:
        subprocess.run(
            ["git", "-C", folder, *who, "commit", "--quiet", "--allow-empty", "-m", subject], check=True
        )
