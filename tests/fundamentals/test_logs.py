"""The log of a run: what is written with the run's logger, and what is printed."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from agentflow import flow, get_run_logger, task
from tests.fundamentals.lives import log_of, memory, options, start


def test_lines_are_recorded_with_their_step_and_level() -> None:
    """Who said it and how loud, in the order in which it was said."""

    @task
    def speaks() -> None:
        get_run_logger().warning("from the task: %s", 5)

    @flow
    def run() -> None:
        get_run_logger().info("before")
        speaks()
        get_run_logger().info("after")

    journal = memory()
    start(run, journal=journal)
    assert [(line.step, line.level, line.text) for _, line in journal.logs(1)] == [
        ("run", logging.INFO, "before"),
        ("speaks", logging.WARNING, "from the task: 5"),
        ("run", logging.INFO, "after"),
    ]


def test_the_level_is_a_setting() -> None:
    """What is below it is not recorded."""

    @flow
    def run() -> None:
        get_run_logger().debug("quiet")
        get_run_logger().error("loud")

    journal = memory()
    start(run, journal=journal, using=options(log_level="warning"))
    assert log_of(journal) == ["loud"]


def test_the_standard_library_gets_the_lines_too(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers of the program see them, with the file that wrote them."""

    @flow
    def run() -> None:
        get_run_logger().warning("said %s", "so")

    start(run)
    (record,) = [record for record in caplog.records if record.name == "agentflow.run"]
    assert record.getMessage() == "said so"
    assert (record.filename, record.funcName) == ("test_logs.py", "run")


def test_prints_are_recorded_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """`log_prints` of a flow covers what it calls; the text is printed as well."""

    @task
    def quiet() -> None:
        print("from", "below", sep="-")

    @task(log_prints=True)
    def loud() -> None:
        print("loud")

    @flow(log_prints=True)
    def recorded() -> None:
        quiet()

    @flow
    def unrecorded() -> None:
        quiet()
        loud()

    journal = memory()
    start(recorded, journal=journal)
    start(unrecorded, journal=journal)
    assert log_of(journal, 1) == ["from-below"]
    assert log_of(journal, 2) == ["loud"]
    assert capsys.readouterr().out == "from-below\nfrom-below\nloud\n"


def test_what_is_called_prints_as_its_caller_says_unless_it_says_otherwise() -> None:
    """Tasks and sub-flows inherit `log_prints`; False keeps a task's prints, and those below it, out of the log."""

    @task
    def inherits(text: str) -> None:
        print(text)

    @task(log_prints=False)
    def silent() -> None:
        print("silent")
        inherits("below silent")

    @flow
    def inner() -> None:
        print("inner")
        inherits("below inner")

    @flow(log_prints=True)
    def outer() -> None:
        silent()
        inner()
        print("a", "b", sep="")
        print("elsewhere", file=sys.stderr)

    journal = memory()
    print("before")
    start(outer, journal=journal)
    print("after")
    assert log_of(journal) == ["inner", "below inner", "ab"]


def test_prints_of_branches_and_threads_are_recorded() -> None:
    """Whoever prints below the flow."""

    @task
    def below(x: int) -> None:
        print(x)

    @flow(log_prints=True)
    async def run() -> None:
        await below.submit(1)

        async def branch() -> None:
            await asyncio.sleep(0)
            print(2)

        await asyncio.gather(branch())

    journal = memory()
    start(run, journal=journal)
    assert log_of(journal) == ["1", "2"]


def test_odd_text_does_not_break_the_log() -> None:
    """Lone surrogates, NULs and very long lines are made harmless."""

    @flow
    def run() -> None:
        get_run_logger().info("a\ud800b\0c")
        get_run_logger().info("x" * 100_000)

    journal = memory()
    start(run, journal=journal)
    first, second = log_of(journal)
    assert first == "a?b\ufffdc"
    assert len(second) == 64_000


def test_a_line_says_where_in_the_code_it_comes_from() -> None:
    """File, line and function of whoever logged or printed it; what the engine says comes from nowhere."""
    failed: list[int] = []

    @task(retries=1)
    def speak() -> None:
        log = get_run_logger()
        log.info("one")
        log.log(logging.WARNING, "two")
        print("three")
        if not failed:
            failed.append(1)
            raise ValueError

    @flow(log_prints=True)
    def run() -> None:
        speak()

    journal = memory()
    start(run, journal=journal)
    said = {line.text.split()[0]: line.source for _, line in journal.logs(1)}
    first = speak.fn.__code__.co_firstlineno
    name = "test_a_line_says_where_in_the_code_it_comes_from.<locals>.speak"
    assert {word: said[word] for word in ("one", "two", "three")} == {
        word: f"test_logs.py:{first + line} {name}" for word, line in (("one", 3), ("two", 4), ("three", 5))
    }
    assert said["speak"] == ""
