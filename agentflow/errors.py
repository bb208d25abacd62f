"""Every error that agentflow raises, in one tree; a class's docstring says what it means, its message what to do next.

Control flow that must not be swallowed by ``except Exception`` (suspension, a lost claim, an unreadable record)
derives from `Unwinding`, a ``BaseException``; everything else from `AgentflowError`.
Nothing but exception classes belongs here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class AgentflowError(Exception):
    """The root of all ordinary errors of agentflow."""


class UsageError(AgentflowError):
    """Something was asked for in a way that cannot work; the command line answers it with exit code 2."""


class DefinitionError(UsageError):
    """A flow or task is declared with options that contradict each other."""


class DefinitionTypeError(DefinitionError, TypeError):
    """A flow or task is declared with an option of a wrong type, or one that there is not."""


class ConfigurationError(DefinitionError):
    """An isolation or storage is asked for that there is not: the journal keeps locks and results. Prefect's name."""


class ParameterError(UsageError):
    """The arguments of a flow do not fit its signature; no run was made."""


ParameterBindError = ParameterTypeError = ParameterError
"""Prefect's names of `ParameterError`: of too few or too many arguments, and of wrong ones."""


class MappingMissingIterable(UsageError, ValueError):
    """``map`` got nothing that it could take apart. Prefect's name."""


class MappingLengthMismatch(UsageError, ValueError):
    """``map`` got iterables of different lengths. Prefect's name."""


class FlowNotFoundError(UsageError):
    """No flow of that name could be found where it was looked for."""


class RunNotFoundError(UsageError):
    """The journal holds no run of that id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no run {run_id!r}; `agentflow runs ls` lists the runs of this journal")
        self.run_id = run_id

    def __reduce__(self) -> tuple[type[RunNotFoundError], tuple[str]]:
        return type(self), (self.run_id,)


class RunStateError(UsageError):
    """The run is not in a state in which that can be done with it."""


class RunFinishedError(UsageError):
    """The run has already ended, so it cannot be resumed, cancelled or decided about."""

    def __init__(self, run_id: str, state: str) -> None:
        super().__init__(
            f"run {run_id} has already ended ({state}); start a new run instead, or have it go on: agentflow runs "
            f"{'fork' if state == 'COMPLETED' else 'retry'} {run_id}"
        )
        self.run_id, self.state = run_id, state

    def __reduce__(self) -> tuple[type[RunFinishedError], tuple[str, str]]:
        return type(self), (self.run_id, self.state)


class NotResumableError(UsageError):
    """The run was called with arguments that only its own process had, and that process is gone: start it anew."""

    def __init__(self, run_id: str, missing: Sequence[str]) -> None:
        super().__init__(
            f"run {run_id} cannot be resumed: {', '.join(missing)} could not be stored, and the process that had it "
            "is gone; start the flow anew"
        )
        self.run_id, self.missing = run_id, tuple(missing)

    def __reduce__(self) -> tuple[type[NotResumableError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.run_id, self.missing)


class OtherKeyError(UsageError):
    """The run was recorded under another installation's key: under this one, none of its steps would be found."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"run {run_id} was begun under another key, and would run all of its steps again under this one; copy the "
            "file `key` from the AGENTFLOW_HOME of the process that began it into this one's, then resume the run"
        )
        self.run_id = run_id

    def __reduce__(self) -> tuple[type[OtherKeyError], tuple[str]]:
        return type(self), (self.run_id,)


class RunOwnedError(UsageError):
    """Another live process owns the run."""

    def __init__(self, run_id: str, owner: str) -> None:
        super().__init__(
            f"run {run_id} is owned by {owner}, which is alive; wait for it, stop it, or use --take-over"
        )
        self.run_id, self.owner = run_id, owner

    def __reduce__(self) -> tuple[type[RunOwnedError], tuple[str, str]]:
        return type(self), (self.run_id, self.owner)


class WaitNotFoundError(UsageError):
    """The journal holds no approval or other question of that id."""

    def __init__(self, wait_id: str) -> None:
        super().__init__(f"nothing waits under the id {wait_id!r}; `agentflow approvals ls` lists what waits")
        self.wait_id = wait_id

    def __reduce__(self) -> tuple[type[WaitNotFoundError], tuple[str]]:
        return type(self), (self.wait_id,)


