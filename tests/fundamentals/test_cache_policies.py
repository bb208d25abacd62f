"""Cache policies as values: added, subtracted, configured, written by oneself - and what they make of a call."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from agentflow import cache_policies, flow, task
from agentflow.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CacheKeyFnPolicy,
    CachePolicy,
    IsolationLevel,
)
from agentflow.errors import ConfigurationError, DefinitionError
from agentflow.journal.protocol import CacheFilter, Journal
from agentflow.tasks import Task, task_input_hash
from tests.fundamentals.lives import always, log_of, memory, start

CALLS: list[Any] = []
HOUR = dt.timedelta(hours=1)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def echo(x: Any = 1, y: Any = 2) -> list[Any]:
    CALLS.append((x, y))
    return [x, y]


async def echo_async(x: Any = 1, y: Any = 2) -> list[Any]:
    CALLS.append((x, y))
    return [x, y]


def nothing() -> int:
    CALLS.append(())
    return len(CALLS)


def ran(cached: Task[..., Any], *calls: tuple[Any, ...], journal: Journal | None = None) -> int:
    """How often the body ran when so many runs made one call each."""
    journal = journal or memory()
    CALLS.clear()
    for arguments in calls:

        @flow(name="run")
        def run(given: tuple[Any, ...] = arguments) -> Any:
            return cached(*given)

        @flow(name="run")
        async def run_async(given: tuple[Any, ...] = arguments) -> Any:
            return await cached(*given)

        start(run_async if cached.is_async else run, journal=journal)
    return len(CALLS)


class Parity(CachePolicy):
    """A policy of one's own."""

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        return None if inputs["x"] < 0 else f"{task_ctx.task.name}-{inputs['x'] % 2}"


@dataclass
class Modulo(CachePolicy):
    """Another one, with a field."""

    base: int = 10

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        return str(inputs["x"] % self.base)


def test_sums_are_the_same_in_any_order() -> None:
    """What is added twice counts once, and NO_CACHE adds nothing."""
    assert DEFAULT == INPUTS + TASK_SOURCE + RUN_ID == RUN_ID + (TASK_SOURCE + INPUTS)
    assert DEFAULT + DEFAULT == DEFAULT
    assert INPUTS + NO_CACHE is INPUTS
    assert NO_CACHE + INPUTS is INPUTS
    assert cache_policies.NONE is NO_CACHE


def test_a_policy_never_changes() -> None:
    """Every operator returns another one."""
    before = repr(DEFAULT), repr(INPUTS)
    assert DEFAULT - "x" != DEFAULT
    assert INPUTS - "x" != INPUTS
    assert INPUTS.configure(isolation_level="SERIALIZABLE") != INPUTS
    assert (INPUTS - "x") + TASK_SOURCE == (INPUTS + TASK_SOURCE) - "x"
    assert (repr(DEFAULT), repr(INPUTS)) == before
    with pytest.raises(AttributeError):
        INPUTS.isolation_level = IsolationLevel.SERIALIZABLE  # type: ignore[misc]


@pytest.mark.parametrize("body", [echo, echo_async])
def test_what_is_subtracted_does_not_count(body: Any) -> None:
    """From INPUTS, from a sum; a policy that looks at no arguments stays what it is."""
    assert ran(task(cache_policy=INPUTS - "y")(body), (1, 5), (1, 6), (2, 6)) == 2
    assert ran(task(cache_policy=(INPUTS + TASK_SOURCE) - "y" - "x")(body), (1, 5), (2, 6)) == 1
    assert TASK_SOURCE - "y" == TASK_SOURCE
    assert NO_CACHE - "y" == NO_CACHE
    with pytest.raises(TypeError, match="only the name"):
        _ = INPUTS - 1  # type: ignore[operator]


@pytest.mark.parametrize("body", [echo, echo_async])
def test_what_each_policy_looks_at(body: Any) -> None:
    """The run, the source, nothing at all."""
    assert ran(task(cache_policy=INPUTS + RUN_ID)(body), (1,), (1,)) == 2
    assert ran(task(cache_policy=DEFAULT)(body), (1,), (1,)) == 2
    assert ran(task(cache_policy=TASK_SOURCE)(body), (1,), (2,)) == 1
    assert ran(task(cache_policy=NO_CACHE)(body), (1,), (1,)) == 2
    assert ran(task(cache_policy=NO_CACHE, cache_expiration=HOUR)(body), (1,), (1,)) == 2


