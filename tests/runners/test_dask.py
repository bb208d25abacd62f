"""Dask: clusters that are there, clusters that are made for a run."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agentflow import task
from agentflow.errors import DefinitionError, NotSent
from agentflow.task_runners import DaskTaskRunner
from tests.fundamentals.bodies import square, where
from tests.fundamentals.lives import options, start
from tests.runners.documentation import documented
from tests.runners.test_clusters import run_with

pytestmark = pytest.mark.dask


@pytest.mark.parametrize("processes", [False, True])
def test_a_cluster_is_made_for_a_run(processes: bool) -> None:
    """With workers in threads of this process, or in processes; it ends with the run."""
    made = {"n_workers": 1, "threads_per_worker": 1, "processes": processes}
    where_to = {"host": "127.0.0.1"} if processes else {}
    runner = DaskTaskRunner(cluster_class="distributed.LocalCluster", cluster_kwargs=made | where_to)

    def run() -> tuple[int, bool]:
        return square.submit(3).result(), where.submit().result() == os.getpid()

    assert run_with(runner, run) == (9, not processes)


def test_a_cluster_that_is_there_is_used_and_left_alone(dask_cluster: Any) -> None:
    """Given as an object; it still works after the run."""
    runner = DaskTaskRunner(cluster=dask_cluster)
    assert run_with(runner, lambda: square.submit(3).result()) == 9
    assert run_with(runner, lambda: square.submit(4).result()) == 16


def test_an_idempotent_side_effect_runs_on_the_cluster(dask_cluster: Any) -> None:
    """Running it twice does no harm, so it need not stay with the flow."""

    @task(side_effect=True, idempotent=True)
    def writes() -> int:
        return os.getpid()

    runner = DaskTaskRunner(address=dask_cluster.scheduler_address)
    assert run_with(runner, lambda: writes.submit().result()) != os.getpid()


def test_a_cluster_that_is_not_there_fails_the_tasks() -> None:
    """Nothing has begun, and the error says which cluster is missing."""
    runner = DaskTaskRunner(address="tcp://127.0.0.1:9", client_kwargs={"timeout": 0.2})
    with pytest.raises(NotSent, match="there is no Dask cluster"):
        run_with(runner, lambda: square.submit(3).result())


def test_one_cluster_is_enough() -> None:
    """An address and a class contradict each other."""
    with pytest.raises(DefinitionError):
        DaskTaskRunner(address="tcp://127.0.0.1:9", cluster_class="distributed.LocalCluster")


def test_the_documented_example_runs() -> None:
    """As docs/task-runners.md shows it, on a cluster that is made for the run."""
    flow = documented("totals")["totals"]
    assert start(flow, using=options(suspend=False)).value == 10
