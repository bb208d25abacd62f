"""Ray: started for a run where this process is not connected yet, and ended with it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from agentflow import flow
from agentflow.task_runners import RayTaskRunner
from tests.fundamentals.lives import options, start
from tests.runners.conftest import RAY, RAY_ENVIRONMENT
from tests.runners.documentation import documented

pytestmark = pytest.mark.ray
PROGRAM = f"""
import json, ray
from agentflow import flow
from agentflow.task_runners import RayTaskRunner
from tests.fundamentals.bodies import square

@flow(task_runner=RayTaskRunner(init_kwargs={RAY!r}, remote_options={{"num_cpus": 2}}))
def run():
    return [future.result() for future in square.map([1, 2, 3])], ray.is_initialized()

print(json.dumps([run(), ray.is_initialized()]))
"""


def test_ray_is_started_for_a_run_and_ended_with_it(tmp_path: Path) -> None:
    """In a process that is not connected to Ray; each body asks for what `remote_options` say."""
    environment = os.environ | RAY_ENVIRONMENT | {"AGENTFLOW_HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == [[[1, 4, 9], True], False]


def test_a_module_that_only_the_sender_finds(ray_cluster: None, tmp_path: Path) -> None:
    """A flow's file may lie anywhere on this machine: workers look where the sender finds its modules."""
    (tmp_path / "lonely_ray_module.py").write_text(
        "from agentflow import task\n\n\n@task\ndef seven():\n    return 7\n"
    )
    with mock.patch.object(sys, "path", [*sys.path, str(tmp_path)]):
        module: Any = importlib.import_module("lonely_ray_module")

        @flow(task_runner=RayTaskRunner())
        def run() -> int:
            return module.seven.submit().result()

        assert start(run, using=options(suspend=False)).value == 7


def test_the_documented_example_runs(ray_cluster: None) -> None:
    """As docs/task-runners.md shows it."""
    flow = documented("squares")["squares"]
    assert start(flow, using=options(suspend=False)).value == [1, 4, 9]
