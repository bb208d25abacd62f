"""Dask: bodies run by the workers of a cluster, one made for the run or one that is there already."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from agentflow.engine.places import Errand, Returned, Workplace
from agentflow.errors import DefinitionError, NotSent, WorkerDied
from agentflow.extras import optional_module
from agentflow.task_runners.remote import run_there
from agentflow.task_runners.transport import pack, unpack

#: Bytes from which on Dask wants data to be sent beside the task.
_LARGE = 1_000_000
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, eq=False)
class DaskTaskRunner:
    """Bodies of submitted tasks, sync and async, run on a Dask cluster. Needs ``agentflow[dask]``.

    A side effect runs in the flow's process, because Dask repeats what a lost worker had begun - unless it is declared
    ``idempotent``.

    Args:
        cluster: A cluster that is there already.
        address: Or the address of its scheduler.
        cluster_class: Or what makes one for each run: a class, or its full name. Default: ``distributed.LocalCluster``.
        cluster_kwargs: Its arguments.
        adapt_kwargs: The made cluster grows and shrinks: the arguments of its ``adapt``.
        client_kwargs: Further arguments of ``distributed.Client``.

    Raises:
        DefinitionError: for more than one cluster.
        UsageError: where Dask is not installed.
    """

    cluster: Any = None
    address: str | None = None
    cluster_class: str | Callable[..., Any] | None = None
    cluster_kwargs: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    adapt_kwargs: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    client_kwargs: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    #: The cluster decides.
    max_workers: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        optional_module("distributed", extra="dask")
        made = self.cluster_class or self.cluster_kwargs or self.adapt_kwargs
        if sum(bool(way) for way in (self.cluster is not None, self.address, made)) > 1:
            message = "DaskTaskRunner takes a cluster, an address, or what makes a cluster: one of them"
            raise DefinitionError(message)

    def open(self) -> Workplace:
        """The cluster for one run; it is asked for when the first body is sent."""
        return DaskPlace(self.client)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Any, None]:
        """A client of the cluster, on the running loop."""
        distributed = optional_module("distributed", extra="dask")
        async with AsyncExitStack() as stack:
            given: dict[str, Any] = {"asynchronous": True, "set_as_default": False, **self.client_kwargs}
            target: Any = self.address
            if self.cluster is not None:
                target = self.cluster.scheduler_address
                given.setdefault("security", getattr(self.cluster, "security", None))
            elif target is None:
                target = await stack.enter_async_context(self._make(distributed))
                if self.adapt_kwargs:
                    target.adapt(**self.adapt_kwargs)
            yield await stack.enter_async_context(distributed.Client(target, **given))

    def _make(self, distributed: Any) -> Any:
        make: Any = self.cluster_class or distributed.LocalCluster
        if isinstance(make, str):
            module, _, name = make.replace(":", ".").rpartition(".")
            make = getattr(optional_module(module, extra="dask"), name)
        # several runs may have one at once: any free port, on this machine only
        defaults = {"dashboard_address": "127.0.0.1:0"} if make is distributed.LocalCluster else {}
        return make(asynchronous=True, **{**defaults, **self.cluster_kwargs})


class DaskPlace:
    """A client of a cluster, with a thread and a loop of its own."""

    #: What a lost worker had begun is begun again.
    runs_once = False

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._ready: Future[Any] = Future()
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, errand: Errand) -> DaskJob:
        """Have a body run by a worker of the cluster."""
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="agentflow-dask", daemon=True)
                self._thread.start()
        job = DaskJob(errand, self._loop)
        try:
            self._loop.call_soon_threadsafe(self._begin, job)
        except RuntimeError:  # closed
            job.future.set_exception(WorkerDied(f"{errand.away.step}: the run has ended"))
        return job

    def _begin(self, job: DaskJob) -> None:
        job.task = self._loop.create_task(self._attend(job))
        self._tasks.add(job.task)
        job.task.add_done_callback(self._tasks.discard)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            async with self._client() as client:
                self._ready.set_result(client)
                await self._over.wait()
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        except BaseException as error:  # noqa: BLE001 - told to those who wait for the client
            if not self._ready.done():
                self._ready.set_exception(error)
                await self._over.wait()

    async def _attend(self, job: DaskJob) -> None:
        step = job.errand.away
        try:
            job.end(await self._returned(job.errand))
        except asyncio.CancelledError:
            job.fail(WorkerDied(f"{step.step} was stopped"))
            raise
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            job.fail(error)

    async def _returned(self, errand: Errand) -> Returned:
        name = errand.away.step
        try:
            client = await asyncio.wrap_future(self._ready)
        except Exception as error:
            message = f"{name}: there is no Dask cluster to run it ({type(error).__name__}: {error})"
            raise NotSent(message) from error
        data = await self._loop.run_in_executor(None, pack, errand, errand.seconds)
        try:
            outcome, lines = await _result(client, name, data)
        except Exception as error:
            message = f"{name}: Dask has lost it ({type(error).__name__}: {error})"
            raise WorkerDied(message) from error
        for line in lines:
            errand.hear(line)
        return unpack(outcome, errand.away)

    def close(self) -> None:
        """Leave the cluster; end it where it was made for the run."""
        with self._lock:
            thread, self._closed = self._thread, True
        if thread is None:
            self._loop.close()
        else:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._over.set)
            thread.join()


class DaskJob:
    """A body on its way to a worker, or in one."""

    def __init__(self, errand: Errand, loop: asyncio.AbstractEventLoop) -> None:
        self.errand = errand
        self.future: Future[Returned] = Future()
        #: What attends to it; once it has begun.
        self.task: asyncio.Task[None] | None = None
        self._loop = loop

    def stop(self) -> None:
        """Nobody wants it any more; what a worker has begun, it does to the end."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def end(self, returned: Returned) -> None:
        """Tell how the body ended."""
        with suppress(InvalidStateError):  # whoever waited has given up
            self.future.set_result(returned)

    def fail(self, error: BaseException) -> None:
        """Tell why it gave no end."""
        with suppress(InvalidStateError):  # as above
            self.future.set_exception(error)


async def _result(client: Any, name: str, data: bytes) -> Any:
    """What a worker gives back; a body that nobody wants any more is taken from the cluster."""
    sent = await client.scatter(data, hash=False) if len(data) > _LARGE else data
    future = client.submit(run_there, sent, pure=False, key=f"{name}-{uuid.uuid4().hex}")
    try:
        return await future
    except asyncio.CancelledError:
        await asyncio.shield(client.cancel([future], force=True))
        raise
