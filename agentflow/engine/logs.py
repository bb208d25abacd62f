"""Logs of a run: what `get_run_logger` and ``log_prints`` record, kept in the journal beside the steps.

Lines are collected in memory and written in batches; the last batch is written before the run ends.
"""

from __future__ import annotations

import builtins
import logging
import sys
import threading
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from agentflow.engine.context import CURRENT, current_frame
from agentflow.model.steps import LogRow

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun

_BATCH = 100
_logger = logging.getLogger("agentflow.run")
_TEXT_LIMIT = 64_000


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """The standard library's logger, for one run: its lines are recorded in the run's journal, too."""

    def __init__(self, run: ActiveRun, step: str) -> None:
        super().__init__(_logger, {})
        self._run, self._step = run, step

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        wanted = logging.getLevelNamesMapping().get(
            self._run.options.settings.log_level.upper(), logging.INFO
        )
        if level >= wanted:
            text = str(msg) % args if args else str(msg)
            run_log(self._run, text, level=level, step=self._step)
        kwargs.setdefault("stacklevel", 2)
        super().log(level, msg, *args, **kwargs)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        del level
        return True


def get_run_logger() -> RunLogger:
    """The logger of the running flow or task. Raises `MissingContextError` outside of a flow."""
    frame = current_frame("get_run_logger()")
    return RunLogger(frame.run, frame.policy.name)


def run_log(run: ActiveRun, text: str, *, level: int = logging.INFO, step: str = "") -> None:
    """Record a line."""
    clean = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:_TEXT_LIMIT]
    run.log_lines.append(LogRow(run.number, run.options.clock(), level, "agentflow.run", step, clean))
    if len(run.log_lines) >= _BATCH or level >= logging.ERROR:
        flush_logs(run)


def flush_logs(run: ActiveRun) -> None:
    """Write what has been collected. A failing disk does not stop a run because of its log."""
    with run.lock:
        lines, run.log_lines = run.log_lines, []
    if lines:
        try:
            run.journal.add_logs(lines)
        except BaseException as error:
            sys.stderr.write(f"agentflow: {len(lines)} log lines could not be recorded: {error}\n")


_print = builtins.print
_patch_lock = threading.Lock()


def record_prints() -> None:
    """Have ``print`` inside flows and tasks with ``log_prints=True`` recorded as log lines. Installed once."""
    with _patch_lock:
        if builtins.print is _print:
            builtins.print = _recording_print


def _recording_print(*values: object, **options: Any) -> None:
    frame = CURRENT.get()
    if frame is not None and options.get("file") in (None, sys.stdout):
        for around in frame.enclosing():
            if around.policy.log_prints is None:
                continue
            if around.policy.log_prints:
                sep = options.get("sep")
                text = (" " if sep is None else str(sep)).join(str(value) for value in values)
                run_log(frame.run, text, step=frame.policy.name)
            break
    _print(*values, **options)
