"""Local clusters, each started once: tests say with a marker which of them they need."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from agentflow.task_runners import DaskTaskRunner, RayTaskRunner, TaskRunner

#: On loopback, without anything that would call home.
RAY = {"num_cpus": 2, "_node_ip_address": "127.0.0.1", "log_to_driver": False, "logging_level": "ERROR"}
RAY_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}


@pytest.fixture(scope="session")
def dask_cluster() -> Iterator[Any]:
    """A Dask cluster of two worker processes."""
    distributed: Any = importlib.import_module("distributed")  # only for tests that are marked
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on this machine; runs find this process connected to it."""
    os.environ.update(RAY_ENVIRONMENT)
    ray: Any = importlib.import_module("ray")  # only for tests that are marked
    ray.init(include_dashboard=False, **RAY)
    yield
    ray.shutdown()


@pytest.fixture(
    params=[pytest.param("dask", marks=pytest.mark.dask), pytest.param("ray", marks=pytest.mark.ray)]
)
def runner(request: pytest.FixtureRequest) -> TaskRunner:
    """A task runner on a running cluster."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        return RayTaskRunner()
    cluster = request.getfixturevalue("dask_cluster")
    return DaskTaskRunner(address=cluster.scheduler_address)
