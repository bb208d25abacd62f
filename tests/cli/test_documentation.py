"""What README and docs say of the command line is there, and their programs do what the text says."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from agentflow.cli.main import build
from agentflow.shells import AGENT_VARIABLES, WORKER_VARIABLE
from agentflow.testing.models import ModelRequest, Reply, ScriptedModelServer
from tests.cli.conftest import Shell

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "quickstart",
            "cli",
            "caching",
            "task-runners",
            "coming-from-prefect",
            "deployments",
            "limits",
            "postgresql",
            "remote-workers",
            "payloads",
        )
    ),
]
HELP = {"help", "h", "version"}


def commands(app: App, words: tuple[str, ...] = ("agentflow",)) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command that can be called, with the words that call it."""
    for name in app:
        if name.startswith("-"):
            continue
        found = app[name]
        whole = (*words, name)
        if found.default_command is not None:
            yield whole, found
        yield from commands(found, whole)


def options(command: App) -> set[str]:
    """The long options of a command."""
    arguments = command.assemble_argument_collection()
    return {
        name
        for argument in arguments
        for name in (*argument.names, *argument.negatives)
        if name.startswith("--") and argument.parse
    }


def section(text: str, words: tuple[str, ...]) -> str:
    """The part of docs/cli.md that is about a command."""
    found = re.search(rf"^## agentflow {words[1]}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/cli.md has no section on agentflow {words[1]}"
    return found[1]


def test_every_command_and_option_is_documented() -> None:
    """docs/cli.md names every command, and in its section every option."""
    text = (ROOT / "docs" / "cli.md").read_text()
    found = list(commands(build()))
    assert len(found) > 20
    for words, command in found:
        part = section(text, words)
        assert len(words) == 2 or f"`{' '.join(words)}" in part, words
        missing = {name for name in options(command) if not re.search(rf"{name}\b", part)}
        assert missing == set(), words


def test_documented_commands_exist() -> None:
    """Every `agentflow ...` line of a console block can be parsed by the program."""
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            for line in re.findall(r"^\$ agentflow (.*)$", block, re.MULTILINE):
                build().parse_args(shlex.split(line), exit_on_error=False, print_error=False)


def test_agent_variables_are_documented() -> None:
    """docs/cli.md lists the variables by which a worker's or a coding agent's shell is known."""
    text = (ROOT / "docs" / "cli.md").read_text()
    assert [name for name in (WORKER_VARIABLE, *AGENT_VARIABLES) if f"`{name}`" not in text] == []


def program(shell: Shell, page: Path, name: str) -> Path:
    """A program of a page, saved as the page says."""
    found = re.search(rf"^```python file={name}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    path = shell.folder / name
    path.write_text(found[1])
    return path


def test_every_program_has_a_name() -> None:
    """Every Python block of these pages is a program that a test here runs."""
    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"^```python ?(.*)$", page.read_text(), re.MULTILINE)
    }
    programs = ["shop", "slow", "summary", "waits"]
    assert named == {("README.md", "file=shop.py"), ("README.md", "file=summary.py")} | {
        ("quickstart.md", f"file={name}.py") for name in programs
    } | {("caching.md", "file=rates.py"), ("caching.md", "file=once.py")} | {
        ("task-runners.md", "file=primes.py"),
        ("task-runners.md", "file=totals.py"),  # run by tests/runners
        ("task-runners.md", "file=squares.py"),  # the same
        ("coming-from-prefect.md", "file=report.py"),
        ("deployments.md", "file=reports.py"),
        ("limits.md", "file=imports.py"),
        ("payloads.md", "file=pages.py"),
    }


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_shop(shell: Shell, page: Path) -> None:
    """The first example waits for a signature with exit code 3, and goes on when it has it."""
    shop = program(shell, page, "shop.py")
    waiting = shell("run", shop, "-p", "order_id=A-17", "--json")
    assert waiting.code == 3
    wait = waiting.json()["waiting_for"][0]["id"]
    done = shell("approvals", "edit", wait, "--arg", "amount=7", "--resume", "--json").json()
    assert (done["result"], done["reused"]) == ("refunded 7 for A-17", 1)


