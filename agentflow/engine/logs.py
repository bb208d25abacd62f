"""Logs of a run: what `get_run_logger` and ``log_prints`` record, kept in the journal beside the steps.

Lines are collected in memory and written in batches; the last batch is written before the run ends.
"""

from __future__ import annotations

import builtins
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from agentflow.engine.away import ABROAD, Line
from agentflow.engine.context import CURRENT, Frame, current_frame
from agentflow.model.steps import LogRow

if TYPE_CHECKING:
    from agentflow.engine.active import ActiveRun

_BATCH = 100
_logger = logging.getLogger("agentflow.run")
_TEXT_LIMIT = 64_000


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """The standard library's logger, for one run: its lines are recorded in the run's journal, too."""

    def __init__(self, record: Callable[[Line], None], lowest: int) -> None:
        super().__init__(_logger, {})
        self._record, self._lowest = record, lowest

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if level >= self._lowest:
            self._record(Line(level, str(msg) % args if args else str(msg), _called_from()))
        kwargs.setdefault("stacklevel", 2)
        super().log(level, msg, *args, **kwargs)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        del level
        return True


#: The run and the step whose hook this is.
HOOK_OF: ContextVar[tuple[ActiveRun, str] | None] = ContextVar("agentflow_hook_of", default=None)


def get_run_logger() -> RunLogger:
    """The logger of the running flow or task. Raises `MissingContextError` outside of a flow."""
    abroad = ABROAD.get()
    if abroad is not None:
        return RunLogger(abroad.tell, abroad.step.log_level)
    hooked = HOOK_OF.get()
    if hooked is not None:
        run, step = hooked
    else:
        frame = current_frame("get_run_logger()")
        run, step = frame.run, frame.policy.name
    return RunLogger(lambda line: _line(run, line, step), lowest_level(run))


def lowest_level(run: ActiveRun) -> int:
    """The level from which on the lines of a run's loggers are recorded."""
    return logging.getLevelNamesMapping().get(run.options.settings.log_level.upper(), logging.INFO)


def heard(run: ActiveRun, step: str, line: Line) -> None:
    """Take a line of a body that runs elsewhere as if it ran here."""
    _line(run, line, step)
    if not line.printed:
        _logger.log(line.level, "%s", line.text)


def _line(run: ActiveRun, line: Line, step: str) -> None:
    run_log(run, line.text, level=line.level, step=step, source=line.source)


def _called_from() -> str:
    """Where in the user's code a line is logged or printed: ``file.py:12 function``."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename in _BETWEEN:
        frame = frame.f_back
    if frame is None:
        return ""
    return f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"


#: Files between the user's code and `_called_from`.
_BETWEEN = {__file__, logging.Logger.log.__code__.co_filename}


def run_log(
    run: ActiveRun, text: str, *, level: int = logging.INFO, step: str = "", source: str = ""
) -> None:
    """Record a line."""
    clean = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:_TEXT_LIMIT]
    run.log_lines.append(LogRow(run.number, run.options.clock(), level, "agentflow.run", step, clean, source))
    if len(run.log_lines) >= _BATCH or level >= logging.ERROR:
        flush_logs(run)


def flush_logs(run: ActiveRun) -> None:
    """Write what has been collected. A failing disk does not stop a run because of its log."""
    if run.codec.pickled:
        _note_pickles(run)
    with run.lock:
        lines, run.log_lines = run.log_lines, []
    if lines:
        try:
            run.journal.add_logs(lines)
        except BaseException as error:
            sys.stderr.write(f"agentflow: {len(lines)} log lines could not be recorded: {error}\n")


def _note_pickles(run: ActiveRun) -> None:
    """Tell, once in a life, of which types values are pickles."""
    new = run.codec.pickled - run.noted_pickles
    run.noted_pickles |= new
    for name in sorted(new):
        run_log(
            run,
            f"{name} is stored as a pickle, which only a process with this installation's key reads; "
            "a dataclass, a pydantic model or a registered codec needs none",
        )


_print = builtins.print
_patch_lock = threading.Lock()


def record_prints() -> None:
    """Have ``print`` inside flows and tasks with ``log_prints=True`` recorded as log lines. Installed once."""
    with _patch_lock:
        if builtins.print is _print:
            builtins.print = _recording_print


def records_prints(frame: Frame) -> bool:
    """Whether what is printed in a frame is recorded: as the nearest body says that says something."""
    said = (around.policy.log_prints for around in frame.enclosing())
    return next((answer for answer in said if answer is not None), False)


def _recording_print(*values: object, **options: Any) -> None:
    if options.get("file") in (None, sys.stdout):
        frame, abroad = CURRENT.get(), ABROAD.get()
        if abroad is not None and abroad.step.log_prints:
            abroad.tell(_printed(values, options))
        elif frame is not None and records_prints(frame):
            _line(frame.run, _printed(values, options), frame.policy.name)
            if _recorded_only:
                return
    _print(*values, **options)


_recorded_only = False


def keep_prints() -> None:
    """Do not print what is recorded: in this process whatever is printed becomes a line of the log anyhow."""
    global _recorded_only  # noqa: PLW0603 - one per process
    _recorded_only = True
    _logger.propagate = False


def _printed(values: tuple[object, ...], options: Mapping[str, Any]) -> Line:
    sep = options.get("sep")
    text = (" " if sep is None else str(sep)).join(map(str, values))
    return Line(logging.INFO, text, _called_from(), printed=True)