def test_within_a_run_its_id_is_no_difference() -> None:
    """DEFAULT takes the result of an equal call of the same run, and keeps nothing for others."""
    cached = task(cache_policy=DEFAULT)(echo)

    @flow
    def twice() -> list[Any]:
        return [cached(1), cached(1), len(journal.cache_entries(CacheFilter()))]

    journal = memory()
    outcome = start(twice, journal=journal)
    assert outcome.value == [[1, 2], [1, 2], 1]
    assert (outcome.tally.cached, len(CALLS)) == (1, 1)
    assert journal.cache_entries(CacheFilter()) == []


def test_flow_parameters_are_those_of_the_flow_that_makes_the_call() -> None:
    """Of the run's flow, or of the sub-flow around the call; a flow without any gives no key."""
    cached = task(cache_policy=FLOW_PARAMETERS)(nothing)

    @flow
    def inner(a: int) -> int:
        return cached()

    @flow
    def outer(a: int, b: int) -> list[int]:
        return [cached(), inner(a), inner(a=b)]

    @flow
    def bare() -> int:
        return cached()

    journal = memory()
    assert start(outer, 1, 2, journal=journal).value == [1, 2, 3]
    assert start(outer, 1, 2, journal=journal).value == [1, 2, 3]
    assert start(inner, 2, journal=journal).value == 3
    assert start(bare, journal=journal).value == 4
    assert start(bare, journal=journal).value == 5


def test_a_policy_with_nothing_to_say_is_never_a_key_by_itself() -> None:
    """INPUTS of a task without arguments, a key that is None; in a sum the others count."""
    journal = memory()
    assert ran(task(cache_policy=INPUTS)(nothing), (), (), journal=journal) == 2
    assert "has no arguments" in log_of(journal)[0]
    assert ran(task(cache_policy=INPUTS + TASK_SOURCE)(nothing), (), ()) == 1
    assert ran(task(cache_key_fn=always(None))(echo), (1,), (1,)) == 2
    silent = CacheKeyFnPolicy(always(None))
    assert ran(task(cache_policy=INPUTS + silent)(echo), (1,), (1,), (2,)) == 2
    assert ran(task(cache_policy=INPUTS - "x" - "y")(echo), (1,), (2,)) == 1


@pytest.mark.parametrize("body", [echo, echo_async])
def test_a_policy_of_ones_own(body: Any) -> None:
    """It sees the task, the bound arguments and the flow's; it adds up with others; None is no key."""
    assert ran(task(cache_policy=Parity())(body), (1,), (3,), (2,)) == 2
    assert ran(task(cache_policy=Parity())(body), (-1,), (-1,)) == 2
    assert ran(task(cache_policy=Modulo(5))(body), (1,), (6,), (2,)) == 2
    assert ran(task(cache_policy=Modulo() + TASK_SOURCE)(body), (1,), (11,)) == 1
    assert ran(task(cache_policy=Modulo() + (INPUTS - "x"))(body), (1,), (11,), (1, 3)) == 2


@pytest.mark.parametrize("as_policy", [False, True])
def test_a_key_function_gets_the_context_and_the_bound_arguments(as_policy: bool) -> None:
    """Prefect's signature and names."""
    seen: list[Any] = []

    def key(context: Any, parameters: Mapping[str, Any]) -> str:
        run_id = context.task_run.flow_run_id
        seen.append((context.task.name, context.task.fn, run_id, context.parameters, parameters))
        return "key"

    made = task(cache_policy=CachePolicy.from_cache_key_fn(key)) if as_policy else task(cache_key_fn=key)
    journal = memory()
    assert ran(made(echo), (7,), journal=journal) == 1
    run = journal.get_run(seen[0][2])
    assert run is not None
    assert seen[0] == ("echo", echo, run.id, {"x": 7, "y": 2}, {"x": 7, "y": 2})


