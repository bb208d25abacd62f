"""R15: the small ones."""

from __future__ import annotations

import agentflow
from agentflow import flow, recorded, task
from tests.fundamentals.lives import Death, die, memory, resume


def test_star_imports_shadow_nothing_of_the_standard_library() -> None:
    """`recorded.now`, `uuid4` and `random` live in one module; the package's names are its own."""
    assert {"now", "uuid4", "random", "asyncio", "time", "datetime"} & set(agentflow.__all__) == set()
    assert [name for name in agentflow.__all__ if not hasattr(agentflow, name)] == []
    assert len(agentflow.__all__) <= 50


def test_a_finished_request_is_never_made_again() -> None:
    """One that was in flight at the kill is: the promise says *finished*."""
    sent: list[int] = []
    lives: list[int] = []

    @task
    def request(number: int) -> int:
        sent.append(number)
        if number == 2 and not lives:
            lives.append(1)
            raise Death
        return number

    @flow
    def run() -> list[int]:
        return [request(1), request(2)]

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [1, 2]
    assert sent == [1, 2, 2]


def test_recorded_sources_outside_of_a_flow_are_what_they_are_named_after() -> None:
    """Nothing is recorded where there is no run."""
    assert recorded.now() <= recorded.now()
    assert recorded.random() != recorded.random()
