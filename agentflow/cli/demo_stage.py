"""What the demo stands on: the flow's file, a model that can be held, workers that can be killed, and the count."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.errors import AgentflowError, UsageError
from agentflow.journal.protocol import Journal, RunFilter
from agentflow.model.runs import Run
from agentflow.model.steps import StepEvent, StepKind
from agentflow.shells import WORKER_VARIABLE
from agentflow.testing.models import Answer, Fault, ModelRequest, Reply, ScriptedModelServer

FLOW = "release_notes"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
#: Seconds that the scripted model thinks, so that an eye can follow.
THINKING = 0.25

_LOOK_SECONDS = 0.02


def flow_file() -> Path:
    """The example that the demo runs: of the checkout, or the copy that a wheel carries."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "examples", package / "examples"):
        if (folder / f"{FLOW}.py").is_file():
            return folder / f"{FLOW}.py"
    message = f"the example {FLOW}.py is missing from this installation"
    raise UsageError(message)


class HeldModel:
    """A script that answers some requests and holds the others back until `release`; those are dropped then."""

    def __init__(self, script: Callable[[ModelRequest], Answer], answered: int) -> None:
        self._script = script
        self._left = answered
        self._lock = threading.Lock()
        self._released = threading.Event()

    def __call__(self, request: ModelRequest) -> Answer:
        """The answer to a request, as soon as it may be given."""
        with self._lock:
            held = not self._released.is_set() and self._left <= 0
            self._left -= 1
        if held:
            self._released.wait()
            return Fault.drop()  # whoever asked is dead
        self._pause.wait(THINKING)
        return self._script(request)

    _pause = threading.Event()

    def release(self) -> None:
        """Drop the requests that are held, and answer all later ones."""
        self._released.set()


class Worker:
    """An agentflow process of its own, which runs or resumes the flow."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-m", "agentflow.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            env=environment,
        )
        self.pid = self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it as nothing can catch: SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self.close()

    def result(self) -> dict[str, Any]:
        """Wait for its end; the object that it printed. Raises `AgentflowError` with its last words instead."""
        printed, _ = self._process.communicate()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        self.close()
        try:
            return json.loads(printed)
        except json.JSONDecodeError:
            message = (
                f"the worker ended with {self._process.returncode}: {said[-1] if said else 'it said nothing'}"
            )
            raise AgentflowError(message) from None

    def close(self) -> None:
        """Let go of it; one that still lives is asked to stop."""
        if self.is_alive:
            self._process.terminate()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


def worker_environment(model_url: str) -> dict[str, str]:
    """The environment of a worker; with `model_url`, the scripted model there and no keys."""
    dropped = {WORKER_VARIABLE, *(KEYS if model_url else ())}
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    return environment | ({"RELEASE_NOTES_MODEL_URL": model_url} if model_url else {})


def run_of(journal: Journal, worker: Worker) -> Run | None:
    """The run that a worker has claimed, once it has."""
    newest = journal.list_runs(RunFilter(limit=20, flow=FLOW))
    return next((run for run in newest if run.owner.endswith(f":{worker.pid}")), None)


def pause() -> None:
    """Give others a moment."""
    threading.Event().wait(_LOOK_SECONDS)


@dataclass(frozen=True)
class Count:
    """What the journal and the model's own log say, nothing else."""

    #: Finished steps.
    steps: int
    #: Model answers in the journal.
    answers: int
    #: Model requests that were answered whole, by the server's log (with a real model: by the journal).
    model_requests: int
    #: Requests that nobody answered, because whoever asked was killed.
    cut_off: int
    #: Finished steps, and answered model requests, that were executed a second time.
    repeated: int


def count(journal: Journal, run: Run, server: ScriptedModelServer | None) -> Count:
    """Count what has happened in a run."""
    finished: Counter[tuple[bytes, bytes, bytes, int]] = Counter()
    answers = 0
    for row in journal.steps(run.number):
        if row.event in (StepEvent.COMPLETED, StepEvent.CACHED, StepEvent.FAILED):
            finished[row.scope, row.key, row.branch, row.occurrence] += 1
            answers += row.kind == StepKind.MODEL and row.event == StepEvent.COMPLETED
    twice = sum(times - 1 for times in finished.values())
    if server is None:
        return Count(len(finished), answers, answers, 0, twice)
    requests = server.requests
    answered = Counter(
        json.dumps(request.body, sort_keys=True)
        for request in requests
        if isinstance(request.answer, Reply) and not request.broken_off
    )
    asked_twice = sum(times - 1 for times in answered.values())
    whole = sum(answered.values())
    return Count(len(finished), answers, whole, len(requests) - whole, twice + asked_twice)
