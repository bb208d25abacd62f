"""Writing the server into clients' configuration files."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentflow.errors import FlowNotFoundError, UsageError
from agentflow.mcp.install import CLIENTS, InstallResult, client_line, install

Installed = Callable[..., InstallResult]


@pytest.fixture
def app(home: Path) -> Path:
    path = home / "app.py"
    path.write_text("", encoding="utf-8")
    return path


@pytest.fixture
def installed(home: Path, app: Path) -> Installed:
    def run(client: str, *targets: str) -> InstallResult:
        return install(client, targets or (f"{app}:greet",), folder=home / "project", home=home)

    return run


def test_each_client_has_its_file(installed: Installed, home: Path) -> None:
    """The entry is written where the client looks for it, in the client's own shape."""
    places = {name: installed(name).path.relative_to(home).as_posix() for name in CLIENTS}
    assert places["claude-code"] == "project/.mcp.json"
    assert places["cursor"] == "project/.cursor/mcp.json"
    assert places["vscode"] == "project/.vscode/mcp.json"
    assert places["claude-desktop"].endswith("Claude/claude_desktop_config.json")
    whole = json.loads((home / "project" / ".vscode" / "mcp.json").read_text(encoding="utf-8"))
    assert whole["servers"]["agentflow-app"]["type"] == "stdio"


def test_an_entry_starts_the_server_from_anywhere(installed: Installed, home: Path, app: Path) -> None:
    """Clients have another PATH and working folder: command and file are whole paths, the journal is named."""
    entry = json.loads(installed("claude-desktop").path.read_text(encoding="utf-8"))["mcpServers"][
        "agentflow-app"
    ]
    assert Path(entry["command"]).is_absolute()
    assert entry["args"][-2:] == ["mcp", f"{app}:greet"]
    assert entry["env"] == {"AGENTFLOW_HOME": str(home)}


def test_others_are_kept(installed: Installed, home: Path) -> None:
    """Everything else in the file stays as it was."""
    path = home / "project" / ".mcp.json"
    path.parent.mkdir()
    before = {"theme": "dark", "mcpServers": {"other": {"command": "x", "args": ["ü"]}}}
    path.write_text(json.dumps(before), encoding="utf-8")
    path.chmod(0o600)
    installed("claude-code")
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["theme"] == "dark"
    assert after["mcpServers"]["other"] == {"command": "x", "args": ["ü"]}
    assert "agentflow-app" in after["mcpServers"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("client", CLIENTS)
def test_twice_is_once(installed: Installed, client: str) -> None:
    """Running it again changes nothing and says so."""
    first = installed(client)
    before = first.path.read_bytes()
    again = installed(client)
    assert (first.changed, again.changed) == (True, False)
    assert first.path.read_bytes() == before
    assert again.text.startswith("Already there")


@pytest.mark.parametrize("broken", ["{", "// my servers\n{}", "[]", '{"mcpServers": []}'])
def test_what_cannot_be_understood_is_left_alone(installed: Installed, home: Path, broken: str) -> None:
    """A file that is no plain JSON object is not touched; the error holds the entry to add by hand."""
    path = home / "project" / ".mcp.json"
    path.parent.mkdir()
    path.write_text(broken, encoding="utf-8")
    with pytest.raises(UsageError, match=r"add this by hand: \{.*agentflow-app"):
        installed("claude-code")
    assert path.read_text(encoding="utf-8") == broken


def test_an_empty_file_is_an_empty_configuration(installed: Installed, home: Path) -> None:
    """Clients leave empty files behind."""
    path = home / "project" / ".mcp.json"
    path.parent.mkdir()
    path.write_text("\n", encoding="utf-8")
    assert installed("claude-code").changed


def test_wrong_use_is_explained(installed: Installed, home: Path) -> None:
    """An unknown client, a missing file, no file at all."""
    with pytest.raises(UsageError, match=r"unknown client 'emacs'; there are: claude-code, claude-desktop"):
        installed("emacs")
    with pytest.raises(FlowNotFoundError, match="no such file"):
        installed("cursor", str(home / "missing.py"))
    with pytest.raises(UsageError, match="at least one file"):
        install("cursor", [], folder=home, home=home)


def test_a_password_is_not_written_down(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address with a password stays out of a file that goes into version control."""
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://me:secret@db/x")
    assert "secret" not in installed("claude-code").path.read_text(encoding="utf-8")
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://me@db/x")
    assert "postgresql://me@db/x" in installed("claude-code").path.read_text(encoding="utf-8")


def test_the_line_for_claude_code(app: Path) -> None:
    """One line that a shell understands adds a file to Claude Code."""
    words = shlex.split(client_line(str(app)))
    assert words[:5] == ["claude", "mcp", "add", "agentflow-app", "--"]
    assert words[-2:] == ["mcp", str(app)]


def test_a_symbolic_link_stays_one(installed: Installed, home: Path) -> None:
    """People keep their configuration elsewhere and link to it."""
    path = home / "project" / ".mcp.json"
    path.parent.mkdir()
    (home / "dotfiles.json").write_text("{}", encoding="utf-8")
    path.symlink_to(home / "dotfiles.json")
    installed("claude-code")
    assert path.is_symlink()
    assert "agentflow-app" in (home / "dotfiles.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["agentflow.mcp", "agentflow.mcp.install", "agentflow.mcp.stdio"])
def test_installing_loads_no_mcp_library(module: str) -> None:
    """What the command line needs before it serves costs nothing."""
    program = f"import sys, {module}; sys.exit(bool({{'mcp', 'fastmcp', 'mcp_types'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
