"""``agentflow runs show``: one run, its steps, and what became of each of them in a life of the run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from agentflow.cli.execution import tell_doubts, tell_waits, tell_what_is_left
from agentflow.cli.finding import find_run
from agentflow.cli.output import COMPLETED, json_text, print_json, print_line, when
from agentflow.cli.progress import RunProgress
from agentflow.cli.run import Flag
from agentflow.engine.account import name_of_end
from agentflow.engine.forks import in_words
from agentflow.errors import UsageError
from agentflow.explaining import NEW, history_view
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.limit_views import Queues
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.payloads.failures import describe_failure
from agentflow.payloads.opening import open_codec
from agentflow.views import in_doubt, plain, steps_of, waiting_view

_CHILDREN = 50
#: Characters of a line that is not for a terminal.
_WIDEST = 10_000
#: Digits at the end of a step's id that are shown; ``--from`` takes them.
SHORT_ID = 8
_STYLES = {"reused": "cyan", "new": "green", "re-executed": "yellow", "in doubt": "red", "removed": "magenta"}


def show(run: str, /, *, life: int | None = None, json: Flag = False) -> int:
    """Show a run: its arguments, its steps, what it waits for, its result or its traceback.

    Of a run that went on after a crash, a wait, an error or a fork it says which steps were reused, which ran, and why.

    Args:
        run: Id of the run, or an end of it.
        life: Say that of this life of the run; default: of the last one.
        json: Print a JSON object.
    """
    journal = open_journal()
    found = find_run(journal, run)
    view = _view(journal, found, life)
    if json:
        print_json(view)
        return COMPLETED
    _tell_facts(found, view)
    progress = RunProgress(journal, found)
    progress.reasons = True
    progress.recorded, progress.ids = frozenset(), SHORT_ID  # this is no life in which some steps are old
    count = len(progress.steps)
    headline = Text(f"{found.flow}: {count} step{'s' * (count != 1)}", style="bold")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDEST  # a step stays one line of a file
    console.print(progress.final(headline))
    _explain(view)
    if view["result"] is not None:
        print_line(f"result      {json_text(view['result'])}")
    if found.error is not None:
        failure = view["error"]
        print_line(failure["traceback"].rstrip() or f"{failure['type']}: {failure['text']}")
    tell_doubts(view["in_doubt"])
    tell_what_is_left(journal, found)
    waits_no_more = found.state.is_final or found.state is StateType.CANCELLING
    tell_waits(() if waits_no_more else journal.list_waits(number=found.number))
    return COMPLETED


def _view(journal: Journal, found: Run, life: int | None) -> dict[str, Any]:
    steps = steps_of(journal, found)
    waits = () if found.state.is_final else tuple(journal.list_waits(number=found.number))
    history = history_view(journal, found, life)
    run = Queues(journal).view(found)
    run["state_name"] = run["state_name"] or name_of_end(journal, found)
    if life is not None and history["explanation"] is None:
        numbers = ", ".join(str(known["life"]) for known in history["lives"]) or "none"
        message = f"run {found.id} has no life {life}; it has: {numbers}"
        raise UsageError(message)
    return (
        run
        | _values(journal, found)
        | {
            "owned": journal.is_owned(found),
            "children": [
                child.id for child in journal.list_runs(RunFilter(limit=_CHILDREN, parent=found.id))
            ],
            "waiting_for": waiting_view(waits),
            "in_doubt": in_doubt(journal, found, steps),
            "steps": steps,
        }
        | history
    )


def _values(journal: Journal, found: Run) -> dict[str, Any]:
    """Arguments, result and error: for somebody at a terminal who has the keys, also those that are encrypted."""
    opened = open_codec(journal).open
    return {
        "parameters": plain(found.parameters, opened),
        "result": plain(found.result, opened),
        "error": None if found.error is None else describe_failure(found.error, opened),
    }


def _tell_facts(found: Run, view: dict[str, Any]) -> None:
    parts = ("run_id", "name", "flow", "entrypoint", "deployment", "parent", "state", "message")
    details = {"state": view["state_name"], "deployment": view["deployment_version"]}
    for name in (*parts, "created", "started", "ended"):
        if view[name]:
            more = f" ({details[name]})" if details.get(name) else ""
            print_line(f"{name:<12}{view[name]}{more}")
    _tell_slots(found, view)
    if found.tags:
        print_line(f"{'tags':<12}{', '.join(found.tags)}")
    print_line(f"{'origins':<12}{', '.join(found.origins)}")
    for child in view["children"]:
        print_line(f"{'child':<12}{child}")
    if found.crashes:
        print_line(f"{'crashes':<12}{found.crashes}")
    if view["pruned"]:
        print_line(f"{'pruned':<12}{view['pruned']}: arguments, values and log were removed")
    fork = view["forked_from"]
    if fork is not None:
        print_line(f"{'forked from':<12}{fork['run_id']} at {fork['name']} ({fork['step'][-SHORT_ID:]})")
        for effect in fork["happened"]:
            print_line(f"{'':<12}which did from there on {in_words(effect)}")
    if len(view["lives"]) > 1:
        lives = ", ".join(f"{life['life']} {life['end']}" for life in view["lives"])
        print_line(f"{'lives':<12}{lives}")
    print_line(f"{'arguments':<12}{json_text(view['parameters'])}")


def _tell_slots(found: Run, view: dict[str, Any]) -> None:
    """What the run, or a step of it, waits for that somebody else holds."""
    for slot in view["awaiting_slots"]:
        step = "" if slot["step"] == found.flow else f", in {slot['step']}"
        print_line(f"{'waits':<12}for {slot['text']}{step}, since {when(slot['since'])}")


def _explain(view: dict[str, Any]) -> None:
    """What became of the steps in a life, where there is more to say than that they were new."""
    explanation: dict[str, Any] = view["explanation"] or {"groups": []}
    groups: list[dict[str, Any]] = explanation["groups"]
    if all(group["how"] == NEW and not group["reason"] for group in groups):
        return
    counts = ", ".join(f"{count} {how}" for how, count in explanation["counts"].items())
    code = " under changed code" if explanation["changed_code"] else ""
    console = Console(highlight=False)
    console.print(Text(f"life {explanation['life']}{code}: {counts}", style="bold"), soft_wrap=True)
    for group in groups:
        many = f" x{group['count']}" if group["count"] > 1 else f" {group['steps'][0][-SHORT_ID:]}"
        line = Text.assemble(
            (f"  {group['how']:<14}", _STYLES.get(group["how"], "")), group["name"], (many, "dim")
        )
        if group["reason"]:
            line.append(f"  {group['reason']}")
        console.print(line, soft_wrap=True)
