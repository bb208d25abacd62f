"""A run's processes: each has a thread here that starts it, hands it bodies, listens to it and kills it if need be."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from multiprocessing.connection import Connection
from typing import Any

from agentflow.engine.places import Errand, Returned
from agentflow.engine.runtime import Overdue
from agentflow.errors import NotSent, WorkerDied
from agentflow.task_runners.messages import BEGUN, BODY, LEAVE, LINE, OUTCOME, TEXT
from agentflow.task_runners.transport import pack, unpack

#: Seconds that an idle process has to leave by itself.
_PATIENCE = 2.0
_OUT_OF_MEMORY = "; out of memory, perhaps" if sys.platform == "linux" else ""


class ProcessPlace:
    """Processes of one run, at most so many."""

    #: A body whose process dies is not sent to another one.
    runs_once = True

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[Job] = deque()
        self._condition = threading.Condition()
        self._attendants: list[Attendant] = []
        self._idle = 0
        self._closed = False

    def send(self, errand: Errand) -> Job:
        """Have a body run by the next process that is free."""
        job = Job(errand)
        with self._condition:
            if self._closed:
                job.fail(WorkerDied(f"{errand.away.step}: the run has ended, and its processes with it"))
                return job
            self._queue.append(job)
            if self._idle >= len(self._queue):
                self._condition.notify()
            elif len(self._attendants) < self._limit:
                attendant = Attendant(self)
                self._attendants.append(attendant)
                attendant.start()
        return job

    def next(self) -> Job | None:
        """The next body to be run, blocking until there is one; None when the run is over."""
        with self._condition:
            self._idle += 1
            try:
                while not self._queue and not self._closed:
                    self._condition.wait()
            finally:
                self._idle -= 1
            return self._queue.popleft() if self._queue else None

    def close(self) -> None:
        """End all processes: the idle ones are asked to leave, the others killed."""
        with self._condition:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            self._condition.notify_all()
        for job in left:
            job.fail(WorkerDied(f"{job.errand.away.step}: the run ended before it began"))
        for attendant in self._attendants:
            attendant.stop_current()
        for attendant in self._attendants:
            attendant.join()


class Job:
    """A body on its way to a process, or in one."""

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.future: Future[Returned] = Future()
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._stopped = False

    def begin(self, worker: Worker) -> bool:
        """Whether it is still wanted; from now on, to stop it is to kill the worker."""
        with self._lock:
            if self._stopped or self.future.done():
                return False
            self._worker = worker
            return True

    def end(self) -> None:
        """The worker has done with it."""
        with self._lock:
            self._worker = None

    def stop(self) -> None:
        """Nobody wants it any more."""
        with self._lock:
            self._stopped = True
            if self._worker is not None:
                self._worker.kill()

    def succeed(self, returned: Returned) -> None:
        """Tell how the body ended."""
        with contextlib.suppress(InvalidStateError):  # whoever waited has given up
            self.future.set_result(returned)

    def fail(self, error: BaseException) -> None:
        """Tell why it gave no end."""
        with contextlib.suppress(InvalidStateError):  # as above
            self.future.set_exception(error)


class Attendant(threading.Thread):
    """The thread that looks after one process at a time."""

    def __init__(self, place: ProcessPlace) -> None:
        super().__init__(name="agentflow-process", daemon=True)
        self._place = place
        self._worker: Worker | None = None
        self._job: Job | None = None

    def run(self) -> None:
        """Hand over bodies until the run is over."""
        try:
            while (job := self._place.next()) is not None:
                self._job = job
                try:
                    job.succeed(self._attend(job))
                except BaseException as error:  # noqa: BLE001 - the thread goes on with the next one
                    job.fail(error)
                self._job = job = None
        finally:
            if self._worker is not None:
                self._worker.leave()
                self._let_go()

    def stop_current(self) -> None:
        """Nobody wants what its process is doing."""
        job = self._job
        if job is not None:
            job.stop()

    def _attend(self, job: Job) -> Returned:
        data = pack(job.errand)
        try:
            return self._perform(job, data)
        except _NeverBegan:  # an idle process can be killed, too
            return self._perform(job, data)

    def _perform(self, job: Job, data: bytes) -> Returned:
        worker = self._worker
        if worker is None or not worker.is_alive():
            self._let_go()
            worker = self._worker = Worker()
        if not job.begin(worker):
            raise NotSent(f"{job.errand.away.step} was stopped before it began")
        try:
            return worker.perform(data, job.errand)
        except BaseException:
            worker.kill()
            raise
        finally:
            job.end()
            if worker.killed:
                self._let_go()

    def _let_go(self) -> None:
        """Leave nothing of a process that has ended."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.reap()


