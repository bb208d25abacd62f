"""A run's questions to people, shown on a terminal and answered there - while they may be answered elsewhere, too."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agentflow.approvals.decisions import decide
from agentflow.cli import persons
from agentflow.cli.output import json_text, people, say
from agentflow.cli.parameters import read_json
from agentflow.errors import DecisionRefusedError, UsageError
from agentflow.journal.protocol import Journal
from agentflow.model.waits import PERSON_KINDS, Channel, Verdict, Wait, WaitKind
from agentflow.shells import person

_VALUE_LINES = 24

_TITLES = {
    WaitKind.APPROVAL: "A side effect wants your signature",
    WaitKind.IN_DOUBT: "Did this happen?",
    WaitKind.DIVERGENCE: "The code has changed",
    WaitKind.INPUT: "A question for you",
}

#: What can be answered to each kind: key, what it says, verdict, verb.
_CHOICES: dict[WaitKind, tuple[tuple[str, str, Verdict, str], ...]] = {
    WaitKind.APPROVAL: (
        ("a", "[a]pprove", Verdict.APPROVED, "approve"),
        ("e", "[e]dit", Verdict.APPROVED, "approve"),
        ("d", "[d]eny", Verdict.DENIED, "deny"),
    ),
    WaitKind.IN_DOUBT: (
        ("h", "it [h]appened", Verdict.HAPPENED, "confirm"),
        ("r", "[r]un it again", Verdict.RUN_AGAIN, "run it again"),
        ("f", "[f]ail", Verdict.FAIL, "fail"),
    ),
    WaitKind.DIVERGENCE: (
        ("c", "[c]ontinue", Verdict.CONTINUE, "continue"),
        ("f", "[f]ail", Verdict.FAIL, "fail"),
    ),
    WaitKind.INPUT: (
        ("a", "[a]nswer", Verdict.ANSWERED, "answer"),
        ("d", "[d]ecline", Verdict.DENIED, "decline"),
    ),
}


def ways_to_decide(wait: Wait) -> list[str]:
    """The commands that answer a question."""
    verbs = {
        WaitKind.APPROVAL: ("approve ID", "edit ID --arg name=value", "deny ID"),
        WaitKind.IN_DOUBT: ("happened ID --result JSON", "run-again ID", "fail ID"),
        WaitKind.DIVERGENCE: ("continue ID", "fail ID"),
        WaitKind.INPUT: (f"answer ID {_example(wait.schema)}", "deny ID"),
    }
    return [f"agentflow approvals {verb.replace('ID', wait.id, 1)}" for verb in verbs.get(wait.kind, ())]


def _example(schema: dict[str, Any]) -> str:
    """How an answer is written in a shell: an object with its defaults, and the types of what has none."""
    parts: dict[str, Any] = schema.get("properties") or {}
    if not parts:
        return "true" if schema.get("type") == "boolean" else "VALUE"
    whole = {name: part.get("default", f"<{part.get('type', name)}>") for name, part in parts.items()}
    return shlex.quote(orjson.dumps(whole).decode())


def question_panel(wait: Wait) -> RenderableType:
    """A question as a person must see it: what is asked, with which arguments, and the code to echo."""
    question = wait.question
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _shown(wait):
        grid.add_row(Text(str(name)), Text(_value_text(value)))
    parts: list[RenderableType] = [Text(str(question.get("message", wait.name)))]
    if question.get("description"):
        parts.append(Text(str(question["description"]).split("\n\n")[0], style="dim"))
    if grid.row_count:
        parts += [Text(""), grid]
    return Panel(
        Group(*parts), title=_TITLES.get(wait.kind, wait.kind.value), subtitle=wait.id, border_style="yellow"
    )


def _shown(wait: Wait) -> list[tuple[str, Any]]:
    question = wait.question
    if wait.kind is WaitKind.APPROVAL:
        return list(question.get("arguments", {}).items())
    names = ("executed", "evidence", "asked", "recorded")
    return [(name, question[name]) for name in names if question.get(name) is not None]


def _value_text(value: Any) -> str:
    text = value if isinstance(value, str) else json_text(value)
    lines = text.splitlines()
    if len(lines) > _VALUE_LINES:
        lines = [
            *lines[:_VALUE_LINES],
            f"... {len(lines) - _VALUE_LINES} more lines (agentflow approvals show)",
        ]
    return "\n".join(lines)


def answer_on_terminal(journal: Journal, waits: list[Wait], *, web: str = "") -> bool:
    """Offer each question to the person at the terminal. False where one is left for later.

    A question that is answered elsewhere meanwhile is gone at once. `web`: where a server shows them, too.
    """
    for wait in waits:
        people().print(question_panel(wait))
        if web:
            say(f"It also waits at {web}/approvals/{wait.id} - whichever answers first counts.", style="dim")
        while True:
            answered = _offer(journal, wait)
            if answered is not None:
                break
        if not answered:
            return False
    return True


def _is_over(journal: Journal, wait: Wait) -> Callable[[], bool]:
    def look() -> bool:
        stored = journal.get_wait(wait.id)
        return stored is None or not stored.is_open

    return look


def _offer(journal: Journal, wait: Wait) -> bool | None:
    """One round: True = it is answered, False = later, None = ask again."""
    choices = {key: (verdict, verb) for key, _, verdict, verb in _CHOICES[wait.kind]}
    labels = "  ".join(label.replace("[", r"\[") for _, label, _, _ in _CHOICES[wait.kind])
    is_over = _is_over(journal, wait)
    key = persons.ask_line(rf"{labels}  \[l]ater > ", is_over)
    if is_over():
        stored = journal.get_wait(wait.id)
        decision = stored.decision if stored is not None else None
        if decision is not None:
            say(
                f"Answered elsewhere: {decision.verdict} by {decision.actor or 'somebody'} ({decision.channel})."
            )
        return True
    if key is None or key.lower() in ("l", "later"):
        return False
    choice = choices.get(key[:1].lower())
    if choice is None:
        return None
    try:
        return _decide(journal, wait, key[:1].lower(), *choice)
    except UsageError as error:
        say(str(error), style="red")
        return None


def _decide(journal: Journal, wait: Wait, key: str, verdict: Verdict, verb: str) -> bool | None:
    answer: Any = None
    reason = ""
    if key == "e":
        answer = edit_arguments(wait)
    elif verdict is Verdict.HAPPENED:
        text = persons.ask_line("Its result, as JSON (empty = null): ")
        answer = read_json(text or "null", "the result")
    elif verdict is Verdict.ANSWERED:
        text = persons.ask_line(f"{wait.question.get('message', wait.name)} ")
        if text is None:
            return None
        answer = read_answer(text, wait)
    elif verdict in (Verdict.DENIED, Verdict.FAIL):
        reason = persons.ask_line("Why? (the run is told) ") or ""
    assurance = persons.sign(wait, None, verb)
    decide(
        journal,
        wait.id,
        verdict,
        answer=answer,
        reason=reason,
        actor=person(),
        channel=Channel.TERMINAL,
        assurance=assurance,
    )
    return True


def read_answer(text: str, wait: Wait) -> Any:
    """A typed answer: text where the question takes text, else JSON if it is JSON."""
    if wait.schema.get("type") == "string":
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def edit_arguments(wait: Wait) -> dict[str, Any]:
    """The arguments as a person leaves them in ``$VISUAL`` or ``$EDITOR``. Raises `DecisionRefusedError`.

    One argument of several lines is edited as the text it is, anything else as a JSON object of all arguments.
    """
    if wait.kind is not WaitKind.APPROVAL:
        message = f"{wait.id} is no approval; only an approval's arguments can be edited"
        raise DecisionRefusedError(message)
    arguments: dict[str, Any] = wait.question.get("arguments", {})
    texts = [name for name, value in arguments.items() if isinstance(value, str) and "\n" in value]
    if len(texts) == 1:
        return {texts[0]: _in_editor(arguments[texts[0]], f"{texts[0]}.md")}
    edited = read_json(_in_editor(json_text(arguments) + "\n", "arguments.json"), "what you wrote")
    if not isinstance(edited, dict):
        message = f"{wait.id}: arguments are a JSON object by name; nothing was decided"
        raise DecisionRefusedError(message)
    return edited  # pyright: ignore[reportUnknownVariableType]


def _in_editor(text: str, name: str) -> str:
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="agentflow-") as folder:
        draft = Path(folder) / name
        draft.write_text(text)
        try:
            ended = subprocess.run([*command, str(draft)], check=False)  # noqa: S603 - the person's own editor
        except OSError as error:
            message = f"cannot start the editor {command[0]!r} ({error.strerror}); set EDITOR, or use --arg name=value"
            raise DecisionRefusedError(message) from None
        if ended.returncode:
            message = f"the editor {command[0]!r} ended with {ended.returncode}; nothing was decided"
            raise DecisionRefusedError(message)
        return draft.read_text()


def questions_of(waits: tuple[Wait, ...] | list[Wait]) -> list[Wait]:
    """Those that a person answers, oldest first."""
    return sorted((wait for wait in waits if wait.kind in PERSON_KINDS), key=lambda wait: wait.opened)