def test_a_key_that_cannot_be_computed_does_not_stop_the_task() -> None:
    """It runs, uncached, and the log says what was raised."""

    def key(context: Any, arguments: Any) -> str:
        raise RuntimeError("broken")

    journal = memory()
    assert ran(task(cache_key_fn=key)(echo), (1,), (1,), journal=journal) == 2
    assert log_of(journal) == ["echo is not cached: cache_key_fn raised RuntimeError('broken')"]


def test_prefects_hash_of_the_inputs_is_a_key_function() -> None:
    """Equal for equal arguments of one task; None, so not cached, where an argument has no canonical form."""
    cached = task(cache_key_fn=task_input_hash)(echo)
    assert ran(cached, (1,), (1, 2), (2,)) == 2
    assert ran(cached, (object(),), (object(),)) == 2


def test_built_in_policies_can_be_asked_for_a_key() -> None:
    """As a policy of one's own may want to."""
    one = INPUTS.compute_key(None, {"x": 1}, {})
    assert one == INPUTS.compute_key(None, {"x": 1}, {"p": 1}) != INPUTS.compute_key(None, {"x": 2}, {})
    assert INPUTS.compute_key(None, {}, {}) is None
    assert TASK_SOURCE.compute_key(None, {}, {}) is None
    assert RUN_ID.compute_key(None, {}, {}) is None
    assert FLOW_PARAMETERS.compute_key(None, {}, {}) is None
    assert FLOW_PARAMETERS.compute_key(None, {}, {"p": 1}) is not None


def test_isolation_is_configured_and_kept() -> None:
    """By name or value, through sums and differences; two levels do not add up."""
    serialised = INPUTS.configure(isolation_level="SERIALIZABLE")
    assert serialised == INPUTS.configure(isolation_level=IsolationLevel.SERIALIZABLE)
    for policy in (
        serialised + TASK_SOURCE,
        TASK_SOURCE + serialised,
        serialised - "x",
        (serialised + RUN_ID) - "x",
    ):
        assert policy.isolation_level is IsolationLevel.SERIALIZABLE
    assert Modulo(3).configure(isolation_level="SERIALIZABLE").isolation_level is IsolationLevel.SERIALIZABLE
    with pytest.raises(DefinitionError, match="do not add up"):
        _ = serialised + TASK_SOURCE.configure(isolation_level="READ_COMMITTED")
    with pytest.raises(DefinitionError, match="no isolation level"):
        INPUTS.configure(isolation_level="SOMETIMES")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"key_storage": "/tmp"}, {"lock_manager": object()}])  # noqa: S108 - never opened
def test_there_is_no_other_place_for_keys_and_locks(wrong: dict[str, Any]) -> None:
    """The journal keeps them; SERIALIZABLE needs nothing more."""
    with pytest.raises(ConfigurationError, match="the journal keeps"):
        INPUTS.configure(**wrong)


@pytest.mark.parametrize("wrong", ["INPUTS", CachePolicy(), INPUTS.configure])
def test_what_is_no_policy_is_refused_at_definition(wrong: Any) -> None:
    """Also a policy that cannot make a key."""
    with pytest.raises(DefinitionError):
        task(cache_policy=wrong)(echo)


def test_options_can_be_taken_away() -> None:
    """`with_options` replaces a policy by a key function and the other way round; None is no caching."""
    by_inputs = task(cache_policy=INPUTS, cache_expiration=HOUR)(echo)
    by_key = task(cache_key_fn=always("key"))(echo)
    assert ran(by_inputs.with_options(cache_policy=None), (1,), (1,)) == 2
    assert ran(by_key.with_options(cache_key_fn=None), (1,), (1,)) == 2
    assert ran(by_key.with_options(cache_policy=None), (1,), (1,)) == 2
    assert ran(by_key.with_options(cache_policy=INPUTS), (1,), (2,)) == 2
    assert ran(by_inputs.with_options(cache_key_fn=always("key")), (1,), (2,)) == 1
    assert ran(by_inputs.with_options(retries=1), (1,), (1,)) == 1
    forever = by_inputs.with_options(cache_expiration=None)
    assert (forever.policy.cache_expiration, forever.policy.cache_policy) == (None, INPUTS)
    assert ran(task(cache_expiration=HOUR)(echo).with_options(cache_expiration=None), (1,), (1,)) == 2
    with pytest.raises(DefinitionError, match="negative"):
        by_inputs.with_options(cache_expiration=-HOUR)
