"""The worker that gives each run a process of its own, and ends one that does not stop by itself.

The process is a fresh interpreter, so it runs the code as it is on the disk now. It claims the run itself: its lock
dies with it, and whatever happens to it this worker finds the run free - to start it again, or to write down its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from agentflow.errors import RunFinishedError, UsageError
from agentflow.fingerprints import fingerprint, marked
from agentflow.flows import Flow
from agentflow.journal.protocol import Journal
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from agentflow.model.steps import LogRow
from agentflow.workers.inline import Worker

#: Seconds between SIGTERM and SIGKILL, at the most.
_LAST_WORDS = 2.0
#: Lines of a process that are kept, and characters of each.
_MOST_LINES, _LONGEST_LINE = 10_000, 8_000
_LOGGER = "agentflow.process"


class ProcessWorker(Worker):
    """Runs flows in processes of their own, at most ``max_processes`` at once. Like `InlineWorker` otherwise."""

    def __init__(self, journal: Journal, flows: Mapping[str, Flow[..., Any]], **options: Any) -> None:
        """Raises `UsageError` for a flow that another process could not find, and for a journal in memory."""
        super().__init__(journal, flows, **options)
        for flow in (*self.flows.values(), *self.background.values()):
            if not flow.entrypoint:
                message = (
                    f"{flow.name} cannot run in a process of its own: it is no function at the top of a file"
                )
                raise UsageError(message)
        if journal.url == "memory:":
            message = f"runs in processes of their own need a journal that they can open, not {journal.url!r}"
            raise UsageError(message)
        self._children: dict[str, Child] = {}

    def new_run(self, flow: Flow[..., Any], arguments: Mapping[str, Any], origin: Origin) -> NewRun:
        new = super().new_run(flow, arguments, origin)
        # of the code that the process will load, which may be another one by now than this process has loaded
        return replace(new, fingerprint=marked(fingerprint(flow.fn, fresh=True), self.journal.key))

    @property
    def places(self) -> int:
        return self.options.settings.max_processes

    def give_back(self, run_id: str) -> None:
        """Nothing: the process that runs it claims it."""

    def is_parked(self, flow: Flow[..., Any], run: Run) -> bool:
        """The process that would run it finds out, and runs the hooks."""
        del flow, run
        return False

    def keeps_apart(self, run: Run) -> bool:
        """No run shares its process with another one."""
        del run
        return False

    def make_room(self) -> None:
        """Nothing: what only waits leaves its process when its time in memory is up."""

    def live(self, flow: Flow[..., Any], run_id: str) -> bool:
        run = self.journal.get_run(run_id)
        with self._lock:
            if self._stopping or run is None:
                return False
            child = self._children[run.id] = Child(self.journal, run, flow.entrypoint, self.options.settings)
        try:
            code = self._watch_child(child)
        finally:
            child.close()
            with self._lock:
                self._children.pop(run.id, None)
        after = self._end_of(run, child)
        return code == 0 and (after is None or after.state.is_final or after.state is StateType.PAUSED)

    def _watch_child(self, child: Child) -> int:
        """Wait until the process has ended; end it where its run was asked to stop meanwhile and does not.

        One that was asked before has this life to undo what it has begun, and for its hooks: they take their time.
        """
        settings = self.options.settings
        cleans_up = child.run.state is StateType.CANCELLING
        asked: float | None = None
        while (code := child.wait(settings.poll_interval)) is None:
            run = self.journal.get_run(child.run.id)
            if cleans_up or run is None or run.state is not StateType.CANCELLING:
                continue
            now = time.monotonic()
            asked = now if asked is None else asked
            child.press(now - asked, settings.cancel_grace)
        return code

    def _end_of(self, before: Run, child: Child) -> Run | None:
        """Write down the end of a run whose process has ended without doing so, if it was asked to stop."""
        run = self.journal.get_run(before.id)
        if run is None:
            return None
        if child.signal:
            text = f"its process {child.pid} was ended by {child.signal}"
            self.journal.add_logs([LogRow(run.number, time.time(), logging.ERROR, _LOGGER, "", text)])
        if run.state is StateType.CRASHED:
            self._on_error(f"run {run.id} is parked: {run.message}")
        if run.state is StateType.CANCELLING and not self.journal.is_owned(run):
            with contextlib.suppress(RunFinishedError):
                run = self.journal.request_cancel(run.id, run.message)
        return run

    # -- the end of this process
    def drain(self) -> None:
        super().drain()
        with self._lock:
            children = list(self._children.values())
        for child in children:
            child.send(signal.SIGTERM)

    def abandon(self) -> None:
        with self._lock:
            children = list(self._children.values())
        for child in children:
            child.send(signal.SIGTERM)  # a second one does not wait for steps to end
        deadline = time.monotonic() + _LAST_WORDS
        for child in children:
            child.wait(max(0.0, deadline - time.monotonic()))
            child.kill()
        self._let_end(self._under_way, _LAST_WORDS)


class Child:
    """A process that runs one life of a run; what it prints goes to the run's log."""

    def __init__(self, journal: Journal, run: Run, entrypoint: str, settings: Any) -> None:
        self.run = run
        self._journal = journal
        python = (
            run.interpreter if run.interpreter and os.access(run.interpreter, os.X_OK) else sys.executable
        )
        self._process = subprocess.Popen(  # noqa: S603 - the interpreter that the run was made with
            [python, "-P", "-m", "agentflow.workers.child", run.id, entrypoint],
            cwd=run.cwd if run.cwd and Path(run.cwd).is_dir() else None,
            env=os.environ | settings.as_environment() | {"AGENTFLOW_DATABASE_URL": journal.address},
            stdin=subprocess.PIPE,  # it sees the end of this process there
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is for this process, which tells it
        )
        self.pid = self._process.pid
        self._pressed = False
        self._reader = threading.Thread(target=self._read, name="agentflow-output", daemon=True)
        self._reader.start()

    def wait(self, seconds: float) -> int | None:
        """Its exit code once it has ended; None after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    @property
    def signal(self) -> str:
        """The signal that ended it; "" for any other end."""
        code = self._process.returncode
        return signal.Signals(-code).name if code is not None and code < 0 else ""

    def press(self, passed: float, grace: float) -> None:
        """Make it stop, `passed` seconds after its run was asked to: first SIGTERM, then SIGKILL for all it started."""
        last_words = min(_LAST_WORDS, grace / 2)
        if passed >= grace:
            self.kill()
        elif passed >= grace - last_words and not self._pressed:
            self._pressed = True
            self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, and what it has started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Read its last words."""
        self._reader.join(_LAST_WORDS)  # what it has started may keep the pipe open
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and (pipe is not self._process.stdout or not self._reader.is_alive()):
                with contextlib.suppress(OSError):
                    pipe.close()

    def _read(self) -> None:
        pipe = cast("BufferedReader", self._process.stdout)
        kept = 0
        while lines := _lines(pipe):
            if kept < _MOST_LINES:
                kept += len(lines)
                lines += ["(what else it prints is not kept)"] if kept >= _MOST_LINES else []
                with contextlib.suppress(Exception):  # a full disk: the run itself says so
                    self._journal.add_logs(
                        [
                            LogRow(self.run.number, time.time(), logging.INFO, _LOGGER, "", line)
                            for line in lines
                        ]
                    )


def _lines(pipe: BufferedReader) -> list[str]:
    """What there is to read, by lines; empty at the end."""
    data = pipe.read1()
    if data and not data.endswith(b"\n"):
        data += pipe.readline(_LONGEST_LINE)
    text = data.decode(errors="replace").replace("\0", "\ufffd")
    return [line[:_LONGEST_LINE] for line in text.splitlines()]
