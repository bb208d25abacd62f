"""Measuring: floors, workloads and ratios of medians, taken alternately in one process on one disk."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import apsw

from agentflow.engine.active import Options
from agentflow.journal.sqlite import SqliteJournal
from agentflow.settings import Settings

KEY = b"k" * 32
_DDL = (
    "CREATE TABLE step (id INTEGER PRIMARY KEY, run BLOB, seq INTEGER, key BLOB, name TEXT, state TEXT, value BLOB, "
    "started REAL, ended REAL)"
)
_INSERT = "INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class Figure:
    """A workload's cost: microseconds per item, and its ratio to the floor (medians of the pairs)."""

    name: str
    micros: float
    ratio: float


class Bench:
    """A folder for databases, and the floor."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="agentflow-bench-")
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def path(self) -> Path:
        """A new database file."""
        self._count += 1
        return Path(self._folder.name) / f"{self._count}.db"

    def journal(self) -> SqliteJournal:
        """A new, empty journal."""
        return SqliteJournal(self.path(), KEY)

    def options(self) -> Options:
        """Options without a gate."""
        return Options(settings=Settings(home=Path(self._folder.name)))

    def connect(self, *, full: bool = False) -> apsw.Connection:
        """A bare database in WAL mode."""
        connection = bare(self.path(), full=full)
        connection.execute(_DDL)
        return connection

    def floor(self, count: int, *, full: bool = False) -> float:
        """Seconds for `count` steps as one could record them with nothing but apsw: one row, one commit each."""
        connection = self.connect(full=full)
        execute, run = connection.execute, b"r" * 16
        begin = time.perf_counter()
        for index in range(count):
            started = time.time()
            value = b"%d" % (index + 1)
            execute(_INSERT, (index, run, index, b"k" * 16, "add", "completed", value, started, time.time()))
        taken = time.perf_counter() - begin
        connection.close()
        return taken

    def floor_of_a_run(self, count: int) -> float:
        """Seconds for `count` bare pairs of commits at the levels of a run's start and end: NORMAL, then FULL."""
        connection = self.connect()
        begin = time.perf_counter()
        for index in range(count):
            connection.execute("PRAGMA synchronous=NORMAL").fetchall()
            connection.execute(_INSERT, (index, b"r" * 16, 0, b"", "run", "running", b"", time.time(), None))
            connection.execute("PRAGMA synchronous=FULL").fetchall()
            connection.execute(
                "UPDATE step SET state = 'completed', ended = ? WHERE id = ?", (time.time(), index)
            )
        taken = time.perf_counter() - begin
        connection.close()
        return taken


def bare(path: Path, *, full: bool = False) -> apsw.Connection:
    """A database as its driver opens it, in WAL mode."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}").fetchall()
    return connection


def compare(
    cases: dict[str, Callable[[], float]], floor: Callable[[], float], items: int, *, rounds: int = 7
) -> list[Figure]:
    """Run each case between two floors, several times; figures per item."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            gc.collect()
            before = floor()
            own = case()
            after = floor()
            taken[name].append((own, 2 * own / (before + after)))
    return [
        Figure(
            name,
            statistics.median(own for own, _ in pairs) / items * 1e6,
            statistics.median(ratio for _, ratio in pairs),
        )
        for name, pairs in taken.items()
    ]


def table(figures: list[Figure], bars: dict[str, float]) -> str:
    """The figures for people."""
    lines = [f"{'workload':44} {'us each':>9} {'ratio':>7} {'bar':>6}"]
    for figure in figures:
        bar = bars.get(figure.name)
        lines.append(
            f"{figure.name:44} {figure.micros:9.1f} {figure.ratio:7.2f} {'' if bar is None else f'{bar:6.2f}'}"
        )
    return "\n".join(lines)
