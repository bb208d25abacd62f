"""Workers beside the data: an address and a key, and every command works against the server's journal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import FLOWS, Shell, ended
from tests.cli.test_task import program, until_recorded

TASKS = Path(__file__).with_name("background_tasks.py")


class Machines:
    """A machine that serves, with the journal and nobody's flows; and another one, with flows and a key."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.url = ""
        self.server: subprocess.Popen[str] | None = None
        self.started: list[subprocess.Popen[str]] = []

    def serve(self) -> None:
        port = urlsplit(self.url).port or 0
        self.server = self.shell.start("serve", "--port", str(port))
        assert self.server.stdout is not None
        self.url = self.server.stdout.readline().strip()

    def kill_the_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.server.communicate()

    def elsewhere(self, key: str) -> Shell:
        """A shell with an address and a key, and a home of its own; the installation's key is the same."""
        home = self.shell.folder / "elsewhere"
        home.mkdir()
        given = {"AGENTFLOW_DATABASE_URL": self.url, "AGENTFLOW_API_KEY": key, "AGENTFLOW_HOME": str(home)}
        (home / "key").write_bytes((Path(self.shell.environment["AGENTFLOW_HOME"]) / "key").read_bytes())
        return Shell(self.shell.folder, self.shell.environment | given)

    def end(self) -> None:
        for process in (*self.started, self.server):
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def machines(shell: Shell) -> Iterator[Machines]:
    """Both, with a server that runs."""
    made = Machines(shell)
    made.serve()
    yield made
    made.end()


def test_a_worker_works_with_an_address_and_a_key(machines: Machines) -> None:
    """It executes what others ask for, through a kill of its server; people sign where the server is, it cannot."""
    shell = machines.shell
    made = shell.look("keys", "create", "elsewhere", "--json").json()
    elsewhere = machines.elsewhere(made["key"])
    assert elsewhere("run", f"{FLOWS}:doubled", "-p", "numbers=[1, 2]", "--json").json()["result"] == 6
    waiting = elsewhere("run", f"{FLOWS}:payment", "--json")
    assert waiting.code == 3
    wait = waiting.json()["waiting_for"][0]["id"]
    refused = elsewhere("approvals", "approve", wait)
    assert refused.code == 2
    assert f"/approvals/{wait}" in refused.err
    worker = elsewhere.start("worker", f"{FLOWS}:payment", TASKS)
    machines.started.append(worker)
    assert worker.stderr is not None
    said = "".join(iter(worker.stderr.readline, f"journal  {machines.url}\n"))
    assert "flows    payment" in said
    assert "tasks    " in said
    machines.kill_the_server()
    machines.serve()
    assert shell("approvals", "approve", wait).code == 0
    elsewhere.until_world("pay 6 to bob", worker)
    assert elsewhere("runs", "watch", waiting.json()["run_id"]).code == 0
    worker.send_signal(signal.SIGTERM)
    done = ended(worker)
    assert done.code == 0
    shown = elsewhere("runs", "ls", "--json").json()
    assert [run["state"] for run in shown] == ["COMPLETED", "COMPLETED"]
    for process in (waiting, refused, done):
        assert made["key"] not in process.out + process.err


def test_what_a_killed_worker_leaves_goes_on_with_another_one(machines: Machines) -> None:
    """Once its lease has run out; no finished step runs twice. It was asked for, and is read, on the same machine."""
    made = machines.shell.look("keys", "create", "elsewhere", "--json").json()
    elsewhere = machines.elsewhere(made["key"])
    run_id = program(elsewhere, "ask", "total", "3")
    workers = [elsewhere.start("worker", TASKS, AGENTFLOW_LEASE="2")]
    machines.started += workers
    elsewhere.until_world("part 1", workers[0])
    until_recorded(machines.shell, run_id, "part", 2)
    workers[0].kill()
    workers[0].communicate()
    elsewhere.open_the_gate()
    machines.started.append(elsewhere.start("task", "serve", TASKS))
    assert program(elsewhere, "read", run_id) == "5"
    assert elsewhere.world == ["part 0", "part 1", "part 2"]
    shown = elsewhere("runs", "show", run_id, "--json").json()
    assert shown["crashes"] == 1
    refused = elsewhere("db", "check")
    assert (refused.code, machines.url in refused.err) == (2, True)


def test_keys_are_shown_once_and_revoked(machines: Machines) -> None:
    """They are listed without themselves; they are made where the journal is, and by nobody who has one."""
    shell = machines.shell
    text = shell.look("keys", "create", "one").out.strip()
    assert text.startswith("afw_")
    assert shell.look("keys", "create", "\n").code == 2
    [view] = shell.look("keys", "ls", "--json").json()
    assert (view["name"], view["revoked"]) == ("one", None)
    listed = shell.look("keys", "ls").out
    assert "one" in listed
    assert text not in listed
    elsewhere = machines.elsewhere(text)
    assert elsewhere("keys", "create", "two").code == 2
    assert elsewhere("worker").code == 2
    assert elsewhere("runs", "ls").code == 0
    assert shell.look("keys", "revoke", view["id"]).code == 0
    assert shell.look("keys", "revoke", view["id"]).code == 2
    refused = elsewhere("runs", "ls")
    while refused.code == 0:  # it is believed for a moment
        refused = elsewhere("runs", "ls")
    assert (refused.code, text in refused.err) == (2, False)
    assert "agentflow keys create" in refused.err
    nobody = elsewhere("runs", "ls", AGENTFLOW_API_KEY="")
    assert (nobody.code, "AGENTFLOW_API_KEY" in nobody.err) == (2, True)
