"""Runs that take the whole server down: parked after some lives, with their history, while the others go on."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentflow.beginning import default_options
from agentflow.journal.opening import close_all, open_journal
from agentflow.journal.protocol import Journal
from agentflow.loading import load_flows
from agentflow.model.runs import Origin
from agentflow.model.states import StateType
from tests.faults import Measured
from tests.workers.little_memory import little_memory

FLOWS = Path(__file__).parent / "worked_flows.py"
PATIENCE = 180.0
MOST = 3
#: Seconds that a run has for dying of what it dies of before another one is let in beside it: many, as a machine may be
#: busy; on PostgreSQL each death is waited for so long.
LEASES = {"sqlite": 30, "postgres": 5}
#: Bytes: several times what a server needs.
MEMORY = 1 << 29
#: How a server dies that is killed by the kernel, that ended, that made a mistake.
CODES = {"memory": -signal.SIGKILL, "exit": 9, "SIGSEGV": -signal.SIGSEGV}
pytestmark = pytest.mark.timeout(300)


class Serving:
    """A server that somebody starts again whenever it has died."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.journal = journal
        self.world = folder / "world"
        self.deaths: list[int] = []
        #: Told of the id of each process.
        self.begun: Callable[[int], None] = lambda _: None
        self._process: subprocess.Popen[bytes] | None = None
        self.flows = load_flows([str(FLOWS)])

    def begin(self, flow: str, **arguments: Any) -> str:
        """A run that waits to be taken up; returns its id."""
        found = self.flows[flow]
        new = found.new_run(
            found.binder.validate_named(arguments), self.journal, default_options(), Origin.PERSON
        )
        return self.journal.create_run(new, state=StateType.PENDING).id

    def until(self, is_so: Callable[[], bool]) -> None:
        """Keep a server going until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline
            if self._process is None or self._process.poll() is not None:
                if self._process is not None:
                    self.deaths.append(self._process.returncode)
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.workers.serving", str(FLOWS)],
                    cwd=FLOWS.parents[2],
                    stderr=subprocess.DEVNULL,
                )
                self.begun(self._process.pid)
            select.select([], [], [], 0.05)

    def state(self, run_id: str) -> StateType:
        run = self.journal.get_run(run_id)
        assert run is not None
        return run.state

    @property
    def done(self) -> list[str]:
        """What was really executed."""
        lines = self.world.read_text().splitlines() if self.world.exists() else []
        return [line.rpartition(" ")[0] for line in lines]

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(params=["sqlite", "postgres"])
def serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Serving]:
    """On each store; a process that is not heard of for some seconds counts as dead."""
    for name, value in {
        "AGENTFLOW_HOME": str(tmp_path / "home"),
        "AGENTFLOW_MAX_CRASHES": str(MOST),
        "AGENTFLOW_LEASE": str(LEASES[request.param]),
        "AGENTFLOW_POLL_INTERVAL": "0.05",
        "WORLD": str(tmp_path / "world"),
    }.items():
        monkeypatch.setenv(name, value)
    if request.param == "postgres":
        monkeypatch.setenv("AGENTFLOW_DATABASE_URL", request.getfixturevalue("postgres").url())
    made = Serving(tmp_path, open_journal())
    yield made
    made.end()
    close_all()


@pytest.fixture
def how(request: pytest.FixtureRequest, serving: Serving) -> Iterator[str]:
    """How the servers die."""
    if request.param != "memory":
        yield request.param
        return
    with little_memory(MEMORY) as serving.begun:
        yield request.param
        serving.end()


@pytest.mark.fault(11, "run that kills its server")
@pytest.mark.parametrize(
    ("serving", "how"),
    [("sqlite", "SIGSEGV"), ("sqlite", "memory"), ("postgres", "exit")],
    indirect=True,
)
def test_a_run_that_takes_the_server_down_is_parked_and_the_others_go_on(
    serving: Serving, how: str, fault: Measured
) -> None:
    """The server dies as often as is allowed; a run that was under way beside it is not parked for that."""
    poisoned, innocent = serving.begin("poison", how=how), serving.begin("innocent")
    serving.until(lambda: serving.state(poisoned) is StateType.CRASHED)
    assert serving.deaths == [CODES[how]] * (MOST + 1), "the first life got somewhere"
    assert serving.state(innocent) is StateType.RUNNING
    assert serving.done.count("step 7") == 1
    serving.until(lambda: "told-of CRASHED" in serving.done)
    assert serving.done.count("told-of CRASHED") == 1
    serving.world.with_suffix(".open").touch()
    serving.until(lambda: serving.state(innocent) is StateType.COMPLETED)
    assert len(serving.deaths) == MOST + 1
    shown = _cli("runs", "show", poisoned, "--json")
    assert shown["state"] == "CRASHED"
    assert "died 3 times in a row" in shown["message"]
    assert [life["end"] for life in shown["lives"]] == ["crashed"] * (MOST + 2)
    serving.end()  # else it may take the run up before the command does
    revived = _cli("runs", "retry" if how == "exit" else "resume", poisoned, "--json")
    assert (revived["state"], revived["result"]) == ("COMPLETED", "lived")
    fault(len(serving.deaths), lost=serving.done.count("step 7") - 1)
    assert serving.done.count("step 7") == 1


def _cli(*words: str) -> dict[str, Any]:
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("agentflow")), *words],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)
