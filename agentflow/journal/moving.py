"""Rows on their way from one journal into another: what every store that takes them in checks. No statement of any."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from agentflow.errors import UsageError
from agentflow.journal.protocol.admin import TableRow


def check_emptiness(is_empty: bool, where: str) -> None:  # noqa: FBT001 - what is checked
    """Refuse to carry rows into a journal that has some."""
    if not is_empty:
        message = f"{where} is not empty; import into a new journal (another AGENTFLOW_HOME or AGENTFLOW_DATABASE_URL)"
        raise UsageError(message)


def batches(
    rows: Iterable[TableRow], known: Mapping[str, AbstractSet[str]], most: int
) -> Iterator[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
    """Rows of the same table and columns together, in their order. `known`: the columns of each table.

    Raises `UsageError` for a table or a column that there is not.
    """
    for (table, columns), group in itertools.groupby(rows, key=lambda row: (row[0], tuple(row[1]))):
        unknown = [name for name in columns if name not in known.get(table, ())]
        if unknown or table not in known:
            message = (
                f"this version knows no {table}.{unknown[0] if unknown else '*'}; upgrade agentflow first"
            )
            raise UsageError(message)
        values = (tuple(row.values()) for _, row in group)
        while batch := list(itertools.islice(values, most)):
            yield table, columns, batch
