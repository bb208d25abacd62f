"""Deployments, on every store: defined, replaced, paused, removed; and the runs that name them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentflow.errors import DeploymentNotFoundError, DeploymentPausedError, Fenced
from agentflow.journal.protocol import DeploymentFilter, Journal, RunFilter
from agentflow.model.deployments import NewDeployment
from agentflow.model.ids import new_id
from agentflow.model.limits import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from agentflow.model.runs import NewRun, Origin, Run
from agentflow.model.states import StateType
from tests.fundamentals.lives import Clock

NIGHTLY = NewDeployment(
    "report/nightly",
    "report",
    "app.py:report",
    b'{"day":1}',
    b'{"type":"object"}',
    (Origin.PERSON, Origin.MODEL),
    tags=("a", "b"),
    description="every night\nand day",
    version="1",
    concurrency_limit=ConcurrencyLimitConfig(3, ConcurrencyLimitStrategy.CANCEL_NEW),
    cwd="/srv",
    interpreter="/usr/bin/python",
)


def names(journal: Journal, **wanted: object) -> list[str]:
    return [found.name for found in journal.list_deployments(DeploymentFilter(**wanted))]  # pyright: ignore[reportArgumentType]


def run_of(journal: Journal, deployment: str = NIGHTLY.name) -> Run:
    new = NewRun(
        new_id(),
        "report",
        "f.py:f",
        b"{}",
        "",
        Origin.PERSON,
        1.0,
        deployment=deployment,
        deployment_version="1",
    )
    return journal.create_run(new, state=StateType.PENDING)


def test_a_deployment_is_read_as_it_was_defined(journal: Journal) -> None:
    """Every field comes back, from the call that defines it and from each one that reads it."""
    made = journal.save_deployment(NIGHTLY)
    assert made == journal.get_deployment("report/nightly") == journal.list_deployments(DeploymentFilter())[0]
    assert (made.origins, made.tags, made.concurrency_limit) == (
        NIGHTLY.origins,
        NIGHTLY.tags,
        NIGHTLY.concurrency_limit,
    )
    assert (made.parameters, made.schema, made.description) == (
        NIGHTLY.parameters,
        NIGHTLY.schema,
        NIGHTLY.description,
    )
    assert (made.paused, made.created, made.updated) == (False, 1000.0, 1000.0)
    assert (made.entrypoint, made.cwd, made.interpreter) == ("app.py:report", "/srv", "/usr/bin/python")
    assert journal.get_deployment("report/other") is None


def test_a_definition_replaces_the_one_of_its_name(journal: Journal, clock: Clock) -> None:
    """It is the same deployment still: created when it was; and one that changes nothing is no change."""
    first = journal.save_deployment(NIGHTLY)
    clock.now += 5
    assert journal.save_deployment(NIGHTLY) == first
    changed = journal.save_deployment(replace(NIGHTLY, version="2", concurrency_limit=None, tags=()))
    assert (changed.version, changed.concurrency_limit, changed.tags) == ("2", None, ())
    assert (changed.created, changed.updated) == (1000.0, 1005.0)
    assert names(journal) == ["report/nightly"]


def test_a_pause_outlives_a_new_definition_that_does_not_speak_of_it(journal: Journal, clock: Clock) -> None:
    """Who deploys again without saying so does not resume what somebody has paused."""
    journal.save_deployment(NIGHTLY)
    clock.now += 5
    assert journal.pause_deployment(NIGHTLY.name, paused=True).updated == 1005.0
    clock.now += 5
    assert journal.pause_deployment(NIGHTLY.name, paused=True).updated == 1005.0
    assert journal.save_deployment(replace(NIGHTLY, version="2")).paused
    assert not journal.save_deployment(replace(NIGHTLY, version="2", paused=False)).paused
    assert journal.save_deployment(replace(NIGHTLY, paused=True)).paused
    with pytest.raises(DeploymentNotFoundError, match="report/none"):
        journal.pause_deployment("report/none", paused=True)


def test_deployments_are_listed_by_name(journal: Journal) -> None:
    """All of them, of one flow, with all of some tags, or page by page."""
    for name, flow, tags in (("b/x", "b", ("t",)), ("a/y", "a", ("t", "u")), ("a/x", "a", ())):
        journal.save_deployment(replace(NIGHTLY, name=name, flow=flow, tags=tags))
    assert names(journal) == ["a/x", "a/y", "b/x"]
    assert names(journal, flow="a") == ["a/x", "a/y"]
    assert names(journal, tags=("t",)) == ["a/y", "b/x"]
    assert names(journal, tags=("u", "t")) == ["a/y"]
    assert names(journal, limit=1, after="a/x") == ["a/y"]


def test_a_run_names_its_deployment(journal: Journal) -> None:
    """With the version that it had then; the runs of one deployment can be listed, and stay when it goes."""
    journal.save_deployment(NIGHTLY)
    mine, other = run_of(journal), run_of(journal, "")
    assert journal.get_run(mine.id) == mine
    assert (mine.deployment, mine.deployment_version, other.deployment) == ("report/nightly", "1", "")
    assert journal.list_runs(RunFilter(deployment="report/nightly")) == [mine]
    assert journal.delete_deployment("report/nightly")
    assert not journal.delete_deployment("report/nightly")
    assert journal.list_runs(RunFilter(deployment="report/nightly")) == [mine]


def test_no_run_is_made_of_a_deployment_that_is_paused_or_gone(journal: Journal) -> None:
    """The store itself refuses it, so that nobody slips in between a look and the making."""
    journal.save_deployment(replace(NIGHTLY, paused=True))
    with pytest.raises(DeploymentPausedError, match="agentflow deployments resume report/nightly"):
        run_of(journal)
    journal.pause_deployment(NIGHTLY.name, paused=False)
    run_of(journal)
    journal.delete_deployment(NIGHTLY.name)
    with pytest.raises(DeploymentNotFoundError, match="agentflow deployments ls"):
        run_of(journal)
    assert len(journal.list_runs(RunFilter())) == 1


def test_the_arguments_of_a_run_are_bound_by_its_owner(journal: Journal) -> None:
    """Once its flow has read them; a stale owner is refused."""
    run = run_of(journal, "")
    claimed = journal.claim_run(run.id)
    journal.bind_run(run.number, claimed.epoch, b'{"a":1}', name="report of monday", on_cancellation=True)
    bound = journal.get_run(run.id)
    assert bound == replace(claimed, parameters=b'{"a":1}', name="report of monday", on_cancellation=True)
    journal.bind_run(run.number, claimed.epoch, b"{}")
    assert journal.get_run(run.id) == replace(claimed, parameters=b"{}", name="report of monday")
    with pytest.raises(Fenced):
        journal.bind_run(run.number, claimed.epoch - 1, b"{}")


def test_whoever_listens_hears_of_deployments(journal: Journal) -> None:
    """Pages and workers are told that something has changed."""
    heard: list[str] = []
    undo = journal.subscribe(lambda: heard.append("changed"))
    for change in (
        lambda: journal.save_deployment(NIGHTLY),
        lambda: journal.pause_deployment(NIGHTLY.name, paused=True),
        lambda: journal.delete_deployment(NIGHTLY.name),
    ):
        heard.clear()
        change()
        assert heard
    undo()
