"""Options of tasks and flows: what is left open, and what there is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentflow import flow, task
from agentflow.errors import DefinitionError
from agentflow.journal.memory import MemoryJournal
from agentflow.loading import load_flow, load_flow_from_entrypoint

DECORATORS: list[Callable[..., Any]] = [task, flow]


def doubled(x: int) -> int:
    """Twice as much."""
    return 2 * x


def test_none_leaves_an_option_open() -> None:
    """As code that passes options on may write it; also to take one back."""
    open_task = task(
        name=None, description=None, retries=None, retry_delay_seconds=None, timeout_seconds=None, tags=None,
        persist_result=None, log_prints=None, on_completion=None, on_commit=None, refresh_cache=None,
    )(doubled)  # fmt: skip
    open_flow = flow(
        name=None, version=None, description=None, retries=None, timeout_seconds=None, tags=None,
        persist_result=None, on_failure=None, task_runner=None, concurrency_limit=None,
    )(doubled)  # fmt: skip
    assert (open_task.name, open_task.policy.retries, open_flow.version) == ("doubled", 0, "")
    assert open_flow.run({"x": 2}, journal=MemoryJournal()).value == 4
    assert task(retries=3)(doubled).with_options(retries=None).policy.retries == 0
    assert flow(retries=3)(doubled).with_options(retries=None).policy.retries == 0


def test_what_a_task_does_is_said_by_its_docstring_or_its_description() -> None:
    """People read it before they sign."""
    assert task(doubled).policy.description == "Twice as much."
    assert task(description="Doubles.")(doubled).policy.description == "Doubles."


@pytest.mark.parametrize("decorator", DECORATORS)
def test_an_option_that_there_is_not_is_refused(decorator: Callable[..., Any]) -> None:
    """By name, with those that there are; one of Prefect's with the reason; at the definition and with_options."""
    with pytest.raises(
        DefinitionError, match=r"doubled: a (task|flow) has no option retires; there are .*retries"
    ):
        decorator(retires=3)(doubled)
    with pytest.raises(
        DefinitionError, match=r"no option result_storage; results are kept in the journal.*: take it"
    ):
        decorator(result_storage="s3://bucket")(doubled)
    with pytest.raises(DefinitionError, match="no option retires"):
        decorator(doubled).with_options(retires=3)
    for wrong in (
        {"retires": 3},
        {"cache_policy": 5},
        {"task_runner": 5},
        {"on_failure": 5},
        {"flow_run_name": 5},
    ):
        with pytest.raises(TypeError, match=r"doubled|policy"):
            decorator(**wrong)(doubled)
    with pytest.raises(TypeError, match="wants a function"):
        decorator(5)


def test_a_flow_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """The file and the name; under Prefect's name of the function, too."""
    file = tmp_path / "found_by_its_entry_point.py"
    file.write_text("from agentflow import flow\n\n@flow\ndef double(x: int) -> int:\n    return 2 * x\n")
    found = load_flow_from_entrypoint(f"{file}:double")
    assert (found.name, found.fn(2), load_flow(f"{file}:double")) == ("double", 4, found)


def test_the_result_of_a_run_is_always_recorded() -> None:
    """`persist_result=True` says what is so anyway; False is refused."""
    assert flow(persist_result=True)(doubled).run({"x": 4}, journal=MemoryJournal()).value == 8
    with pytest.raises(DefinitionError, match="the result of a run is always recorded"):
        flow(persist_result=False)(doubled)  # pyright: ignore[reportArgumentType]
