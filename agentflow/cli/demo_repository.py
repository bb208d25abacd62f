"""Which git repository the demo reads: the one that one stands in, a named one, or a sample that it makes itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from agentflow.errors import UsageError

#: Commits of the sample, oldest first: a small library grows up.
SAMPLE_COMMITS = (
    "Add a parser for order numbers",
    "Add refunds with a reason",
    "Fix rounding of amounts below one cent",
    "Add a retry when the payment provider is busy",
    "Remove the deprecated price list",
    "Fix time zones in delivery dates",
    "Speed up the search for customers",
    "Add invoices as PDF",
    "Fix a crash on empty orders",
    "Rename the settings of the mail server",
    "Add Dutch and Polish translations",
    "Fix double e-mails after a restart",
)
_FIRST_DAY = 1_767_225_600  # 2026-01-01
_DAY = 86_400
_SECONDS = 30


def choose(named: Path | None, home: Path) -> tuple[Path, bool]:
    """The repository, and whether it is the sample. Raises `UsageError` where git or the named one is missing."""
    if shutil.which("git") is None:
        message = "the demo reads the commits of a git repository, and git is not installed"
        raise UsageError(message)
    if named is not None:
        found = top_of(named)
        if found is None:
            message = f"{named} is not in a git repository with commits"
            raise UsageError(message)
        return found, False
    found = top_of(Path.cwd())
    return (found, False) if found is not None else (sample(home / "demo"), True)


def top_of(folder: Path) -> Path | None:
    """The top of the repository around `folder`; None where there is none, or none with commits."""
    if not folder.is_dir():
        return None
    top = _git(folder, "rev-parse", "--show-toplevel")
    return Path(top.strip()) if top and _git(folder, "rev-parse", "--verify", "--quiet", "HEAD") else None


def count_commits(top: Path, limit: int) -> int:
    """How many commits the demo's flow will read."""
    counted = _git(top, "rev-list", "--count", "--no-merges", f"--max-count={limit}", "HEAD", "--")
    return int(counted or 0)


def sample(folder: Path) -> Path:
    """The sample repository in `folder`; made there where it is missing."""
    found = top_of(folder)
    if found is not None and found == folder.resolve():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "fast-import", "--quiet", stdin="".join(_commits()))
    _git(folder, "reset", "--hard", "--quiet")
    found = top_of(folder)
    if found is None:
        message = f"git could not make a sample repository in {folder}"
        raise UsageError(message)
    return found


def _commits() -> list[str]:
    """What ``git fast-import`` reads: each commit adds its subject to a file."""
    written: list[str] = []
    text = ""
    for number, subject in enumerate(SAMPLE_COMMITS):
        text += f"{subject}\n"
        when = f"Sam Ple <sam@example.com> {_FIRST_DAY + number * _DAY} +0000"
        written.append(
            f"commit refs/heads/main\nmark :{number + 1}\nauthor {when}\ncommitter {when}\n"
            f"data {len(subject)}\n{subject}\n"
            + (f"from :{number}\n" if number else "")
            + f"M 100644 inline CHANGES.txt\ndata {len(text)}\n{text}\n"
        )
    return written


def _git(folder: Path, *arguments: str, stdin: str = "") -> str:
    """What git prints; "" where it fails."""
    ran = subprocess.run(  # noqa: S603 - fixed arguments
        ["git", "-C", str(folder.resolve()), *arguments],  # noqa: S607 - the git on PATH
        capture_output=True,
        text=True,
        check=False,
        input=stdin,
        timeout=_SECONDS,
    )
    return ran.stdout if ran.returncode == 0 else ""