def test_total(shell: Shell) -> None:
    """The second program of the quickstart, with fewer parts."""
    assert shell("run", program(shell, PAGES[1], "slow.py"), "-p", "parts=3").out == "5\n"


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_summary(shell: Shell, page: Path) -> None:
    """The model is asked once, in a step of the model's kind."""

    def script(request: ModelRequest) -> Reply:
        return Reply(f"In short: {request.prompt.rpartition(': ')[2]}")

    path = program(shell, page, "summary.py")
    with ScriptedModelServer(script) as server:
        keys = {"OPENAI_BASE_URL": server.openai_url, "OPENAI_API_KEY": "none"}
        done = shell("run", path, "-p", "text=much", "--json", **keys).json()
        assert (done["result"], done["steps"], len(server.requests)) == ("In short: much", 1, 1)
    assert shell.look("runs", "show", done["run_id"], "--json").json()["steps"][0]["kind"] == "model"


def test_waits(shell: Shell) -> None:
    """A person's answer, an event and a timer, each in a command of its own."""
    path = program(shell, PAGES[1], "waits.py")
    asked = shell("run", path, "-p", "order_id=A-17", "--json").json()
    wait = asked["waiting_for"][0]["id"]
    answered = shell("approvals", "answer", wait, '{"town": "Bern"}', "--resume")
    assert answered.code == 4
    assert shell.look("events", "send", asked["run_id"], "packed").code == 0
    codes: list[int] = []
    while (done := shell("runs", "resume", asked["run_id"])).code == 4:
        codes.append(done.code)
    assert (done.code, done.out) == (0, "A-17 to Bern\n")
    assert len(codes) < 5


def test_paused(shell: Shell) -> None:
    """A person lets it go on, then fills in a form with other defaults."""
    path = program(shell, ROOT / "docs" / "waiting.md", "paused.py")
    first = shell("run", path, "--json").json()["waiting_for"][0]["id"]
    second = shell("approvals", "answer", first, "true", "--resume", "--json").json()["waiting_for"][0]["id"]
    asked = shell.look("approvals", "show", second)
    assert "Where does A-17 go?" in asked.out
    assert f"""approvals answer {second} '{{"town":"Bern","express":false}}'""" in asked.err
    done = shell("approvals", "answer", second, '{"express": true}', "--resume")
    assert (done.code, done.out) == (0, "A-17 to Bern, express\n")


def test_caching(shell: Shell) -> None:
    """The second run asks for what is new, and `runs show` says why; eight equal calls at once are one."""
    rates = program(shell, PAGES[3], "rates.py")
    assert shell("run", rates, "-p", 'currencies=["EUR"]').code == 0
    second = shell("run", rates, "-p", 'currencies=["EUR", "CHF"]', "--json")
    assert second.err.count("asks for") == 1
    shown = shell.look("runs", "show", second.json()["run_id"]).out
    assert "from the cache: run …" in shown
    assert "not from the cache: argument 'currency' differs (compared with the result of run …" in shown
    once = shell("run", program(shell, PAGES[3], "once.py"), "--json")
    assert (once.json()["result"], once.err.count("loads")) == (["LARGE"] * 8, 1)


def test_rented(shell: Shell) -> None:
    """A run that waits and has hooks on its cancellation ends when it is taken up; they run then, the flow does not."""
    path = program(shell, ROOT / "docs" / "cancelling.md", "rented.py")
    run = shell("run", path, "--json").json()["run_id"]
    cancelled = shell.look("runs", "cancel", run, "--reason", "too expensive")
    ends = f"it ends when somebody takes it up: agentflow runs resume {run}"
    assert f"has hooks on its cancellation; {ends}" in cancelled.err
    assert "has hooks on its cancellation" in shell.look("runs", "show", run).err
    resumed = shell("runs", "resume", run)
    assert (resumed.code, resumed.out) == (1, "given back\n")
    shown = shell.look("runs", "show", run, "--json").json()
    assert shown["state"] == "CANCELLED"
    assert shown["message"].endswith(": too expensive")


