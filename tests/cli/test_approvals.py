"""`agentflow approvals`: a person's decisions from the terminal (R6), and what refuses to be one."""

import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from agentflow.flows import default_options
from agentflow.shells import AGENT_VARIABLES, WORKER_VARIABLE
from tests.cli import command_line_flows
from tests.cli.conftest import FLOWS, Shell, SitDown, ended
from tests.cli.test_run import one_line


def waiting(shell: Shell, flow: str = "payment", *arguments: str) -> tuple[str, str]:
    """A run that waits for a person; its id and the question's."""
    found: dict[str, Any] = shell("run", f"{FLOWS}:{flow}", "--json", *arguments).json()
    return found["run_id"], found["waiting_for"][0]["id"]


def test_approval_and_resume_without_a_terminal(shell: Shell) -> None:
    """Approving prints the resume command; the decision counts least, and the effect happens once."""
    run, wait = waiting(shell)
    approved = shell.look("approvals", "approve", wait)
    assert (approved.code, approved.out) == (0, f"agentflow runs resume {run}\n")
    resumed = shell("runs", "resume", run, "--json").json()
    assert (resumed["state"], resumed["result"], resumed["reused"]) == ("COMPLETED", "paid 6 to bob", 1)
    shown = shell.look("approvals", "show", wait, "--json").json()
    assert shown["decision"]["channel"] == "terminal"
    assert shown["decision"]["assurance"] == "none"
    assert shown["decision"]["actor"]
    assert shell.world == ["double 3", "pay 6 to bob"]


def test_a_question_is_decided_once(shell: Shell) -> None:
    """A second decision is refused, and says who was first."""
    _, wait = waiting(shell)
    assert shell.look("approvals", "deny", wait[-6:], "--reason", "too much").code == 0
    again = shell.look("approvals", "approve", wait)
    assert again.code == 2
    assert "already decided (denied by" in one_line(again)


def test_approving_goes_on_at_once(shell: Shell) -> None:
    """With --resume the run goes on in the same command, with the output and exit code of `run`."""
    _, wait = waiting(shell)
    done = shell("approvals", "approve", wait, "--resume", "--json")
    assert (done.code, done.json()["result"]) == (0, "paid 6 to bob")


def test_edited_arguments_are_what_runs(shell: Shell) -> None:
    """Edits by name are read by the tool's schema, checked against it, and executed."""
    _, wait = waiting(shell)
    wrong = shell.look("approvals", "edit", wait, "--arg", "amount=little")
    assert wrong.code == 2
    assert "amount: 'little' is not of type 'integer'" in one_line(wrong)
    unknown = shell.look("approvals", "edit", wait, "--args", '{"sum": 1}')
    assert "pay has no argument 'sum'" in one_line(unknown)
    nothing = shell.look("approvals", "edit", wait)
    assert "--arg name=value or --args JSON" in one_line(nothing)
    done = shell("approvals", "edit", wait, "--arg", "amount=1", "--arg", "to=5", "--resume")
    assert done.out == "paid 1 to 5\n"


def test_denied_effect_fails_with_the_reason(shell: Shell) -> None:
    """A refusal reaches the flow as `ApprovalDenied` with the person's reason."""
    _, wait = waiting(shell)
    done = shell("approvals", "deny", wait, "--reason", "too much", "--resume", "--json")
    assert done.code == 1
    assert done.json()["error"] == {"type": "ApprovalDenied", "text": "pay was denied: too much"}
    assert shell.world == ["double 3"]


def test_answer_to_a_flow(shell: Shell) -> None:
    """A flow's question is answered with a value of the wanted shape."""
    _, wait = waiting(shell, "careful")
    refused = shell.look("approvals", "answer", wait, '{"number": 1}')
    assert "'town' is a required property" in one_line(refused)
    assert "is answered by answered or denied" in one_line(shell.look("approvals", "approve", wait))
    done = shell("approvals", "answer", wait, '{"town": "Bern"}', "--resume")
    assert done.out == "3 to Bern 1\n"


@pytest.mark.parametrize(
    ("verb", "code", "out", "times"),
    [
        (["happened", "--result", '"it did"'], 0, "it did\n", 1),
        (["run-again"], 0, "done\n", 2),
        (["fail"], 1, "", 1),
    ],
)
def test_effect_in_doubt(shell: Shell, verb: list[str], code: int, out: str, times: int) -> None:
    """An effect whose process died in it is never repeated silently: a person says what becomes of it."""
    first = shell.start("run", f"{FLOWS}:doubtful")
    assert ended(first).code == -9 or first.returncode == 9
    [run] = shell.look("runs", "ls", "--json").json()
    _, wait = waiting_again(shell, run["run_id"])
    assert wait.startswith("doubt-")
    waiting_again(shell, run["run_id"])
    assert shell.world == ["risky bob"]
    shell.open_the_gate()
    done = shell("approvals", verb[0], wait, *verb[1:], "--resume")
    assert (done.code, done.out) == (code, out)
    assert shell.world == ["risky bob"] * times


def waiting_again(shell: Shell, run: str) -> tuple[str, str]:
    found = shell("runs", "resume", run, "--json")
    assert found.code == 3
    return run, found.json()["waiting_for"][0]["id"]


