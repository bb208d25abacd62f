"""``agentflow doctor``: whether what agentflow needs is there, and what to do where it is not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass

import apsw
from rich.console import Console
from rich.text import Text

from agentflow.cli.output import COMPLETED, FAILED, print_json
from agentflow.cli.run import Flag
from agentflow.errors import UsageError
from agentflow.journal.opening import open_journal
from agentflow.model.waits import PERSON_KINDS
from agentflow.settings import Settings
from agentflow.version import VERSION

#: Names of extras, and the module that each of them brings.
EXTRAS = {"anthropic": "anthropic", "openai": "openai", "postgres": "psycopg", "pydantic-ai": "pydantic_ai"}

_OLDEST_SQLITE = (3, 37, 0)  # STRICT tables


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and whether agentflow works with it."""

    name: str
    #: "ok", "missing" (works without it) or "failed".
    status: str
    found: str


def doctor(*, json: Flag = False) -> int:
    """Check that the home folder, the journal and the extras are in order. Exit code 1 where something must be mended.

    Args:
        json: Print a JSON list.
    """
    checks = (
        [_check(name, look) for name, look in _LOOKS.items()] + [_extra(name) for name in EXTRAS] + [_git()]
    )
    if json:
        print_json([asdict(check) for check in checks])
    else:
        console = Console(highlight=False)
        styles = {"ok": "green", "missing": "yellow", "failed": "red"}
        for check in checks:
            line = Text.assemble(
                (f"{check.status:<8}", styles[check.status]), f"{check.name:<20}{check.found}"
            )
            console.print(line, soft_wrap=True)
    return FAILED if any(check.status == "failed" for check in checks) else COMPLETED


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except (UsageError, OSError) as error:
        return Check(name, "failed", str(error))


def _versions() -> str:
    return f"agentflow {VERSION}, Python {sys.version.split()[0]}"


def _home() -> str:
    home = Settings.from_environment().home
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryFile(dir=home) as probe:
        probe.write(b"agentflow")
        probe.flush()
        os.fsync(probe.fileno())
    free = shutil.disk_usage(home).free // 2**20
    return f"{home} is writable, {free:,} MiB free"


def _sqlite() -> str:
    version = apsw.sqlite_lib_version()
    if tuple(map(int, version.split("."))) < _OLDEST_SQLITE:
        message = f"SQLite {version} is too old; upgrade apsw"
        raise UsageError(message)
    return f"{version} (in apsw)"


def _journal() -> str:
    journal = open_journal()
    waiting = len(journal.list_waits(kinds=PERSON_KINDS))
    return f"{journal.url} opens; {waiting} question{'s' * (waiting != 1)} wait{'s' * (waiting == 1)} for a person"


def _extra(name: str) -> Check:
    if importlib.util.find_spec(EXTRAS[name]) is None:
        return Check(f"extra {name}", "missing", f"pip install 'agentflow[{name}]' if you want it")
    return Check(f"extra {name}", "ok", "installed")


def _git() -> Check:
    path = shutil.which("git")
    if path is None:
        return Check("git", "missing", "only `agentflow demo` and its example need it")
    return Check("git", "ok", path)


_LOOKS = {"versions": _versions, "home": _home, "sqlite": _sqlite, "journal": _journal}
