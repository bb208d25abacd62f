"""Ray: bodies run by the workers of a Ray cluster, one started on this machine or one that is there already."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agentflow.engine.places import Errand, Returned, Workplace
from agentflow.errors import NotSent, WorkerDied
from agentflow.extras import optional_module
from agentflow.task_runners.remote import run_there
from agentflow.task_runners.transport import pack, unpack

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, eq=False)
class RayTaskRunner:
    """Bodies of submitted tasks, sync and async, run on a Ray cluster. Needs ``agentflow[ray]``.

    Args:
        address: Of a cluster that is there already; default: one is started on this machine and ended with the run. A
            process that has called ``ray.init`` uses what it has.
        init_kwargs: Further arguments of ``ray.init``.
        remote_options: What each body needs, as for ``.options(...)`` of a Ray function: ``{"num_cpus": 2}``.

    Raises:
        UsageError: where Ray is not installed.
    """

    address: str | None = None
    init_kwargs: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    remote_options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    #: The cluster decides.
    max_workers: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        optional_module("ray", extra="ray")

    def open(self) -> Workplace:
        """The cluster for one run; it is asked for when the first body is sent."""
        return RayPlace(self.address, self.init_kwargs, self.remote_options)


class _Connection:
    """This process's one connection to Ray: made by the first run that needs it, ended by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._ours = False

    def open(self, ray: Any, address: str | None, options: Mapping[str, Any]) -> None:
        """Be connected."""
        with self._lock:
            if not ray.is_initialized():
                defaults = {"include_dashboard": False} if address is None else {}
                ray.init(address, **{**defaults, **options})
                self._ours = True
            self._users += 1

    def close(self, ray: Any) -> None:
        """It is not needed any more."""
        with self._lock:
            self._users -= 1
            if not self._users and self._ours:
                self._ours = False
                ray.shutdown()


_connection = _Connection()


class RayPlace:
    """A run's part of a Ray cluster."""

    #: Ray is told not to repeat a body.
    runs_once = True

    def __init__(self, address: str | None, init: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._address, self._init, self._options = address, init, options
        self._function: Any = None
        # Ray starts and takes bodies in a thread of its own, so that no event loop waits for it
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="agentflow-ray")
        self._ray: Any = None

    def send(self, errand: Errand) -> RayJob:
        """Have a body run by a worker of the cluster."""
        job = RayJob(errand)
        try:
            self._sender.submit(self._send, job)
        except RuntimeError:
            job.fail(NotSent(f"{errand.away.step}: the run has ended"))
        return job

    def _send(self, job: RayJob) -> None:
        name = job.errand.away.step
        try:
            data = pack(job.errand, job.errand.seconds)
            function = self._connected(name)
            # never repeated by Ray: whether a body runs again is for the engine to say
            options = {"num_cpus": 1, "name": name, **self._options, "max_retries": 0}
            folders = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - strings are what the path has
            job.begin(self._ray, function.options(**options).remote(data, folders))
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            job.fail(error)

    def _connected(self, name: str) -> Any:
        """The remote function. Raises `NotSent` where there is no cluster."""
        if self._function is None:
            ray = optional_module("ray", extra="ray")
            try:
                _connection.open(ray, self._address, self._init)
            except Exception as error:
                message = f"{name}: there is no Ray cluster to run it ({type(error).__name__}: {error})"
                raise NotSent(message) from error
            self._ray = ray
            self._function = ray.remote(run_there)
        return self._function

    def close(self) -> None:
        """Leave the cluster; end it where it was started for runs of this process."""
        self._sender.shutdown(cancel_futures=True)
        if self._ray is not None:
            _connection.close(self._ray)


class RayJob:
    """A body on its way to a worker, or in one."""

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.future: Future[Returned] = Future()
        self._lock = threading.Lock()
        self._stopped = False
        self._ray: Any = None
        self._reference: Any = None

    def begin(self, ray: Any, reference: Any) -> None:
        """Ray has it."""
        with self._lock:
            self._ray, self._reference = ray, reference
            stopped = self._stopped
        if stopped:
            ray.cancel(reference, force=True)
        reference.future().add_done_callback(self._over)

    def stop(self) -> None:
        """Nobody wants it any more: its worker is killed."""
        with self._lock:
            self._stopped = True
            reference = self._reference
        if reference is not None:
            self._ray.cancel(reference, force=True)

    def _over(self, done: Future[Any]) -> None:
        step = self.errand.away
        try:
            outcome, lines = done.result()
        except Exception as error:  # noqa: BLE001 - of Ray: the body's own is in its outcome
            self.fail(WorkerDied(f"{step.step}: Ray has lost it ({type(error).__name__}: {error})"))
            return
        for line in lines:
            self.errand.hear(line)
        with suppress(InvalidStateError):  # whoever waited has given up
            self.future.set_result(unpack(outcome, step))

    def fail(self, error: BaseException) -> None:
        """Tell why it gave no end."""
        with suppress(InvalidStateError):  # as above
            self.future.set_exception(error)
