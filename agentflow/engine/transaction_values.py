"""A transaction as code and hooks see it: its state, and values that hooks of a later life see, too.

A step in a transaction has one of its own, which inherits what it reads: what a task's body sets, its hooks get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from agentflow.engine.records import Standing
from agentflow.model.transactions import CommitMode, TransactionState

if TYPE_CHECKING:
    from agentflow.engine.context import Frame
    from agentflow.engine.policy import StepPolicy
    from agentflow.engine.records import Records
    from agentflow.engine.transactions import OpenTransaction
    from agentflow.payloads.codec import Codec

_MISSING = object()


class Transaction:
    """A running transaction; given by ``with transaction() as txn``, by `get_transaction`, and to every hook."""

    def __init__(
        self,
        name: str,
        codec: Codec,
        parent: Transaction | None = None,
        *,
        key: str | None = None,
        commit_mode: CommitMode = CommitMode.LAZY,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        #: What it is called in the journal; for a step's own one, the step's name.
        self.name = name
        self.key = key
        self.commit_mode = commit_mode
        self.parent = parent
        self.state = TransactionState.PENDING
        #: Whether `commit` was called.
        self.wanted = False
        #: Asks the journal, as a step, whether an earlier run committed this key.
        self.look: Callable[[], bool] | None = None
        self._codec = codec
        self._values: dict[str, bytes] = {name: orjson.dumps(item) for name, item in (values or {}).items()}

    def set(self, name: str, value: Any) -> None:
        """Keep a value for hooks and for steps below. Raises `CodecError` for one that cannot be stored."""
        self._values[name] = self._codec.encode_part(value)

    def get(self, name: str, default: Any = _MISSING) -> Any:
        """A value of this transaction, or of the nearest one around it that has it, as it was when it was set.

        Raises ValueError where nobody has set it and no `default` is given.
        """
        here: Transaction | None = self
        while here is not None:
            found = here.own(name)
            if found is not None:
                return self._codec.decode(found)
            here = here.parent
        if default is _MISSING:
            message = f"no value {name!r} was set in transaction {self.name!r}"
            raise ValueError(message)
        return default

    def commit(self) -> None:
        """Ask for the commit at the end of the block; needed only under `CommitMode.OFF`."""
        self.wanted = True

    def is_committed(self) -> bool:
        """Whether it holds; inside the block of one with a key: whether an earlier run committed that key.

        The answer is recorded: every life of the run gets the same.
        """
        if self.look is not None and self.state is TransactionState.ACTIVE:
            return self.look()
        return self.state is TransactionState.COMMITTED

    def is_rolled_back(self) -> bool:
        """Whether it is undone."""
        return self.state is TransactionState.ROLLED_BACK

    def is_staged(self) -> bool:
        """Whether it waits for the transaction around it."""
        return self.state is TransactionState.STAGED

    def is_active(self) -> bool:
        """Whether its block runs."""
        return self.state is TransactionState.ACTIVE

    def is_pending(self) -> bool:
        """Whether its block has not been entered."""
        return self.state is TransactionState.PENDING

    def __repr__(self) -> str:
        return f"<transaction {self.name} {self.state.value}>"

    # -- for the engine
    def own(self, name: str) -> bytes | None:
        """The encoded value that was set here."""
        return self._values.get(name)

    def seen(self, until: Transaction | None = None) -> dict[str, Any]:
        """JSON of the values that `get` finds, without those of `until` and what is around that."""
        inherited = {} if self.parent is None or self.parent is until else self.parent.seen(until)
        return inherited | {name: orjson.loads(item) for name, item in self._values.items()}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Let these (JSON) be its values."""
        self._values = {name: orjson.dumps(item) for name, item in values.items()}


class TransactionsOfALife:
    """What one life of a run knows of its transactions."""

    def __init__(self, records: Records | None) -> None:
        #: Those that are open, in the order in which they were entered.
        self.open: list[OpenTransaction] = []
        #: What stands for each.
        self.standing = Standing() if records is None else records.standing
        #: Keys of the hooks that have run.
        self.hooks_run: set[bytes] = set()
        #: Steps with hooks (their rows) whose transaction has ended.
        self.hooks_over: set[int] = set()


def noted(policy: StepPolicy, child: Frame) -> dict[str, Any]:
    """What the row of a step with hooks says for them: their names, and the values that its body has set."""
    detail: dict[str, Any] = {"hooks": [list(policy.on_commit), list(policy.on_rollback)]}
    own = child.transaction
    return detail if own is None else detail | {"values": own.seen(own.parent)}
