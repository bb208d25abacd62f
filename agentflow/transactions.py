"""Transactions: steps that hold together, or are undone together - also if the process dies in the middle of that.

``with transaction():`` in sync and async flows, ``async with transaction():`` in async ones.
"""

from __future__ import annotations

from types import TracebackType

from agentflow.engine.context import CURRENT
from agentflow.engine.runtime import INLINE, LOOP, drive
from agentflow.engine.transaction_values import Transaction
from agentflow.engine.transactions import OpenTransaction
from agentflow.errors import ConfigurationError
from agentflow.model.isolation import IsolationLevel
from agentflow.model.steps import StepKind
from agentflow.model.transactions import CommitMode, TransactionState

__all__ = [
    "CommitMode", "IsolationLevel", "Transaction", "TransactionState", "atransaction", "get_transaction", "transaction",
]  # fmt: skip

_WITHOUT_ONE = frozenset({StepKind.FLOW, StepKind.TRANSACTION, StepKind.HOOK})


class transaction:  # noqa: N801 - Prefect's name
    """A block whose steps hold together: it commits at its end, or is rolled back by the hooks of what has happened.

    Args:
        key: What it is called; two equal ones of different runs are the same to `Transaction.is_committed`.
        commit_mode: When it commits; default: as the transaction around it does, the outermost one lazily.
        isolation_level: READ_COMMITTED, or not given. There is no lock for a SERIALIZABLE one.
        overwrite: `Transaction.is_committed` does not look at earlier runs.
        write_on_commit: False = later runs do not see that the key was committed.

    The error that the block raises is raised after the rollback. Durable waits (`sleep`, `wait_for_event`,
    `request_input`) are refused inside; approvals of side effects are not.

    Raises:
        MissingContextError: outside of a flow.
        ConfigurationError: for an isolation that there is not.
    """

    def __init__(
        self,
        key: str | None = None,
        commit_mode: CommitMode | None = None,
        *,
        isolation_level: IsolationLevel | None = None,
        overwrite: bool = False,
        write_on_commit: bool = True,
    ) -> None:
        if isolation_level not in (None, IsolationLevel.READ_COMMITTED):
            message = (
                f"a transaction cannot be {isolation_level}: it has no lock; for one block at a time put it into "
                "`with concurrency(NAME):`, for one call of a task use INPUTS.configure(isolation_level=...)"
            )
            raise ConfigurationError(message)
        self._options = (key, commit_mode, overwrite, write_on_commit)
        self._opened: list[OpenTransaction] = []

    def _enter(self, opened: OpenTransaction) -> OpenTransaction:
        self._opened.append(opened)
        return opened

    def _open(self) -> OpenTransaction:
        key, mode, overwrite, write = self._options
        return self._enter(OpenTransaction(key, mode, overwrite=overwrite, write=write))

    def __enter__(self) -> Transaction:
        return self._open().enter(INLINE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        drive(self._opened.pop().leave(error, INLINE))

    async def __aenter__(self) -> Transaction:
        return self._open().enter(LOOP)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.pop().leave(error, LOOP)


atransaction = transaction
"""Prefect's name for ``async with transaction()``."""


def get_transaction() -> Transaction | None:
    """The transaction of the running code; in a task the task's own one, which inherits from the one around it.

    None in a flow's own code outside of every block, and outside of flows.
    """
    frame = CURRENT.get()
    if frame is None:
        return None
    around = list(frame.enclosing())
    for index, body in enumerate(around):
        if body.transaction is not None:
            return body.transaction
        if body.policy.kind not in _WITHOUT_ONE:
            outer = next(
                (other.transaction for other in around[index:] if other.transaction is not None), None
            )
            body.transaction = Transaction(body.policy.name, body.run.codec, outer)
            return body.transaction
    return None
