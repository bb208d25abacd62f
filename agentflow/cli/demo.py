"""``agentflow demo``: a worker is killed half-way, another goes on, a person signs - in two minutes, without a key."""

from __future__ import annotations

import importlib.util
import json as json_library
import os
import sys
import time
import webbrowser
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from agentflow.approvals.decisions import decide
from agentflow.cli import demo_repository, persons
from agentflow.cli.demo_stage import (
    FLOW,
    KEYS,
    Count,
    HeldModel,
    Worker,
    count,
    flow_file,
    pause,
    run_of,
    worker_environment,
)
from agentflow.cli.execution import tell_waits
from agentflow.cli.output import COMPLETED, FAILED, WAITS_FOR_PERSON, has_terminal, people, print_json, say
from agentflow.cli.progress import RunProgress, watching
from agentflow.cli.questions import answer_on_terminal, question_panel, questions_of
from agentflow.cli.run import Flag
from agentflow.errors import AgentflowError, DecisionRefusedError, UsageError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Journal
from agentflow.loading import load_flow, load_module
from agentflow.mcp.install import client_line
from agentflow.model.runs import Run
from agentflow.model.states import StateType
from agentflow.model.steps import StepEvent, StepKind
from agentflow.model.waits import Channel, Verdict, Wait
from agentflow.payloads.failures import describe_failure
from agentflow.settings import Settings
from agentflow.shells import person
from agentflow.testing.models import ScriptedModelServer
from agentflow.views import plain, waiting_view
from agentflow.workers.inline import InlineWorker

_COMMITS = 12
_PATIENCE = 60.0


@dataclass
class Tour:
    """One showing of the demo: where it plays, and what has been measured."""

    journal: Journal
    file: Path
    repository: Path
    server: ScriptedModelServer | None
    held: HeldModel | None
    commits: int
    started: float = field(default_factory=time.monotonic)
    run: Run | None = None
    killed: bool = False
    #: Steps that the resumed life did not have to execute.
    reused: int = 0
    #: Model answers that were in the journal when the worker was killed.
    answers_at_kill: int = 0
    answered_by: str = ""

    @property
    def target(self) -> str:
        """What ``agentflow run`` takes."""
        return f"{self.file}:{FLOW}"

    def current(self) -> Run:
        """The run as the journal has it now."""
        stored = self.journal.get_run(self.run.id) if self.run is not None else None
        if stored is None:
            message = "the worker made no run; `agentflow doctor` looks for the reason"
            raise AgentflowError(message)
        return stored

    def count(self) -> Count:
        """What has been measured so far."""
        return count(self.journal, self.current(), self.server)


def demo(
    *,
    repo: Path | None = None,
    yes: Flag = False,
    browser: bool = True,
    scripted: Flag = False,
    port: int | None = None,
    json: Flag = False,
) -> int:
    """The two-minute tour: release notes from git commits, a worker killed half-way, and your signature at the end.

    Without a key, a scripted model answers behind a real HTTP server on this machine.

    Args:
        repo: The git repository to read; default: the one you stand in, else a sample that the demo makes.
        yes: Sign as the person at the terminal, without being asked.
        browser: Open the approval in a browser, too, when you are asked (the default).
        scripted: Take the scripted model even though a key is set.
        port: Port of the approval's page; default: AGENTFLOW_PORT, 0 = any free one.
        json: Print one JSON object on stdout.
    """
    if importlib.util.find_spec("openai") is None:
        message = "the demo asks its model through OpenAI's client: pip install 'agentflow[openai]'"
        raise UsageError(message)
    journal = open_journal()
    settings = Settings.from_environment()
    repository, is_sample = demo_repository.choose(repo, settings.home)
    file = flow_file()
    with _stage(journal, file, repository, scripted=scripted) as tour:
        try:
            _open(tour, is_sample=is_sample)
            _kill(tour, _first_life(tour))
            _second_life(tour)
            if tour.current().state is StateType.PAUSED:
                _sign(tour, yes=yes, browser=browser, port=settings.port if port is None else port)
        except KeyboardInterrupt:
            if tour.run is not None:
                say(
                    f"\nInterrupted. What there is of the run goes on with: agentflow runs resume {tour.run.id}"
                )
            raise
        return _close(tour, json=json)


