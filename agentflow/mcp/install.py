"""Writes the server of a flow file into the configuration of MCP clients. Loads no MCP library.

Entries of others are kept, running it twice changes nothing, and a file that cannot be understood is left alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from agentflow.errors import FlowNotFoundError, UsageError
from agentflow.loading import split_target

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What was written, where, and what is left to do."""

    #: The file that holds the entry.
    path: Path
    #: The command that starts the server, as one would type it; for Claude Code, the one that adds it.
    line: str
    #: What to tell the person.
    text: str
    #: The entry's name in the client.
    name: str
    #: Whether the file had to be written.
    changed: bool


@dataclass(frozen=True, slots=True)
class _Client:
    #: How people call it.
    title: str
    #: Its configuration file, from the project's folder and the person's home.
    file: Callable[[Path, Path], Path]
    #: The key under which servers are listed.
    section: str
    #: What an entry has besides command and arguments.
    extra: tuple[tuple[str, str], ...] = ()
    #: What the person does next.
    next_step: str = ""


def _desktop_file(folder: Path, home: Path) -> Path:
    del folder
    if sys.platform == "darwin":
        settings = home / "Library" / "Application Support"
    elif sys.platform == "win32":
        settings = home / "AppData" / "Roaming"
    else:
        settings = home / ".config"
    return settings / "Claude" / "claude_desktop_config.json"


CLIENTS: dict[str, _Client] = {
    "claude-code": _Client(
        "Claude Code",
        lambda folder, _: folder / ".mcp.json",
        "mcpServers",
        (("type", "stdio"),),
        "Start `claude` in that folder and accept the server.",
    ),
    "claude-desktop": _Client("Claude Desktop", _desktop_file, "mcpServers", (), "Restart Claude Desktop."),
    "cursor": _Client(
        "Cursor",
        lambda folder, _: folder / ".cursor" / "mcp.json",
        "mcpServers",
        (),
        "Open that folder in Cursor and switch the server on in its settings.",
    ),
    "vscode": _Client(
        "VS Code",
        lambda folder, _: folder / ".vscode" / "mcp.json",
        "servers",
        (("type", "stdio"),),
        "Open that folder in VS Code and start the server from the file.",
    ),
}


def install(
    client: str, targets: Sequence[str], *, folder: Path | None = None, home: Path | None = None
) -> InstallResult:
    """Write the server of ``FILE`` or ``FILE:FLOW`` targets into a client's configuration.

    Args:
        client: One of `CLIENTS`.
        targets: What ``agentflow mcp`` is to serve.
        folder: The project's folder; default: the working directory.
        home: The person's home folder.

    Raises:
        UsageError: for an unknown client, no target, a file that is no JSON or has another shape.
        FlowNotFoundError: for a target whose file does not exist.
    """
    known = CLIENTS.get(client)
    if known is None:
        raise UsageError(f"unknown client {client!r}; there are: {', '.join(CLIENTS)}")
    whole = [absolute_target(target) for target in targets]
    name = server_name(targets)
    path = known.file(folder or Path.cwd(), home or Path.home())
    command, *arguments = server_command(whole, everywhere=True)
    entry: dict[str, Any] = {**dict(known.extra), "command": command, "args": arguments}
    variables = _variables()
    if variables:
        entry["env"] = variables
    changed = _merge(path, known.section, name, entry)
    line = client_line(*targets) if client == "claude-code" else shlex.join([command, *arguments])
    done = "Wrote" if changed else "Already there:"
    text = f"{done} the server {name!r} in {path}. {known.next_step}"
    return InstallResult(path, line, text, name, changed)


def client_line(*targets: str) -> str:
    """The one line that adds flow files to Claude Code."""
    whole = [absolute_target(target) for target in targets]
    return shlex.join(["claude", "mcp", "add", server_name(targets), "--", *server_command(whole)])


def server_name(targets: Sequence[str]) -> str:
    """The name of the entry, from the first file: ``agentflow-app`` for ``app.py``."""
    if not targets:
        raise UsageError("name at least one file with flows")
    stem = _UNFIT.sub("-", Path(split_target(targets[0])[0]).stem).strip("-")
    return f"agentflow-{stem or 'flows'}"


def server_command(targets: Sequence[str], *, everywhere: bool = False) -> list[str]:
    """The command that serves `targets` on stdio; `everywhere`: also where PATH is not this shell's."""
    beside = Path(sys.executable).with_name("agentflow")
    found = shutil.which("agentflow")
    if beside.is_file():
        short = found is not None and Path(found).resolve() == beside.resolve() and not everywhere
        return ["agentflow" if short else str(beside), "mcp", *targets]
    return [sys.executable, "-m", "agentflow.cli.main", "mcp", *targets]


def absolute_target(target: str) -> str:
    """The target with its file's whole path: clients start servers in folders of their own choice.

    Raises `FlowNotFoundError` where there is no such file.
    """
    file, name = split_target(target)
    path = Path(file).expanduser()
    if not path.is_file():
        raise FlowNotFoundError(f"no such file: {file}")
    return f"{path.resolve()}:{name}" if name else str(path.resolve())


def _variables() -> dict[str, str]:
    """What the server must know of this shell to use the same journal; nothing that may hold a password."""
    names = ("AGENTFLOW_HOME", "AGENTFLOW_DATABASE_URL", "AGENTFLOW_API_URL")
    return {name: value for name in names if (value := os.environ.get(name, "")) and not _has_password(value)}


def _has_password(address: str) -> bool:
    parts = urlsplit(address)
    return parts.password is not None or "password=" in parts.query


def _merge(path: Path, section: str, name: str, entry: dict[str, Any]) -> bool:
    """Put the entry into the file; whether that changed it."""
    whole = _read(path, section, name, entry)
    servers = whole.setdefault(section, {})
    if not isinstance(servers, dict):
        raise UsageError(f"{section!r} in {path} is not an object; {_by_hand(section, name, entry)}")
    listed = cast("dict[str, Any]", servers)
    if listed.get(name) == entry:
        return False
    listed[name] = entry
    _write(path, whole)
    return True


def _read(path: Path, section: str, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    try:
        whole: Any = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        problem = f"{path} is not plain JSON (line {error.lineno}: {error.msg}), so it was left as it is"
        raise UsageError(f"{problem}; {_by_hand(section, name, entry)}") from None
    if not isinstance(whole, dict):
        raise UsageError(
            f"{path} holds no JSON object, so it was left as it is; {_by_hand(section, name, entry)}"
        )
    return cast("dict[str, Any]", whole)


def _by_hand(section: str, name: str, entry: dict[str, Any]) -> str:
    return f"add this by hand: {json.dumps({section: {name: entry}})}"


def _write(path: Path, whole: dict[str, Any]) -> None:
    """Replace the file in one step, so that no client ever reads half of it."""
    real = path.resolve()
    draft = ""
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        mode = real.stat().st_mode & 0o777 if real.exists() else 0o644
        descriptor, draft = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
            os.fchmod(file.fileno(), mode)
        Path(draft).replace(real)
    except OSError as error:
        if draft:
            Path(draft).unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
