"""Why a call was not taken from the cache: recorded with its step, in words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from agentflow import flow, task
from agentflow.cache_policies import DEFAULT, FLOW_PARAMETERS, INPUTS, TASK_SOURCE, CachePolicy
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import RunFilter
from agentflow.model.steps import ENDS
from agentflow.tasks import Task
from tests.fundamentals.lives import Clock, always, last_run, memory, options, start

HOUR = dt.timedelta(hours=1)


def echo(x: Any = 1, y: Any = 2) -> list[Any]:
    return [x, y]


async def echo_async(x: Any = 1, y: Any = 2) -> list[Any]:
    return [x, y]


def told(
    journal: MemoryJournal, cached: Task[..., Any], *args: Any, clock: Clock | None = None
) -> dict[str, Any]:
    """What the step of a call, made in a run of its own, says of the cache."""

    @flow(name="run")
    def run() -> Any:
        return cached(*args)

    @flow(name="run")
    async def run_async() -> Any:
        return await cached(*args)

    start(run_async if cached.is_async else run, journal=journal, using=options(clock))
    return last_told(journal)


def last_told(journal: MemoryJournal) -> dict[str, Any]:
    """What the only step of the newest run says of the cache."""
    number = len(journal.list_runs(RunFilter(limit=100)))
    (row,) = [row for row in journal.steps(number) if row.event in ENDS]
    return orjson.loads(row.detail or b"{}")["cache"]


def why(journal: MemoryJournal, cached: Task[..., Any], *args: Any, clock: Clock | None = None) -> str:
    """Why there was no hit."""
    found = told(journal, cached, *args, clock=clock)
    assert found["result"] != "hit"
    return found["why"]


@pytest.mark.parametrize("body", [echo, echo_async])
def test_a_hit_says_from_which_run_and_how_old(body: Any) -> None:
    """By the run's id, in seconds."""
    journal, clock = memory(), Clock(1_000.0)
    cached = task(cache_policy=INPUTS)(body)
    assert told(journal, cached, 1, clock=clock) == {
        "result": "miss",
        "why": "no earlier result of this task",
    }
    first = last_run(journal)
    clock.now += 90.5
    assert told(journal, cached, 1, clock=clock) == {"result": "hit", "from_run": first, "age_s": 90.5}


@pytest.mark.parametrize("body", [echo, echo_async])
def test_the_arguments_that_differ_are_named(body: Any) -> None:
    """Compared with the earlier result that is nearest, not only with the newest."""
    journal = memory()
    cached = task(cache_policy=INPUTS)(body)
    told(journal, cached, 1, 2)
    near = last_run(journal)
    told(journal, cached, 8, 9)
    found = told(journal, cached, 1, 3)
    assert found["why"] == f"argument 'y' differs (compared with the result of run …{near[-8:]})"
    assert found["compared_with"] == near
    assert why(journal, cached, 7, 7).startswith("arguments 'x' and 'y' differ (")


def test_an_expired_result_is_named_with_its_age() -> None:
    """As long as it is remembered: an hour and then until others have taken its place."""
    journal, clock = memory(), Clock(1_000.0)
    cached = task(cache_policy=INPUTS, cache_expiration=HOUR)(echo)
    told(journal, cached, clock=clock)
    first = last_run(journal)
    for later, words in ((3_600.0, "just now"), (3_780.0, "3 min ago"), (3_000.0, "")):
        clock.now += later
        if words == "":
            assert told(journal, cached, clock=clock)["result"] == "hit"
        else:
            assert why(journal, cached, clock=clock) == f"the result of run …{first[-8:]} expired {words}"
        first = last_run(journal)


def make(text: str) -> Callable[..., Any]:
    """A task's function with another source, and the same identity."""
    space: dict[str, Any] = {"__name__": "made"}
    exec(compile(text, "made.py", "exec"), space)  # noqa: S102 - the source is the point
    return space["made"]


