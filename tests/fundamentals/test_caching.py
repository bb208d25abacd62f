"""Results across runs: what makes two calls the same, and what is never taken from another run."""

from __future__ import annotations

import datetime as dt
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import orjson
import pytest

from agentflow import (
    INPUTS,
    TASK_SOURCE,
    flow,
    task,
)
from agentflow.errors import DefinitionError
from agentflow.journal.memory import MemoryJournal
from agentflow.journal.protocol import RunFilter
from agentflow.tasks import Task
from tests.fundamentals.lives import Clock, Death, always, die, log_of, memory, options, resume, rows, start

CALLS: list[Any] = []
HOUR = dt.timedelta(hours=1)


def echo(x: Any, y: Any = 2) -> list[Any]:
    CALLS.append((x, y))
    return [x, y]


def other(x: Any, y: Any = 2) -> list[Any]:
    CALLS.append((x, y))
    return ["other", x, y]


class Client:
    """Something that has no canonical form."""

    def ask(self, x: int) -> int:
        CALLS.append(x)
        return x


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def run_of(cached: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A flow that makes one call."""
    call: Any = cached

    @flow(name="run")
    def run() -> Any:
        return call(*args, **kwargs)

    return run


def both(journal: MemoryJournal, cached: Task[..., Any], first: Any, second: Any) -> int:
    """How often the body ran when two runs called it with these arguments."""
    CALLS.clear()
    for arguments in (first, second):
        start(run_of(cached, *arguments), journal=journal)
    return len(CALLS)


def test_a_cached_call_of_another_run_is_not_made_again() -> None:
    """The second run takes the result, as a row of its own, and says from where."""
    journal = memory()
    cached = task(cache_policy=INPUTS)(echo)
    first = start(run_of(cached, 1), journal=journal)
    second = start(run_of(cached, 1), journal=journal)
    assert first.value == second.value == [1, 2]
    assert second.tally.cached == len(CALLS) == 1
    (row,) = journal.steps(2)
    assert row.event == "cached"
    told = orjson.loads(row.detail or b"")["cache"]
    assert (told["result"], told["from_run"]) == ("hit", journal.list_runs(RunFilter())[1].id)


@pytest.mark.parametrize(
    ("first", "second", "ran"),
    [
        pytest.param((1,), (1, 2), 1, id="defaults are bound"),
        pytest.param((1,), (2,), 2, id="other arguments"),
        pytest.param((1,), (1.0,), 2, id="int and float"),
        pytest.param((1,), (True,), 2, id="int and bool"),
        pytest.param((0.0,), (-0.0,), 2, id="zeros"),
        pytest.param(({"a": 1, "b": 2},), ({"b": 2, "a": 1},), 1, id="order of keys"),
        pytest.param(((1, 2),), ([1, 2],), 1, id="tuple and list"),
        pytest.param(({1, 2},), ({2, 1},), 1, id="order of sets"),
    ],
)
def test_equal_inputs_are_equal_by_type_and_value(first: Any, second: Any, ran: int) -> None:
    """1, 1.0 and True differ; how a call is written does not matter."""
    assert both(memory(), task(cache_policy=INPUTS)(echo), first, second) == ran


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_how_a_call_is_written_makes_no_difference(colour: str) -> None:
    """By position, by name in any order, with what is the default anyway; a future counts as its value."""

    @task(name="total", cache_policy=INPUTS)
    def total(a: int, b: int = 2, c: int = 3) -> int:
        CALLS.append((a, b, c))
        return a + b + c

    @task(name="total", cache_policy=INPUTS)
    async def total_async(a: int, b: int = 2, c: int = 3) -> int:
        return total.fn(a, b, c)

    @task
    def one() -> int:
        return 1

    ways: list[tuple[Any, dict[str, Any]]] = [
        ((1, 2, 3), {}), ((1,), {"b": 2}), ((), {"c": 3, "b": 2, "a": 1}), ((1,), {}), ((), {"c": 3, "a": None}),
    ]  # fmt: skip

    def written(named: dict[str, Any]) -> dict[str, Any]:
        """A future stands for the None."""
        return {name: one.submit() if value is None else value for name, value in named.items()}

    @flow
    def run(way: int) -> int:
        args, named = ways[way]
        return cast("Any", total)(*args, **written(named))

    @flow
    async def run_async(way: int) -> int:
        args, named = ways[way]
        return await cast("Any", total_async)(*args, **written(named))

    journal, made = memory(), run if colour == "sync" else run_async
    assert [start(made, way, journal=journal).value for way in range(len(ways))] == [6] * len(ways)
    assert CALLS == [(1, 2, 3)]


def test_two_tasks_never_share_a_result() -> None:
    """The task's identity is always part of the key, whatever the policy or key function says."""
    policies: list[dict[str, Any]] = [{"cache_policy": INPUTS}, {"cache_key_fn": always("one key")}]
    for policy in policies:
        journal = memory()
        one, two = task(**policy)(echo), task(**policy)(other)
        assert start(run_of(one, 777), journal=journal).value == [777, 2]
        assert start(run_of(two, 777), journal=journal).value == ["other", 777, 2]


def test_a_key_function_says_what_is_equal_and_none_means_not_cached() -> None:
    """It gets the context and the bound arguments by name."""

    def key(context: Any, arguments: Any) -> str | None:
        return None if arguments["x"] < 0 else str(arguments["x"] % 10)

    cached = task(cache_key_fn=key)(echo)
    assert both(memory(), cached, (1,), (11,)) == 1
    assert both(memory(), cached, (1,), (2,)) == 2
    journal = memory()
    assert both(journal, cached, (-1,), (-1,)) == 2
    assert "echo is not cached: cache_key_fn returned None" in log_of(journal)


def test_a_result_is_good_until_its_expiration_and_not_at_it() -> None:
    """The boundary belongs to the time after."""
    journal, clock = memory(), Clock(1_000.0)
    cached = task(cache_expiration=HOUR)(echo)
    for now, ran in [(1_000.0, 1), (4_599.9, 1), (4_600.0, 2), (8_199.0, 2)]:
        clock.now = now
        start(run_of(cached, 1), journal=journal, using=options(clock))
        assert len(CALLS) == ran, now


def test_refresh_runs_and_replaces() -> None:
    """`refresh_cache` never takes, and always leaves, a result."""
    journal = memory()
    cached = task(cache_policy=INPUTS)(echo)
    fresh = cached.with_options(refresh_cache=True)
    for which, ran in [(cached, 1), (fresh, 2), (cached, 2)]:
        start(run_of(which, 1), journal=journal)
        assert len(CALLS) == ran


def test_none_is_a_result_and_a_failure_is_none() -> None:
    """None is cached like any value; exceptions never are."""

    def nothing(x: int) -> None:
        CALLS.append(x)
        if x:
            raise ValueError

    cached = task(cache_policy=INPUTS - "CALLS")(nothing)
    assert both(memory(), cached, (0,), (0,)) == 1
    assert both(memory(), cached, (1,), (1,)) == 2


def test_the_source_can_be_part_of_the_key() -> None:
    """With TASK_SOURCE another body under the same name is another task."""

    def make(body: Any) -> Any:
        body.__qualname__ = "body"
        return task(cache_policy=INPUTS + TASK_SOURCE, name="body")(body)

    def one(x: int) -> int:
        return x + 1

    def two(x: int) -> int:
        return x + 2

    journal = memory()
    assert start(run_of(make(one), 1), journal=journal).value == 2
    assert start(run_of(make(two), 1), journal=journal).value == 3


def test_an_argument_without_canonical_form_is_explained_in_the_log() -> None:
    """The call runs, is not cached, and the log names the argument, its type and the way out."""
    journal = memory()
    cached = task(cache_policy=INPUTS)(echo)
    assert both(journal, cached, (Client(),), (Client(),)) == 2
    line, pickled = log_of(journal)
    assert "argument 'x' (Client)" in line
    assert "pickle" in pickled
    assert "subtract it" in line
    assert both(memory(), task(cache_policy=INPUTS - "x")(echo), (Client(),), (Client(),)) == 1


def test_self_counts_as_an_argument() -> None:
    """A method of something without canonical form is not cached, unless `self` is left out."""
    ask = task(cache_policy=INPUTS)(Client.ask)
    assert both(memory(), ask, (Client(), 1), (Client(), 1)) == 2
    ask = task(cache_policy=INPUTS - "self")(Client.ask)
    assert both(memory(), ask, (Client(), 1), (Client(), 1)) == 1


def test_a_function_argument_that_has_no_name_of_its_own_is_not_cached() -> None:
    """Two lambdas of one place look alike and do different things."""

    def apply(function: Any, x: int) -> int:
        return function(x)

    cached = task(cache_policy=INPUTS)(apply)
    journal = memory()
    one: Callable[[int], int] = lambda x: x + 1  # noqa: E731 - functions without names are the point
    two: Callable[[int], int] = lambda x: x + 2  # noqa: E731 - the same
    functions = [one, two]
    assert [start(run_of(cached, function, 1), journal=journal).value for function in functions] == [2, 3]


def test_what_a_task_takes_from_the_functions_around_it_is_an_input() -> None:
    """Two tasks made by one factory share their name and source; what they close over tells them apart."""

    def make(n: int) -> Any:
        @task(cache_policy=INPUTS)
        def closed(x: int) -> int:
            return x + n

        return closed

    journal = memory()
    assert [start(run_of(make(n), 1), journal=journal).value for n in (1, 2, 1)] == [2, 3, 2]
    assert journal.steps(3)[0].event == "cached"


@dataclass
class Adder:
    """A callable object."""

    n: int

    def __call__(self, x: int) -> int:
        CALLS.append((self.n, x))
        return self.n + x


def add(n: int, x: int) -> int:
    CALLS.append((n, x))
    return n + x


def partial_of(n: int) -> Callable[[int], int]:
    return functools.partial(add, n)


def method_of(n: int) -> Callable[[int], int]:
    return Adder(n).__call__


@pytest.mark.parametrize("made", [Adder, partial_of, method_of])
def test_what_a_callable_brings_along_is_an_input(made: Callable[[int], Any]) -> None:
    """The state of an object, the arguments of a partial: equal ones share results, others do not."""
    journal = memory()
    values = [start(run_of(task(cache_policy=INPUTS)(made(n)), 1), journal=journal).value for n in (1, 2, 1)]
    assert values == [2, 3, 2]
    assert CALLS == [(1, 1), (2, 1)]


def test_partials_of_two_functions_share_nothing() -> None:
    """They are tasks of different functions."""
    journal = memory()
    for function, value in ((echo, [1, 2]), (other, ["other", 1, 2])):
        cached = task(cache_policy=INPUTS)(functools.partial(function, y=2))
        assert start(run_of(cached, 1), journal=journal).value == value


def test_two_scripts_of_one_name_share_nothing(tmp_path: Path) -> None:
    """A task is known by its file; the same file is the same task, run or imported."""
    bodies: list[Any] = []
    for folder, name in (("a", "__main__"), ("a", "job"), ("b", "__main__")):
        path = tmp_path / folder / "job.py"
        path.parent.mkdir(exist_ok=True)
        text = f"def work(x):\n    return {folder!r}\n"
        path.write_text(text)
        space: dict[str, Any] = {"__name__": name}
        exec(compile(text, str(path), "exec"), space)  # noqa: S102 - as the interpreter does
        bodies.append(space["work"])
    journal = memory()
    outcomes = [start(run_of(task(cache_policy=INPUTS)(body), 1), journal=journal) for body in bodies]
    assert [outcome.value for outcome in outcomes] == ["a", "a", "b"]
    assert [outcome.tally.cached for outcome in outcomes] == [0, 1, 0]


def test_a_task_below_which_an_effect_ran_is_not_cached() -> None:
    """However deep; a replay does not make it look pure either."""
    paid: list[int] = []

    @task(side_effect=True)
    def pay() -> int:
        paid.append(1)
        return len(paid)

    @task
    def between() -> int:
        return pay()

    lives: list[int] = []

    def around() -> int:
        value = between()
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return value

    cached = task(cache_key_fn=always("one key"))(around)
    run = run_of(cached)
    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == 1
    assert start(run, journal=journal).value == 2
    assert len(paid) == 2


def test_expiry_does_not_change_a_replay() -> None:
    """A hit is committed before it is delivered: a resumed run gets it again, long after it has expired."""
    journal, clock = memory(), Clock(0.0)
    cached = task(cache_expiration=HOUR)(echo)
    start(run_of(cached, 1), journal=journal, using=options(clock))
    lives: list[int] = []

    @flow
    def twice() -> Any:
        value = cached(1)
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return value

    clock.now = 3_599.0
    run_id = die(twice, journal=journal, using=options(clock))
    clock.now = 9_999.0
    assert resume(twice, run_id, journal, options(clock)).value == [1, 2]
    assert len(CALLS) == 1


def test_a_cached_result_that_cannot_be_read_here_is_a_miss() -> None:
    """Another run's result of a class that is gone is not used; the log says so."""
    module = ModuleType("vanishing")
    sys.modules["vanishing"] = module
    exec("from dataclasses import dataclass\n@dataclass\nclass Gone:\n    x: int\n", module.__dict__)  # noqa: S102
    journal = memory()

    def make(x: int) -> Any:
        CALLS.append(x)
        return module.Gone(x) if hasattr(module, "Gone") else x

    cached = task(cache_key_fn=always("one key"))(make)
    try:
        start(run_of(cached, 1), journal=journal)
        delattr(module, "Gone")
        assert start(run_of(cached, 1), journal=journal).value == 1
    finally:
        del sys.modules["vanishing"]
    assert len(CALLS) == 2
    assert any("the cached result is not used" in line for line in log_of(journal, 2))


@pytest.mark.parametrize(
    "policy",
    [
        {"cache_policy": INPUTS, "cache_key_fn": always("")},
        {"cache_policy": INPUTS, "side_effect": True},
        {"refresh_cache": True, "side_effect": True},
        {"cache_expiration": HOUR, "persist_result": False},
    ],
)
def test_contradictions_are_refused_at_definition(policy: Any) -> None:
    """Two keys, a cached side effect, a cached result that is not recorded."""
    with pytest.raises(DefinitionError):
        task(**policy)(echo)


def test_without_a_policy_nothing_is_shared_between_runs() -> None:
    """Caching across runs is asked for; within a run, replay needs no asking."""
    journal = memory()
    assert both(journal, task(echo), (1,), (1,)) == 2
    assert len(rows(journal, "completed")) == 1