@contextmanager
def _stage(journal: Journal, file: Path, repository: Path, *, scripted: bool) -> Generator[Tour]:
    commits = demo_repository.count_commits(repository, _COMMITS)
    if any(os.environ.get(key) for key in KEYS) and not scripted:
        yield Tour(journal, file, repository, None, None, commits)
        return
    held = HeldModel(load_module(str(file)).scripted_model, max(1, commits // 2))
    with ScriptedModelServer(held) as server:
        try:
            yield Tour(journal, file, repository, server, held, commits)
        finally:
            held.release()


# -- the scenes


def _open(tour: Tour, *, is_sample: bool) -> None:
    where = "a sample repository" if is_sample else str(tour.repository)
    model = "a scripted model on this machine (no key needed)" if tour.server else "the model of your key"
    say(f"Release notes from {tour.commits} commits of {where}, by {model}.", style="bold")
    say(f"Journal: {tour.journal.url}", style="dim")
    _scene(1, "A worker asks the model about every commit, all at once.")


def _scene(number: int, text: str) -> None:
    people().print(Text.assemble((f"\n{number}  ", "bold cyan"), (text, "bold")), soft_wrap=True)


def _first_life(tour: Tour) -> Worker:
    """Run the flow until half of the model's answers are in the journal."""
    parameters = json_library.dumps({"repo": str(tour.repository), "limit": _COMMITS})
    worker = _worker(tour, "run", tour.target, "--params", parameters, "--json", "--no-recover")
    deadline = time.monotonic() + _PATIENCE
    try:
        while tour.run is None and worker.is_alive and time.monotonic() < deadline:
            tour.run = run_of(tour.journal, worker)
            pause()
        if tour.run is None:
            worker.result()
        run = tour.current()
        half = max(1, tour.commits // 2)
        progress = RunProgress(tour.journal, run)
        progress.recorded = frozenset()  # this life has made them all
        with watching(progress):
            while worker.is_alive and _answers(tour.journal, run) < half and time.monotonic() < deadline:
                pause()
    except BaseException:
        worker.close()
        raise
    return worker


def _worker(tour: Tour, *arguments: str) -> Worker:
    url = tour.server.openai_url if tour.server else ""
    return Worker(arguments, tour.repository, worker_environment(url))


def _answers(journal: Journal, run: Run) -> int:
    rows = journal.steps(run.number)
    return sum(row.kind == StepKind.MODEL and row.event == StepEvent.COMPLETED for row in rows)


def _kill(tour: Tour, worker: Worker) -> None:
    if not worker.is_alive:  # a real model was faster than we are
        worker.result()
        return
    tour.answers_at_kill = _answers(tour.journal, tour.current())
    under_way = len(tour.server.requests) - tour.answers_at_kill if tour.server else 0
    asked = f", {under_way} more are under way" if under_way else ""
    say(f"   {tour.answers_at_kill} answers are in the journal{asked}.")
    _scene(2, f"kill -9 {worker.pid}")
    worker.kill()
    tour.killed = True
    if tour.held is not None:
        tour.held.release()
    say("   The worker is dead; nothing of it was asked to tidy up.")


def _second_life(tour: Tour) -> None:
    """Another process resumes the run from its journal."""
    run = tour.current()
    if run.state is not StateType.RUNNING:
        return
    _scene(3, "Another process resumes the run from its journal.")
    tour.reused = _resume(tour)["reused"]
    now = tour.count()
    fresh = now.answers - tour.answers_at_kill
    again = f" ({now.cut_off} of them had been cut off by the kill)" if now.cut_off else ""
    say(
        f"   {tour.reused} steps reused, {tour.answers_at_kill} of them model answers; {fresh} new answers{again}."
    )
    say(f"   Finished steps and answered requests that ran a second time: {now.repeated}.")


def _resume(tour: Tour) -> dict[str, Any]:
    worker = _worker(tour, "runs", "resume", tour.current().id, "--json")
    try:
        with watching(RunProgress(tour.journal, tour.current())):
            while worker.is_alive:
                pause()
        return worker.result()
    except BaseException:
        worker.close()
        raise


def _sign(tour: Tour, *, yes: bool, browser: bool, port: int) -> None:
    """Have the person decide: at the terminal, in the browser, or beforehand by --yes."""
    waits = questions_of(tour.journal.list_waits(number=tour.current().number))
    if not waits:
        return
    _scene(4, "A model has spoken in this run, so a person signs before anything is written.")
    if yes:
        _sign_unasked(tour, waits)
    elif has_terminal() and not persons.agent_variable():
        _ask(tour, waits, browser=browser, port=port)
        return
    if tour.answered_by:
        _resume(tour)


def _sign_unasked(tour: Tour, waits: list[Wait]) -> None:
    for wait in waits:
        people().print(question_panel(wait))
        try:
            assurance = persons.sign(wait, wait.digest[:6], "approve")
        except DecisionRefusedError as refused:
            say(str(refused), style="red")
            return
        decide(
            tour.journal,
            wait.id,
            Verdict.APPROVED,
            reason="agentflow demo --yes",
            actor=person(),
            channel=Channel.TERMINAL,
            assurance=assurance,
        )
    tour.answered_by = "--yes"
    say("   Signed by --yes.")


def _ask(tour: Tour, waits: list[Wait], *, browser: bool, port: int) -> None:
    """Ask at the terminal and on the page at once; the server's worker goes on with the run."""
    from agentflow.server.serving import Server  # noqa: PLC0415 - loads the web server

    flow = load_flow(tour.target)
    worker = InlineWorker(tour.journal, {flow.name: flow}, on_error=say)
    with Server(worker, port=port) as server:
        if browser and _has_window():
            webbrowser.open(f"{server.url}/approvals/{waits[0].id}")
        if not answer_on_terminal(tour.journal, waits, web=server.url):
            return
        tour.answered_by = "a person"
        with watching(RunProgress(tour.journal, tour.current())):
            worker.await_run(tour.current().id, _PATIENCE)


def _has_window() -> bool:
    """Whether there is a desktop; without one, a browser of the terminal would take the terminal over."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _close(tour: Tour, *, json: bool) -> int:
    run, measured = tour.current(), tour.count()
    result: dict[str, Any] = plain(run.result) or {}
    wrote = str(tour.repository / result["path"]) if result.get("path") else None
    waits = [] if run.state.is_final else tour.journal.list_waits(number=run.number)
    _scene(5, f"Written: {wrote}" if wrote else f"{run.state.value.capitalize()}: nothing is written.")
    say(
        f"   {measured.steps} steps, {measured.model_requests} model requests, {tour.reused} steps reused, "
        f"{measured.repeated} repeated, {time.monotonic() - tour.started:.1f} s."
    )
    if run.error is not None:
        failure = describe_failure(run.error)
        say(f"   {failure['type']}: {failure['text']}", style="red")
    tell_waits(waits)
    if waits:
        say(f"Then go on with: agentflow runs resume {run.id}")
    say("\nPut this flow into your chat, where its approvals appear, too:")
    say(f"  {client_line(tour.target)}", style="bold")
    if json:
        print_json(_object(tour, run, measured, wrote, waits))
    if run.state is StateType.COMPLETED:
        return COMPLETED
    return FAILED if run.state.is_final or not waits else WAITS_FOR_PERSON


def _object(tour: Tour, run: Run, measured: Count, wrote: str | None, waits: list[Wait]) -> dict[str, Any]:
    asked = tour.journal.list_waits(number=run.number, open_only=False)
    approval = next((wait for wait in asked if wait.kind == "approval"), None)
    waiting = waiting_view(waits)
    for entry in waiting:
        entry["url"] = persons.decision_page(entry["id"])
    return {
        "run_id": run.id,
        "state": run.state.value,
        "repository": str(tour.repository),
        "commits": tour.commits,
        "steps": measured.steps,
        "model_requests": measured.model_requests,
        "cut_off": measured.cut_off,
        "reused": tour.reused,
        "reused_model_answers": tour.answers_at_kill,
        "repeated": measured.repeated,
        "killed": tour.killed,
        "approval": approval and _approval(approval),
        "wrote": wrote,
        "waiting_for": waiting,
        "elapsed_s": round(time.monotonic() - tour.started, 3),
    }


def _approval(wait: Wait) -> dict[str, Any]:
    decision = wait.decision
    return {
        "id": wait.id,
        "verdict": decision.verdict.value if decision is not None else None,
        "actor": decision.actor if decision is not None else None,
        "channel": decision.channel.value if decision is not None else None,
        "edited": decision is not None and decision.answer is not None,
    }
