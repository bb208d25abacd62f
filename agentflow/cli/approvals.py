"""``agentflow approvals``: what waits for a person, and the person's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import App, Parameter

from agentflow.approvals.decisions import decide
from agentflow.cli import persons
from agentflow.cli.execution import present
from agentflow.cli.finding import find_run, find_wait
from agentflow.cli.output import (
    COMPLETED,
    age,
    has_terminal,
    json_line,
    people,
    print_json,
    print_line,
    print_table,
    result_stream,
    say,
)
from agentflow.cli.parameters import read_json, read_object, read_pairs
from agentflow.cli.questions import edit_arguments, question_panel, read_answer, ways_to_decide
from agentflow.cli.run import Flag
from agentflow.cli.runs import resume_run
from agentflow.errors import DecisionRefusedError, UsageError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.model.waits import PERSON_KINDS, Assurance, Channel, Verdict, Wait, WaitKind
from agentflow.shells import person
from agentflow.views import wait_view

app = App(
    name="approvals",
    help="Decide as a person: sign, edit or deny side effects, and answer a run's other questions.",
)


@Parameter(name="*")
@dataclass(frozen=True)
class Manner:
    """What every decision can be given with."""

    code: Annotated[
        str | None, Parameter(help="The question's code (`approvals show`), instead of typing it when asked.")
    ] = None
    reason: Annotated[str, Parameter(help="Recorded with the decision; the run is told.")] = ""
    resume: Annotated[
        bool, Parameter(negative=(), help="Then go on with the run here, as `runs resume` does.")
    ] = False
    json: Annotated[
        bool, Parameter(negative=(), help="Print the decided question as JSON (with --resume: the run).")
    ] = False


_PLAIN = Manner()

Arguments = Annotated[
    tuple[str, ...],
    Parameter(name="--arg", negative=(), help="An argument to execute instead, name=value; repeatable."),
]


@app.command
def ls(*, all: Flag = False, run: str = "", json: Flag = False) -> int:  # noqa: A002 - the option is --all
    """List what waits for a person, oldest first.

    Args:
        all: Also what is decided, newest first.
        run: Only of this run (its id, or an end of it).
        json: Print a JSON list.
    """
    journal = open_journal()
    number = find_run(journal, run).number if run else None
    waits = journal.list_waits(number=number, open_only=not all, kinds=PERSON_KINDS)
    if json:
        print_json([wait_view(wait) for wait in waits])
        return COMPLETED
    rows = [_row(wait_view(wait)) for wait in waits]
    print_table(("id", "kind", "flow", "age", "status", "what"), rows, empty="nothing waits for a person")
    return COMPLETED


def _row(view: dict[str, Any]) -> tuple[str, ...]:
    return (
        view["id"],
        view["kind"],
        view["flow"],
        age(view["opened"]),
        view["status"],
        view["name"].split("\n")[0],
    )


@app.command
def show(id: str, /, *, json: Flag = False) -> int:  # noqa: A002 - what it is
    """Show a question whole: what is asked, with which arguments, and how to answer.

    Args:
        id: Id of the question, or an end of it.
        json: Print a JSON object.
    """
    journal = open_journal()
    wait = find_wait(journal, id)
    view = wait_view(wait)
    if json:
        print_json(view)
        return COMPLETED
    for name in ("id", "kind", "name", "flow", "run_id", "message", "opened", "expires", "code", "status"):
        if view[name]:
            print_line(f"{name:<12}{view[name]}")
    arguments: dict[str, Any] = view["arguments"] or {}
    for name, value in arguments.items():
        text = value if isinstance(value, str) else json_line(value)
        print_line(f"  {name} = {text}" if "\n" not in text else f"  {name}:\n" + _indented(text))
    for name in ("executed", "started", "evidence", "asked", "recorded"):
        if view["question"].get(name) is not None:
            print_line(f"{name:<12}{json_line(view['question'][name])}")
    if view["decision"] is not None:
        print_line(f"{'decision':<12}{json_line(view['decision'])}")
    elif wait.is_open:
        for command in ways_to_decide(wait):
            say(command)
    return COMPLETED


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


@app.command
def approve(id: str, /, *, arg: Arguments = (), manner: Manner = _PLAIN) -> int:  # noqa: A002 - what it is
    """Sign a side effect, so that it is executed once, with the arguments shown.

    Args:
        id: Id of the approval, or an end of it.
        arg: An argument to execute instead.
        manner: How the decision is given.
    """
    journal, wait = _open_question(id)
    edited = read_pairs(arg, wait.schema, "--arg") if arg else None
    return _answer(journal, wait, Verdict.APPROVED, "approve", edited, manner)


@app.command
def edit(
    id: str,  # noqa: A002 - what it is
    /,
    *,
    arg: Arguments = (),
    args: str | None = None,
    manner: Manner = _PLAIN,
) -> int:
    """Sign a side effect with other arguments; on a terminal, without --arg and --args, an editor opens.

    Args:
        id: Id of the approval, or an end of it.
        arg: An argument to execute instead.
        args: All changed arguments as one JSON object.
        manner: How the decision is given.
    """
    journal, wait = _open_question(id)
    if arg or args is not None:
        edited = {**read_object(args, "--args"), **read_pairs(arg, wait.schema, "--arg")}
    elif has_terminal():
        edited = edit_arguments(wait)
    else:
        message = (
            f"say what to change in {wait.id}: --arg name=value or --args JSON (an editor needs a terminal)"
        )
        raise UsageError(message)
    return _answer(journal, wait, Verdict.APPROVED, "approve", edited, manner)


@app.command
def deny(id: str, /, *, manner: Manner = _PLAIN) -> int:  # noqa: A002 - what it is
    """Refuse a side effect, or decline to answer a flow's question. The flow gets `ApprovalDenied` with the reason.

    Args:
        id: Id of the approval or the question, or an end of it.
        manner: How the decision is given.
    """
    journal, wait = _open_question(id)
    return _answer(journal, wait, Verdict.DENIED, "deny", None, manner)


@app.command
def happened(id: str, /, *, result: str = "null", manner: Manner = _PLAIN) -> int:  # noqa: A002 - what it is
    """Of a side effect in doubt: it happened. It is not run again, and `--result` is its result.

    Args:
        id: Id of the question, or an end of it.
        result: What it returned, as JSON; default: null.
        manner: How the decision is given.
    """
    journal, wait = _open_question(id)
    return _answer(journal, wait, Verdict.HAPPENED, "confirm", read_json(result, "--result"), manner)


@app.command(name="run-again")
def run_again(id: str, /, *, manner: Manner = _PLAIN) -> int:  # noqa: A002 - what it is
    """Of a side effect in doubt: run it again. This is a new signature for the same arguments.

    Args:
        id: Id of the question, or an end of it.
        manner: How the decision is given.
    """
    journal, wait = _open_question(id)
    return _answer(journal, wait, Verdict.RUN_AGAIN, "run it again", None, manner)


@app.command
def fail(id: str, /, *, manner: Manner = _PLAIN) -> int:  # noqa: A002 - what it is
    """Of a side effect in doubt, or of changed code: let the step fail.

    Args:
        id: Id of the question, or an end of it.
        manner: How the decision is given.
    """
    journal, wait = _open_question(id)
    return _answer(journal, wait, Verdict.FAIL, "fail", None, manner)


@app.command(name="continue")
def go_on(id: str, /, *, manner: Manner = _PLAIN) -> int:  # noqa: A002 - what it is
    """Of changed code: go on with the side effect that it asks for now.

    Args:
        id: Id of the question, or an end of it.
        manner: How the decision is given.
    """
    journal, wait = _open_question(id)
    return _answer(journal, wait, Verdict.CONTINUE, "continue", None, manner)


@app.command
def answer(id: str, value: str, /, *, manner: Manner = _PLAIN) -> int:  # noqa: A002 - what it is
    """Answer a question that a flow asked (`request_input`).

    Args:
        id: Id of the question, or an end of it.
        value: The answer: text where the flow wants text, else JSON.
        manner: How the decision is given.
    """
    journal, wait = _open_question(id)
    if wait.kind is not WaitKind.INPUT:
        message = f"{wait.id} asks for a decision: {', '.join(ways_to_decide(wait))}"
        raise DecisionRefusedError(message)
    return _answer(journal, wait, Verdict.ANSWERED, "answer", read_answer(value, wait), manner)


def _open_question(text: str) -> tuple[Journal, Wait]:
    journal = open_journal()
    return journal, find_wait(journal, text)


def _answer(journal: Journal, wait: Wait, verdict: Verdict, verb: str, answer: Any, manner: Manner) -> int:
    assurance = Assurance.NONE
    if wait.is_open:  # a decided one is refused below, with the reason
        if has_terminal() and manner.code is None:
            people().print(question_panel(wait))
        assurance = persons.sign(wait, manner.code, verb)
    decided = decide(
        journal,
        wait.id,
        verdict,
        answer=answer,
        reason=manner.reason,
        actor=person(),
        channel=Channel.TERMINAL,
        assurance=assurance,
    )
    run = find_run(journal, wait.run_id)
    if manner.resume and not journal.is_owned(run):
        with result_stream(alone=manner.json) as stream:
            return present(resume_run(journal, run), json=manner.json, stream=stream)
    if manner.json:
        print_json(wait_view(decided))
        return COMPLETED
    say(f"{verdict.value.replace('_', ' ')}: {wait.name} ({wait.id})", style="green")
    if journal.is_owned(run):
        say(f"Its run goes on in the process that owns it ({run.owner}).")
    else:
        print_line(f"agentflow runs resume {run.id}")
    return COMPLETED
