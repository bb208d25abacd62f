"""Whatever a flow does, and wherever it is killed: the resumed run reuses every finished step and ends alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.engine.programs import Program, check_program

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
LEAVES = [
    "pure",
    "const",
    "raw",
    "sample",
    "poll",
    "pollretry",
    "caught",
    "flaky",
    "effect",
    "calls",
    "submit",
    "sleep",
    "done",
]
BODIES = ["nested", "retried", "sub", "loop"]
FANS = ["gather", "accum", "group", "first"]

SHAPES: dict[str, Program] = {
    "steps, effects, caught failures": [("pure", 0), ("effect", 1), ("caught", 0), ("effect", 0)],
    "equal inputs, diverge later": [
        (
            "gather",
            0,
            [
                [("sample", 0), ("pure", 1)],
                [("pure", 0), ("sample", 0), ("pure", 2)],
                [("pure", 2), ("sample", 0), ("effect", 0)],
            ],
        )
    ],
    "shared list": [("accum", 0, [[("pure", 0)], [("pure", 1)], [("pure", 2)]]), ("pure", 0)],
    "shared list, then an effect on it": [
        ("accum", 0, [[("pure", 0)], [("pure", 1)], [("pure", 2)]]),
        ("effect", 0),
    ],
    "task group in which one fails": [
        ("group", 0, [[("pure", 0), ("pure", 1)], [("effect", 2)]]),
        ("pure", 0),
    ],
    "two effects of one name": [
        ("gather", 0, [[("pure", 0), ("effect", 0)], [("pure", 1), ("effect", 1)], [("effect", 2)]])
    ],
    "two polling loops": [("gather", 0, [[("poll", 0), ("pure", 1)], [("poll", 0), ("pure", 2)]])],
    "poll by retries": [("pollretry", 0), ("pure", 0)],
    "retry over nested steps": [("retried", 0, [("pure", 0), ("pure", 1)]), ("pure", 1)],
    "retry over a nested effect": [("retried", 0, [("effect", 0), ("pure", 1)]), ("pure", 1)],
    "retry over an effect two levels down": [("retried", 0, [("nested", 0, [("effect", 0)]), ("pure", 1)])],
    "retry over steps that contain effects": [("retried", 0, [("loop", 0, [("nested", 0, [("calls", 0)])])])],
    "calls gathered directly": [("calls", 0), ("calls", 0)],
    "a race, then an effect on what came of it": [
        ("first", 0, [[("pure", 0), ("sample", 0)], [("pure", 1)], [("sleep", 1), ("pure", 2)]]),
        ("effect", 0),
    ],
    "a race of effects": [("first", 0, [[("effect", 0)], [("pure", 1), ("effect", 1)]]), ("pure", 0)],
    "a race whose loser asks for an effect that never begins": [
        ("sub", 2, [("first", 0, [[("effect", 2)], [("raw", 0)]])]),
        ("loop", 0, [("first", 1, [[("pure", 2)], [("pollretry", 0)]])]),
    ],
    "a race whose losers take their time, beside another branch": [
        (
            "accum",
            1,
            [
                [("first", 1, [[("pollretry", 1)], [("effect", 2), ("poll", 0), ("calls", 0)]])],
                [("nested", 2, [("sample", 2), ("calls", 1), ("const", 0)])],
            ],
        )
    ]
    * 2,
    "whichever is done, then an effect on the order": [("done", 0), ("effect", 0)],
    "waits in branches": [
        ("gather", 0, [[("sleep", 1), ("effect", 0)], [("pure", 1), ("sleep", 2), ("pure", 0)]]),
        ("effect", 2),
    ],
    "raw awaits between the steps": [
        (
            "gather",
            0,
            [
                [("raw", 0), ("sample", 0), ("raw", 0), ("pure", 1)],
                [("raw", 0), ("sample", 0), ("raw", 0), ("pure", 2)],
                [("raw", 0), ("sample", 0), ("effect", 0)],
            ],
        )
    ],
    "raw awaits around a shared list": [
        ("accum", 0, [[("raw", 0), ("pure", k)] for k in range(3)]),
        ("effect", 0),
    ],
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_known_counter_examples_replay(shape: str, seed: int) -> None:
    """The shapes that break naive replay survive a crash at each of their writes."""
    fault, points, _ = check_program(SHAPES[shape], seed, most_points=40)
    assert not fault
    assert points > 0


def programs() -> st.SearchStrategy[Program]:
    """Random programs of at most some twelve steps."""
    leaf = st.tuples(st.sampled_from(LEAVES), st.integers(0, 2))

    def extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        body = st.lists(inner, min_size=1, max_size=3)
        deep = st.tuples(st.sampled_from(BODIES), st.integers(0, 2), body)
        wide = st.tuples(st.sampled_from(FANS), st.integers(0, 2), st.lists(body, min_size=2, max_size=3))
        return st.one_of(leaf, deep, wide)

    return st.lists(st.recursive(leaf, extend, max_leaves=8), min_size=1, max_size=4)


def _check(prog: Program, seed: int) -> None:
    fault, points, asked = check_program(prog, seed, most_points=6)
    note(f"{points} crash points, {asked} questions")
    assert not fault, f"{fault}\nprogram = {prog!r}, seed = {seed}"


@pytest.mark.timeout(300)
@given(prog=programs(), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW, database=None, print_blob=True)
def test_random_programs_replay(prog: Program, seed: int) -> None:
    """Random programs, crashed at random writes, resume without repeating a finished step."""
    _check(prog, seed)


@pytest.mark.nightly
@given(prog=programs(), seed=st.integers(0, 999_999))
@settings(max_examples=3000, deadline=None, suppress_health_check=SLOW, database=None, print_blob=True)
def test_many_random_programs_replay(prog: Program, seed: int) -> None:
    """The same, thousands of times."""
    _check(prog, seed)
