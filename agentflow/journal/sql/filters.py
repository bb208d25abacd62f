"""What to list, as conditions that every SQL store understands, with their parameters. Marks are SQLite's (``?``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentflow.journal.protocol import CacheFilter, DeploymentFilter, RunFilter
from agentflow.model.waits import WaitKind

Condition = tuple[str, list[Any]]
_EVERYTHING = "1 = 1"
_TAGS = "'\n' || tags || '\n'"
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


def runs_wanted(wanted: RunFilter) -> Condition:
    """Rows of table ``run``."""
    parts: list[Condition] = []
    if wanted.states:
        parts.append(_one_of("state", (state.value for state in wanted.states)))
    if wanted.flow:
        parts.append(("flow = ?", [wanted.flow]))
    if wanted.parent:
        parts.append(("parent = ? AND parent != ''", [wanted.parent]))
    if wanted.before is not None:
        parts.append(("number < ?", [wanted.before]))
    if wanted.id_end:
        parts.append(("substr(id, length(id) - length(?) + 1) = ?", [wanted.id_end] * 2))
    if wanted.deployment:
        parts.append(("deployment = ? AND deployment != ''", [wanted.deployment]))
    return joined(parts + _tagged(wanted.tags))


def deployments_wanted(wanted: DeploymentFilter) -> Condition:
    """Rows of table ``deployment``."""
    parts: list[Condition] = [("flow = ?", [wanted.flow])] if wanted.flow else []
    if wanted.after:
        parts.append(("name > ?", [wanted.after]))
    return joined(parts + _tagged(wanted.tags))


def _tagged(tags: Iterable[str]) -> list[Condition]:
    """Rows that have all of these tags."""
    return [(f"replace({_TAGS}, ?, '') != {_TAGS}", [f"\n{tag}\n"]) for tag in tags]


def waits_wanted(number: int | None, kinds: frozenset[WaitKind], *, open_only: bool) -> Condition:
    """Rows of table ``wait``."""
    parts: list[Condition] = [(_OPEN_WAIT, [])] if open_only else []
    if number is not None:
        parts.append(("run = ?", [number]))
    if kinds:
        parts.append(_one_of("kind", sorted(kind.value for kind in kinds)))
    return joined(parts)


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