@pytest.mark.parametrize("variable", AGENT_VARIABLES)
def test_agents_cannot_sign(shell: Shell, variable: str) -> None:
    """In the shell of a coding agent every decision is refused, and the web page is named."""
    _, wait = asked(shell)
    shell.environment[variable] = "1"
    refused = shell.look("approvals", "approve", wait)
    assert refused.code == 2
    assert f"{variable} is set" in one_line(refused)
    assert f"http://127.0.0.1:4300/approvals/{wait}" in refused.err
    assert shell.look("approvals", "show", wait, "--json").json()["status"] == "open"


def asked(shell: Shell) -> tuple[str, str]:
    """A run that waits for a person, made in this process."""
    with mock.patch.dict(os.environ, shell.environment, clear=True):
        outcome = command_line_flows.payment.run(
            {"amount": 3, "to": "bob"}, options=default_options(suspend_after=0)
        )
    return outcome.run_id, outcome.waiting_for[0].id


def test_workers_cannot_sign(shell: Shell) -> None:
    """What a process that runs flows has started cannot decide."""
    _, wait = waiting(shell)
    refused = shell("approvals", "approve", wait, **{WORKER_VARIABLE: "1"})
    assert refused.code == 2
    assert f"{WORKER_VARIABLE} is set" in one_line(refused)


def test_run_from_an_agents_shell_is_a_models(shell: Shell) -> None:
    """What a coding agent starts counts as started by a model; what a worker's child starts, by nobody known."""
    shell("run", f"{FLOWS}:doubled", "-p", "numbers=[]", CLAUDECODE="1")
    shell("run", f"{FLOWS}:doubled", "-p", "numbers=[]", AGENTFLOW_WORKER="1")
    shell("run", f"{FLOWS}:doubled", "-p", "numbers=[]")
    found = [run["origins"] for run in shell.look("runs", "ls", "--json").json()]
    assert found == [["person"], ["unknown"], ["model"]]


def test_terminal_wants_the_code(shell: Shell, sit_down: SitDown) -> None:
    """On a terminal a person types the code of the arguments; another one decides nothing."""
    _, wait = waiting(shell)
    hasty = sit_down("approvals", "approve", wait)
    hasty.expect("Type the code [0-9a-f]{6} to approve: ")
    hasty.type("yes")
    hasty.expect("that is not its code; nothing was decided")
    assert hasty.end() == 2
    careful = sit_down("approvals", "approve", wait)
    careful.type(careful.expect("Type the code ([0-9a-f]{6}) to approve: ")[1])
    careful.expect("agentflow runs resume")
    assert careful.end() == 0
    view = shell.look("approvals", "show", wait, "--json").json()
    assert view["code"] == view["digest"][:6]
    assert view["decision"]["assurance"] == "low"


def test_code_can_be_given_beforehand(shell: Shell) -> None:
    """--code takes the place of typing it; a wrong one is refused, with or without a terminal."""
    _, wait = waiting(shell)
    wrong = shell.look("approvals", "approve", wait, "--code", "000000")
    assert "that is not its code" in one_line(wrong)
    code = shell.look("approvals", "show", wait, "--json").json()["code"]
    assert shell.look("approvals", "approve", wait, "--code", code).code == 0


def test_run_asks_at_the_terminal(shell: Shell, sit_down: SitDown) -> None:
    """`run` on a terminal shows the question, takes the decision and goes on."""
    person = sit_down("run", f"{FLOWS}:payment")
    person.expect("A side effect wants your signature")
    person.expect(r"amount\s+6")
    person.expect(re.escape("[a]pprove  [e]dit  [d]eny  [l]ater > "))
    person.type("a")
    person.type(person.expect("Type the code ([0-9a-f]{6}) to approve: ")[1])
    person.expect("paid 6 to bob")
    person.expect("COMPLETED")
    assert person.end() == 0
    assert shell.world == ["double 3", "pay 6 to bob"]


def test_later_leaves_the_question(shell: Shell, sit_down: SitDown) -> None:
    """Whoever wants to decide later leaves a waiting run: exit code 3, and how to go on."""
    person = sit_down("run", f"{FLOWS}:payment")
    person.expect("later > ".replace("later", r"\[l\]ater"))
    person.type("l")
    person.expect("agentflow approvals approve approval-")
    assert person.end() == 3


def test_answer_elsewhere_ends_the_question(shell: Shell, sit_down: SitDown) -> None:
    """A question on the terminal goes away as soon as it is answered elsewhere, and the run goes on."""
    person = sit_down("run", f"{FLOWS}:payment")
    person.expect(r"\[l\]ater > ")
    [wait] = shell.look("approvals", "ls", "--json").json()
    assert shell.look("approvals", "approve", wait["id"]).code == 0
    person.expect("Answered elsewhere: approved by")
    person.expect("paid 6 to bob")
    assert person.end() == 0


def test_editor_opens_on_a_terminal(shell: Shell, sit_down: SitDown) -> None:
    """`edit` on a terminal opens the editor with the arguments; what is saved is what runs."""
    _, wait = waiting(shell)
    editor = Path(shell.folder / "editor.sh")
    editor.write_text("#!/bin/sh\nsed -i 's/bob/eve/' \"$1\"\n")
    editor.chmod(0o755)
    person = sit_down("approvals", "edit", wait, "--resume", EDITOR=str(editor))
    person.type(person.expect("Type the code ([0-9a-f]{6}) to approve: ")[1])
    person.expect("paid 6 to eve")
    assert person.end() == 0