class _NeverBegan(NotSent):
    """The process died before it began with the body."""


class Worker:
    """A process that runs one body after the other."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - strings are what the path has
        program = (
            f"import sys; sys.path[:] = {path!r}; "
            f"from agentflow.task_runners.process_worker import main; main({theirs.fileno()}, {life}, {os.getpid()})"
        )
        try:
            # a group of its own: Ctrl-C at the terminal is for us, and what the body starts is killed with it
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=_stderr(),
                pass_fds=(theirs.fileno(), life),
                process_group=0,
            )
        except BaseException:
            ours.close()
            os.close(self._life)
            raise
        finally:
            theirs.close()
            os.close(life)
        self._connection = Connection(ours.detach())
        self._lock = threading.Lock()
        self._reaped = False
        self.killed = False

    def is_alive(self) -> bool:
        """Whether it has not ended; a process that has is still there to be reaped."""
        seen = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return seen is None and not self.killed

    def perform(self, data: bytes, errand: Errand) -> Returned:
        """Run a body there. Raises `Overdue`, `WorkerDied`; `NotSent` where the body has not begun."""
        begun, deadline = False, None
        try:
            self._connection.send_bytes(BODY + data)
            while True:
                if deadline is not None and not self._connection.poll(max(0.0, deadline - time.monotonic())):
                    raise Overdue
                message = self._connection.recv_bytes()
                kind, content = message[:1], message[1:]
                if kind == OUTCOME:
                    return unpack(content, errand.away)
                if kind == BEGUN:
                    begun = True
                    deadline = None if errand.seconds is None else time.monotonic() + errand.seconds
                elif kind == LINE:
                    errand.hear(pickle.loads(content))  # noqa: S301 - of a process that we have started
                elif kind == TEXT:
                    _show(content)
        except (EOFError, OSError) as error:
            name = errand.away.step
            if self.killed:
                raise WorkerDied(f"{name} was stopped, and its process killed") from None
            if not begun:
                raise _NeverBegan(
                    f"the process that was to run {name} {self._end()} before it began"
                ) from error
            raise WorkerDied(f"the process that ran {name} {self._end()}") from error

    def _end(self) -> str:
        """How the process ended, in words."""
        self.kill()  # what it has started, or itself, if it has only closed its connection
        code = self.reap()
        if code >= 0:
            return f"ended by itself, with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed by {name}" + (_OUT_OF_MEMORY if -code == signal.SIGKILL else "")

    def kill(self) -> None:
        """End it now, with whatever it has started; from any thread."""
        with self._lock:
            self.killed = True
            if not self._reaped:  # until then nobody else can have its number
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def leave(self) -> None:
        """Ask it to end; it has a moment for what it does at its exit."""
        deadline = time.monotonic() + _PATIENCE
        with contextlib.suppress(EOFError, OSError):
            self._connection.send_bytes(LEAVE)
            while self._connection.poll(max(0.0, deadline - time.monotonic())):
                self._connection.recv_bytes()

    def reap(self) -> int:
        """Leave nothing of it behind; how it ended."""
        with self._lock:
            if not self._reaped:
                self._reaped = True
                self._connection.close()
                os.close(self._life)
        return self._process.wait()


def _stderr() -> Any:
    """Where a process's standard output goes: what Python prints there comes here as text, the rest is no output."""
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else subprocess.DEVNULL
    except (OSError, ValueError):
        return subprocess.DEVNULL


def _show(text: bytes) -> None:
    with contextlib.suppress(Exception):  # a closed or broken standard output is no failure of the task
        sys.stdout.write(text.decode(errors="replace"))
        sys.stdout.flush()