def test_a_changed_task_is_said_to_have_changed() -> None:
    """Its source, its parameters, its policy."""
    journal = memory()
    policy = INPUTS + TASK_SOURCE
    told(journal, task(cache_policy=policy)(make("def made(x=1):\n    return x")))
    assert "the task's source has changed" in why(
        journal, task(cache_policy=policy)(make("def made(x=1):\n    return x + 1"))
    )
    assert "argument 'y' is new" in why(
        journal, task(cache_policy=policy)(make("def made(x=1, y=2):\n    return x"))
    )
    assert "looks at other things" in why(
        journal, task(cache_policy=INPUTS)(make("def made(x=1):\n    return x"))
    )


def test_each_kind_of_part_has_its_words() -> None:
    """A closure, a flow parameter, a key function, the run."""
    journal = memory()

    def closing(n: int) -> Task[..., Any]:
        @task(cache_policy=INPUTS)
        def closed(x: int) -> int:
            return x + n

        return closed

    told(journal, closing(1), 1)
    assert why(journal, closing(2), 1).startswith("closed-over value 'n' differs")
    for value in ("a", "b"):
        found = why(journal, task(cache_key_fn=always(value), name="keyed")(echo))
    assert found.startswith("the key function gives another key (")

    @flow
    def with_parameters(p: int) -> Any:
        return task(cache_policy=FLOW_PARAMETERS, name="asks")(lambda: 1)()

    for p in (1, 2):
        start(with_parameters, p, journal=journal)
    assert last_told(journal)["why"].startswith("flow parameter 'p' differs")
    private = task(cache_policy=DEFAULT, name="private")(make("def made(x=1):\n    return x"))
    told(journal, private)
    assert why(journal, private) == "no earlier result of this task in this run (RUN_ID is part of the key)"


def test_what_cannot_be_cached_says_so() -> None:
    """An argument without canonical form, a key function that gives none, nothing to look at."""
    journal = memory()
    assert told(journal, task(cache_policy=INPUTS)(echo), object()) == {
        "result": "uncached",
        "why": "argument 'x' (object) has no canonical form; subtract it from the policy",
    }
    assert told(journal, task(cache_key_fn=always(None))(echo)) == {
        "result": "uncached",
        "why": "cache_key_fn returned None",
    }
    assert why(journal, task(cache_policy=INPUTS)(lambda: 1)).startswith("the task has no arguments")


def test_refreshing_is_the_reason() -> None:
    """There may well be a result."""
    journal = memory()
    told(journal, task(cache_policy=INPUTS)(echo))
    found = told(journal, task(cache_policy=INPUTS, refresh_cache=True)(echo))
    assert found == {"result": "miss", "why": "refresh_cache: it always runs"}


def test_a_result_that_is_not_kept_says_why() -> None:
    """A side effect ran below the task."""
    pay = task(side_effect=True, name="pay")(lambda: 1)

    @task(cache_policy=CachePolicy.from_cache_key_fn(always("key")))
    def around() -> int:
        return pay()

    journal = memory()
    start(flow(name="run")(lambda: around()), journal=journal)  # noqa: PLW0108 - a task is no flow's function
    (row,) = [row for row in journal.steps(1) if row.event == "completed" and row.name.endswith("around")]
    assert orjson.loads(row.detail or b"")["cache"] == {
        "result": "miss",
        "why": "no earlier result of this task",
        "unstored": "a side effect ran below it",
    }


def test_a_failure_says_why_it_was_run() -> None:
    """The step that failed has a reason, too."""

    def fail(x: int) -> int:
        raise ValueError(x)

    assert why(memory(), task(cache_policy=INPUTS)(fail), 1) == "no earlier result of this task"


def test_a_reason_costs_a_look_at_a_few_entries_only() -> None:
    """However many results of the task there are."""
    limits: list[int] = []

    class Counting(MemoryJournal):
        def cache_entries(self, wanted: Any) -> Any:
            found = super().cache_entries(wanted)
            limits.append(len(found))
            return found

    journal = Counting(b"k" * 32)
    cached = task(cache_policy=INPUTS)(echo)

    @flow
    def run() -> None:
        for x in range(50):
            cached(x)

    start(run, journal=journal)
    start(run, journal=journal)
    assert (len(limits), max(limits)) == (50, 8)