class LimitNotFoundError(UsageError):
    """The journal holds no limit of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no limit {name!r}; `agentflow limits set {name} N` defines it, `agentflow limits ls` lists them"
        )
        self.name = name

    def __reduce__(self) -> tuple[type[LimitNotFoundError], tuple[str]]:
        return type(self), (self.name,)


class DeploymentNotFoundError(UsageError):
    """The journal holds no deployment of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no deployment {name!r}; `agentflow deploy FILE:FLOW --name NAME` makes one, `agentflow deployments ls` "
            "lists them"
        )
        self.name = name

    def __reduce__(self) -> tuple[type[DeploymentNotFoundError], tuple[str]]:
        return type(self), (self.name,)


class DeploymentPausedError(UsageError):
    """The deployment takes no new runs until somebody resumes it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is paused and takes no new runs; take them again: agentflow deployments resume {name}"
        )
        self.name = name

    def __reduce__(self) -> tuple[type[DeploymentPausedError], tuple[str]]:
        return type(self), (self.name,)


class DecisionRefusedError(UsageError):
    """A decision was not accepted: already decided, expired, wrong form, or not from a person's channel."""


class JournalOpenError(UsageError):
    """The journal cannot be opened: a newer schema, a read-only folder, a file that is no database."""


class CodecError(AgentflowError):
    """A value cannot be stored and read back unchanged; the message names the ways out."""


class StepFailed(AgentflowError):
    """A step failed with an exception that cannot be rebuilt from the journal; carries its type and text."""

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(f"{type_name}: {text}")
        self.type_name, self.text = type_name, text

    def __reduce__(self) -> tuple[type[StepFailed], tuple[str, str]]:
        return type(self), (self.type_name, self.text)


class UnreadableResult(UsageError):
    """A run has ended, but what it ended with is of a class that this process has not loaded."""

    def __init__(self, run_id: str, why: str) -> None:
        super().__init__(f"the result of run {run_id} cannot be read here: {why}")
        self.run_id, self.why = run_id, why

    def __reduce__(self) -> tuple[type[UnreadableResult], tuple[str, str]]:
        return type(self), (self.run_id, self.why)


class NotDone(AgentflowError):
    """Raised by an effect's body to say: the side effect certainly did not happen."""


class ApprovalDenied(AgentflowError):
    """A person (or an expiry) refused a side effect; `reason` says why."""

    def __init__(self, tool: str, reason: str = "") -> None:
        super().__init__(f"{tool} was denied" + (f": {reason}" if reason else ""))
        self.tool, self.reason = tool, reason

    def __reduce__(self) -> tuple[type[ApprovalDenied], tuple[str, str]]:
        return type(self), (self.tool, self.reason)


class DivergenceError(AgentflowError):
    """The code asks for another side effect than the journal recorded at this place, and a person said: fail."""


class InDoubtError(AgentflowError):
    """A side effect had an unknown end, and a person said: fail."""


class WorkerDied(AgentflowError):
    """The process that ran a task's body ended before the body did: killed, out of memory, crashed, told to exit.

    Whether the body had done its work is not known: a pure task can be retried, a side effect is in doubt.
    """


class NotSent(CodecError, NotDone):
    """A task's body never began: its function or arguments cannot be sent to where its task runner would run it."""


class TaskTimeoutError(AgentflowError, TimeoutError):
    """A task or flow ran past its `timeout_seconds`."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"{name} ran past its timeout of {seconds:g} s")
        self.name, self.seconds = name, seconds

    def __reduce__(self) -> tuple[type[TaskTimeoutError], tuple[str, float]]:
        return type(self), (self.name, self.seconds)


class WaitTimeoutError(AgentflowError, TimeoutError):
    """A durable wait was not answered within its timeout."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"nobody answered {name!r} within {seconds:g} s")
        self.name, self.seconds = name, seconds

    def __reduce__(self) -> tuple[type[WaitTimeoutError], tuple[str, float]]:
        return type(self), (self.name, self.seconds)


FlowPauseTimeout = WaitTimeoutError
"""Prefect's name of `WaitTimeoutError`."""


class AcquireConcurrencySlotTimeoutError(AgentflowError, TimeoutError):
    """No slot of a limit became free within `timeout_seconds`. Prefect's name."""

    def __init__(self, names: Sequence[str], seconds: float) -> None:
        super().__init__(
            f"no slot of {', '.join(names)} became free within {seconds:g} s; `agentflow limits ls` says who holds them"
        )
        self.names, self.seconds = tuple(names), seconds

    def __reduce__(self) -> tuple[type[AcquireConcurrencySlotTimeoutError], tuple[tuple[str, ...], float]]:
        return type(self), (self.names, self.seconds)


