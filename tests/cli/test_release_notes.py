"""The example `release_notes`: what it reads, and where it may write."""

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from agentflow import NotDone
from agentflow.loading import load_module
from tests.cli.conftest import Shell
from tests.cli.test_demo import repository

FILE = Path(__file__).parents[2] / "examples" / "release_notes.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_module(str(FILE))


def test_notes_of_a_repository(shell: Shell) -> None:
    """The run waits for a signature on the notes of the newest commits; signed, they are written."""
    repository(shell.folder, "Add a door", "fix(door): it squeaked", "Paint it\n\nIn green.", "feat: a bell")
    subprocess.run(["git", "-C", shell.folder, "tag", "v1", "HEAD~3"], check=True)
    target = f"{FILE}:release_notes"
    waiting = shell("run", target, "-p", "repo=.", "-p", "since=v1", "--json")
    found = waiting.json()
    assert (waiting.code, found["steps"]) == (3, 13)
    done = shell("approvals", "approve", found["waiting_for"][0]["id"], "--resume", "--json").json()
    assert done["result"] == {"path": "RELEASE_NOTES.md", "commits": 3, "model": "scripted", "refused": ""}
    assert (shell.folder / "RELEASE_NOTES.md").read_text().splitlines()[1:] == [
        "# 3 changes: 1 added, 1 changed, 1 fixed",
        "",
        "- Added: a bell",
        "- Changed: Paint it",
        "- Fixed: it squeaked",
    ]


def test_no_repository(shell: Shell) -> None:
    """A folder without a repository fails with a sentence that says so."""
    done = shell("run", f"{FILE}:release_notes", "--json")
    assert done.code == 1
    assert done.json()["error"]["type"] == "NotARepository"
    assert "not a git repository" in done.json()["error"]["text"]


@pytest.mark.parametrize("name", ["--output=/tmp/x", "-p", "--upload-pack=touch x"])
def test_names_are_no_options(example: ModuleType, tmp_path: Path, name: str) -> None:
    """A commit's name, or a folder, that begins with a dash is refused before git sees it."""
    with pytest.raises(example.NotARepository):
        example.resolve(tmp_path, name)
    with pytest.raises(example.NotARepository):
        example.git(Path(name), "status")


@pytest.mark.parametrize(
    "path",
    [
        "../out.md",
        "/etc/out.md",
        ".git/hooks/pre-commit",
        "away/out.md",
        "link.md",
        "",
        "sub/../../out.md",
        "no/such.md",
    ],
)
def test_writes_only_inside(example: ModuleType, tmp_path: Path, path: str) -> None:
    """The file is confined to the repository: no way up, no symbolic link, nothing of git's own."""
    repo = tmp_path / "repo"
    (repo / ".git" / "hooks").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (repo / "away").symlink_to(tmp_path / "outside")
    (repo / "link.md").symlink_to(tmp_path / "outside" / "target.md")
    with pytest.raises(NotDone):
        example.confined(repo, path)
    assert example.confined(repo, "NOTES.md") == repo / "NOTES.md"


def test_replaces_only_its_own(example: ModuleType, tmp_path: Path) -> None:
    """A file of somebody else's is not overwritten; one of its own is."""
    notes = tmp_path / "NOTES.md"
    notes.write_text("mine")
    with pytest.raises(NotDone):
        example.replace_notes(notes, "other")
    notes.write_text(f"{example.MARK}\nold")
    example.replace_notes(notes, "new")
    assert notes.read_text() == "new"
