"""What to list, as statements that every SQL store understands, with their parameters. Marks are SQLite's (``?``).

Runs and questions are listed by what an index has in order: the newest of each state (or kind) that is wanted, as many
as are asked for, and of those the newest. So a page costs the same however many there are, and wherever it begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentflow.journal.protocol import CacheFilter, DeploymentFilter, RunFilter
from agentflow.model.states import StateType
from agentflow.model.waits import WaitKind

Condition = tuple[str, list[Any]]
_EVERYTHING = "1 = 1"
_TAGS = "'\n' || tags || '\n'"
#: Among how many of the newest runs one is looked for by the end of its id.
_RECENT = 100_000
_BY_END = (
    "number IN (SELECT number FROM run WHERE number > (SELECT coalesce(max(number), 0) FROM run) - ? "
    "AND substr(id, length(id) - length(?) + 1) = ?)"
)
_TAGGED = "EXISTS (SELECT 1 FROM run_tag WHERE run_tag.number = run.number AND tag = ?)"
_ALSO_TAGGED = "EXISTS (SELECT 1 FROM run_tag AS other WHERE other.number = run_tag.number AND other.tag = ?)"
_OPEN_WAIT = (
    "decided IS NULL AND consumed IS NULL AND (SELECT state FROM run WHERE number = wait.run) "
    "NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED')"
)


def joined(parts: Iterable[Condition]) -> Condition:
    """All of them."""
    clauses, values = [_EVERYTHING], list[Any]()
    for clause, own in parts:
        clauses.append(clause)
        values += own
    return " AND ".join(clauses), values


def _one_of(column: str, values: Iterable[str]) -> Condition:
    wanted = list(values)
    return f"{column} IN ({', '.join('?' * len(wanted))})", wanted


def runs_listed(wanted: RunFilter) -> Condition:
    """The statement that gives rows of table ``run``, newest first."""
    parts: list[Condition] = []
    if wanted.before is not None:
        parts.append(("number < ?", [wanted.before]))
    if wanted.id_end:
        parts.append((_BY_END, [_RECENT, wanted.id_end, wanted.id_end]))
    if wanted.parent or wanted.deployment:  # all of those are looked at, the newest first
        if wanted.states:
            parts.append(_one_of("state", (state.value for state in wanted.states)))
        parts += [(_TAGGED, [tag]) for tag in wanted.tags]
        parts += [("flow = ?", [wanted.flow])] if wanted.flow else []
        if wanted.parent:
            parts.append(("parent = ? AND parent != ''", [wanted.parent]))
        if wanted.deployment:
            parts.append(("deployment = ? AND deployment != ''", [wanted.deployment]))
        where, values = joined(parts)
        return f"SELECT * FROM run WHERE {where} ORDER BY number DESC LIMIT ?", [*values, wanted.limit]  # noqa: S608 - fixed texts
    if not (wanted.states or wanted.flow or wanted.tags):
        where, values = joined(parts)
        return f"SELECT * FROM run WHERE {where} ORDER BY number DESC LIMIT ?", [*values, wanted.limit]  # noqa: S608 - fixed texts
    if wanted.flow:
        parts.append(("flow = ?", [wanted.flow]))
    parts += [("tag = ?", [tag]) for tag in wanted.tags[:1]]
    parts += [(_ALSO_TAGGED, [tag]) for tag in wanted.tags[1:]]
    states = [state.value for state in dict.fromkeys(wanted.states or StateType)]
    table = "run_tag" if wanted.tags else "run"
    return _merged("run", "number", table, ("number DESC",), ("state", states), joined(parts), wanted.limit)


def deployments_wanted(wanted: DeploymentFilter) -> Condition:
    """Rows of table ``deployment``."""
    parts: list[Condition] = [("flow = ?", [wanted.flow])] if wanted.flow else []
    if wanted.after:
        parts.append(("name > ?", [wanted.after]))
    parts += [(f"replace({_TAGS}, ?, '') != {_TAGS}", [f"\n{tag}\n"]) for tag in wanted.tags]
    return joined(parts)


def _merged(
    table: str,
    key: str,
    listed: str,
    order: tuple[str, ...],
    each: tuple[str, list[str]],
    where: Condition,
    limit: int,
) -> Condition:
    """Of each value of a column the first rows in some order, by an index of table `listed`; of all those the first.

    `key`: the column by which rows of `table` are found. `order`: of columns that both tables have.
    """
    column, values = each
    clause, parameters = where
    columns = ", ".join(dict.fromkeys((key, *(name.partition(" ")[0] for name in order))))
    by = ", ".join(order)
    one = f"SELECT {columns} FROM {listed} WHERE {column} = ? AND {clause} ORDER BY {by} LIMIT ?"  # noqa: S608 - our names
    every = " UNION ALL ".join(f"SELECT * FROM ({one}) AS part{place}" for place in range(len(values)))  # noqa: S608 - our names
    found = f"SELECT * FROM ({every}) AS parts ORDER BY {by} LIMIT ?"  # noqa: S608 - our names
    outer = ", ".join(f"{table}.{name}" for name in order)
    rows = f"SELECT {table}.* FROM ({found}) AS listed JOIN {table} ON {table}.{key} = listed.{key}"  # noqa: S608 - our names
    statement = f"{rows} ORDER BY {outer}"
    return statement, [*(one for value in values for one in (value, *parameters, limit)), limit]


def waits_listed(number: int | None, kinds: frozenset[WaitKind], *, open_only: bool, limit: int) -> Condition:
    """The statement that gives rows of table ``wait``: the open ones, and those of a run, oldest first."""
    wanted = sorted(kind.value for kind in kinds or WaitKind)
    parts: list[Condition] = [(_OPEN_WAIT, [])] if open_only else []
    if number is None:
        order = ("opened", "id") if open_only else ("opened DESC", "id DESC")
        return _merged("wait", "id", "wait", order, ("kind", wanted), joined(parts), limit)
    if kinds:
        parts.append(_one_of("kind", wanted))
    where, values = joined([("run = ?", [number]), *parts])
    return f"SELECT * FROM wait WHERE {where} ORDER BY opened, id LIMIT ?", [*values, limit]  # noqa: S608 - fixed texts


def entries_wanted(wanted: CacheFilter) -> Condition:
    """Rows of table ``cache``."""
    parts: list[Condition] = [
        (f"{column} = ?", [text]) for column in ("task", "name") if (text := getattr(wanted, column))
    ]
    if wanted.expired_by is not None:
        parts.append(("expires <= ?", [wanted.expired_by]))
    return joined(parts)


def slots_wanted(limit: str, run_id: str, *, waiting_only: bool) -> Condition:
    """Rows of table ``slot``."""
    parts: list[Condition] = [
        (f"{column} = ?", [value]) for column, value in (("name", limit), ("run_id", run_id)) if value
    ]
    if waiting_only:
        parts.append(("granted IS NULL", []))
    return joined(parts)
