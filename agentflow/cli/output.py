"""What a command writes: results on stdout, everything for people on stderr; one line for wrong use."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import orjson
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from agentflow.errors import UsageError

#: Exit codes, the same for every command that runs a flow.
COMPLETED, FAILED, WRONG_USE, WAITS_FOR_PERSON, SUSPENDED, INTERRUPTED = 0, 1, 2, 3, 4, 130

_LINE_LIMIT = 1_000
_GAP = 2
_NARROWEST = 12


def people() -> Console:
    """The console for people: stderr, so that stdout stays a result that programs can read."""
    return Console(stderr=True, highlight=False)


def say(text: str, *, style: str = "") -> None:
    """A line for people."""
    people().print(Text(text, style=style), soft_wrap=True)


def complain(text: str) -> None:
    """The one line that wrong use gets."""
    line = " ".join(text.split())
    sys.stderr.write(f"agentflow: {line[:_LINE_LIMIT]}\n")
    sys.stderr.flush()


def has_terminal() -> bool:
    """Whether a person can be asked here: input and messages both are a terminal's."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def json_text(value: Any) -> str:
    """JSON for people and programs."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


def json_line(value: Any) -> str:
    """JSON in one line."""
    return orjson.dumps(value, default=str).decode()


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    print_line(json_text(value))


def print_line(text: str, stream: TextIO | None = None) -> None:
    """A line of the result."""
    target: TextIO = sys.stdout if stream is None else stream
    target.write(f"{text}\n")
    target.flush()


@contextmanager
def result_stream(*, alone: bool) -> Generator[TextIO, None, None]:
    """Where the result goes.

    `alone`: what flows, and programs that they start, print to stdout meanwhile goes to stderr instead, so that the
    result is the only thing there.
    """
    if not alone:
        yield sys.stdout
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def at_most(limit: int) -> int:
    """How many a listing shows. Raises `UsageError` for none."""
    if limit < 1:
        message = f"--limit wants a number from 1 on, not {limit}"
        raise UsageError(message)
    return limit


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A listing on stdout; the last column is cut off at the window's edge. `empty` is for people, on stderr."""
    lines = [[" ".join(cell.split()) for cell in row] for row in rows]
    if not lines:
        say(empty)
        return
    console = Console(highlight=False)
    widths = [max(cell_len(row[number]) for row in (columns, *lines)) for number in range(len(columns))]
    left = console.width - sum(width + _GAP for width in widths[:-1])
    if console.is_terminal:  # a file or a pipe is not a window: nothing is cut off there
        widths[-1] = min(widths[-1], max(left, len(columns[-1]), _NARROWEST))
    for row, style in [(columns, "bold"), *((line, "") for line in lines)]:
        cells = [set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)]
        console.print(Text((" " * _GAP).join(cells).rstrip(), style=style), soft_wrap=True)


def age(stamp: str | None) -> str:
    """How long ago a time of a view was, short."""
    if stamp is None:
        return ""
    passed = max(0.0, (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(stamp)).total_seconds())
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed >= size:
            return f"{int(passed // size)} {name}"
    return f"{int(passed)} s"


def when(stamp: str | None) -> str:
    """A time of a view, short: date, minutes and seconds, in UTC."""
    return "" if stamp is None else stamp[:19].replace("T", " ")


def seconds(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return ""
    if value < 60:  # noqa: PLR2004 - seconds in a minute
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"  # noqa: PLR2004 - below ten, hundredths matter
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"