def test_trip(shell: Shell) -> None:
    """The transaction of docs/transactions.md holds, or is undone in reverse order."""
    path = program(shell, ROOT / "docs" / "transactions.md", "trip.py")
    assert shell("run", path, "-p", "customer=ann", "--json").json()["result"] == "booked"
    failed = shell("run", path, "-p", "customer=ann", "-p", "budget=10", "--json")
    assert failed.json()["error"]["type"] == "ValueError"
    steps = shell.look("runs", "show", failed.json()["run_id"], "--json").json()["steps"]
    hooks = [step["seq"] for step in steps if step["kind"] == "hook"]
    assert len(hooks) == 2
    assert next(step["event"] for step in steps if step["kind"] == "transaction") == "rolled_back"


def test_limits(shell: Shell) -> None:
    """The limits of the page are set as it says, and the program runs under them."""
    page = ROOT / "docs" / "limits.md"
    path = program(shell, page, "imports.py")
    lines = re.findall(r"^\$ agentflow (limits set .*)$", page.read_text(), re.MULTILINE)
    for line in lines:
        assert shell.look(*shlex.split(line)).code == 0
    assert shell("run", path, "--json").json()["result"] == 18
    names = [limit["name"] for limit in shell.look("limits", "ls", "--json").json()]
    assert names == ["api", "flow:import_pages", "report", "tag:database"]


def test_task_runners(shell: Shell) -> None:
    """The parts of a sum are computed in processes."""
    done = shell("run", program(shell, PAGES[4], "primes.py"), "-p", "limit=1000", "--json").json()
    assert (done["result"], done["steps"]) == (168, 4)


def test_what_prefects_users_know(shell: Shell) -> None:
    """The flow of the page runs as a program and from the command line."""
    path = program(shell, PAGES[5], "report.py")
    ran = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "AGENTFLOW_HOME": str(shell.folder / "home")},
    )
    assert ran.stdout == "2 sizes\n16\n"
    done = shell("run", path, "-p", 'names=["one", "three"]', "--json").json()
    assert (done["result"], done["steps"]) == (16, 3)
    shown = shell.look("runs", "show", done["run_id"], "--json").json()["steps"]
    assert [step["event"] for step in shown] == ["cached", "cached", "completed"]


def test_states(shell: Shell) -> None:
    """The program prints what the page says."""
    page = ROOT / "docs" / "states-and-hooks.md"
    printed = re.search(r"It prints:\n\n```\n(.*?)```", page.read_text(), re.DOTALL)
    assert printed is not None
    ran = subprocess.run(
        [sys.executable, program(shell, page, "states.py")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "AGENTFLOW_HOME": str(shell.folder)},
    )
    assert ran.stdout == printed[1]


def test_large_values(shell: Shell) -> None:
    """The program's value is stored beside the journal, and its result is what the page shows."""
    path = program(shell, ROOT / "docs" / "payloads.md", "pages.py")
    assert shell("run", f"{path}:count_pages", "-p", "number=3").out == "200000\n"
    home = Path(shell.environment["AGENTFLOW_HOME"])
    assert len(list((home / "agentflow.db-payloads" / "plain").iterdir())) == 1


def test_deployments(shell: Shell) -> None:
    """The program defines its deployment and executes the runs that other commands ask for."""
    page = ROOT / "docs" / "deployments.md"
    path = program(shell, page, "reports.py")
    served = subprocess.Popen(
        [sys.executable, path], cwd=shell.folder, env=shell.environment, stderr=subprocess.PIPE, text=True
    )
    try:
        while shell.look("deployments", "show", "report/nightly").code:
            assert served.poll() is None
        lines = re.findall(r"^\$ agentflow (.*)$", page.read_text(), re.MULTILINE)
        assert shell(*shlex.split(lines[0])).out == "50\n"
        assert len(shell.look(*shlex.split(lines[1]), "--json").json()) == 1
        assert shell(*shlex.split(lines[2])).out == "50\n"
        deployed = shell.look(*shlex.split(lines[3]), "--json").json()
        assert (deployed["parameters"], deployed["concurrency_limit"]) == ({"factor": 10}, 2)
    finally:
        served.terminate()
        served.communicate()