class SlotDeadlockError(AgentflowError):
    """A block inside of a block waited for a slot that would never have come: its holder waits for one held here."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"no slot of {', '.join(names)} can become free: whoever holds it waits for what the block around this one "
            "holds; name limits that are needed together in one block, as in concurrency(['a', 'b']), or nest them "
            "everywhere in the same order"
        )
        self.names = tuple(names)

    def __reduce__(self) -> tuple[type[SlotDeadlockError], tuple[tuple[str, ...]]]:
        return type(self), (self.names,)


class MissingContextError(AgentflowError, RuntimeError):
    """A call that only makes sense inside a flow was made outside of one."""


class ColourError(AgentflowError, RuntimeError):
    """A blocking call was made on a thread whose event loop is running; the message names the awaitable way."""


class NotAwaitedError(AgentflowError):
    """A flow ended although tasks or waits that it had called were never awaited."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"called but never awaited: {', '.join(names)}; use `await` (or `.result()` in a sync flow)"
        )
        self.names = tuple(names)

    def __reduce__(self) -> tuple[type[NotAwaitedError], tuple[tuple[str, ...]]]:
        return type(self), (self.names,)


class TransactionRolledBack(AgentflowError):
    """A transaction was rolled back without an error of its own: its branch was cancelled, or nobody committed it."""


class RunCancelled(AgentflowError):
    """The run was cancelled by somebody outside of it; also stands for a CANCELLED state without an exception."""


CancelledRun = RunCancelled
"""Prefect's name of `RunCancelled`."""


class FailedRun(AgentflowError):
    """Stands for a FAILED state that carries no exception (a task returned ``Failed(message=...)``)."""


class CrashedRun(AgentflowError):
    """Stands for a CRASHED state that carries no exception."""


class PausedRun(AgentflowError):
    """The result of a PAUSED state was asked for: there is none yet."""


class UnfinishedRun(AgentflowError):
    """The result of a state that is not final was asked for, or a task or flow returned such a state as its end."""


class UpstreamFailed(AgentflowError):
    """A call was not made because something that it waits for (``wait_for=``) has failed; that is its ``__cause__``."""

    def __init__(self, name: str, upstream: str) -> None:
        super().__init__(
            f"{name} was not run: {upstream} did not complete; wrap it in allow_failure(...) to run anyway"
        )
        self.name, self.upstream = name, upstream

    def __reduce__(self) -> tuple[type[UpstreamFailed], tuple[str, str]]:
        return type(self), (self.name, self.upstream)


UpstreamTaskError = UpstreamFailed
"""Prefect's name of `UpstreamFailed`."""


class Unwinding(BaseException):
    """Unwinds a run's stack without being an outcome of it; user code that swallows it changes nothing."""


class Suspended(Unwinding):
    """The run left memory while it waits; it continues by replay when its wait is over."""


class Fenced(Unwinding):
    """This process no longer owns the run: another one claimed it, and every write from here is refused."""


class Cancelling(Unwinding):
    """The run was asked to stop; its steps refuse to start."""


class Stopping(Unwinding):
    """The process was told to end; the run stops here, between two steps where that is possible, and can be resumed."""


class Revoked(Unwinding):
    """The attempt that makes this call was given up (it timed out), so its late doings are refused."""


class RollingBack(Unwinding):
    """The transaction around this call is being rolled back; nothing new may begin in it."""


class CorruptRecord(Unwinding):
    """A recorded value cannot be read back; the run stops instead of running the step again."""


class EncryptedValue(CorruptRecord):
    """A recorded value is encrypted with a key that this process does not have; `key_id` names it."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"a recorded value is encrypted with key {key_id}, which this process does not have; name it in "
            "AGENTFLOW_ENCRYPTION_KEYS (or AGENTFLOW_ENCRYPTION_KEY_FILE) and resume the run"
        )
        self.key_id = key_id

    def __reduce__(self) -> tuple[type[EncryptedValue], tuple[str]]:
        return type(self), (self.key_id,)


class JournalUnavailable(Unwinding):
    """The journal could not store or read something (disk full, I/O error); the run stops here and can be resumed."""
