"""Changing the key that values are encrypted with: everything that is recorded is encrypted anew, page by page.

Whatever is already under the first key is left alone: so it can be stopped and called again at any time, and other
processes may go on meanwhile, as long as they read with all keys.
"""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from typing import Any, NamedTuple

import orjson

from agentflow.errors import CorruptRecord, UsageError
from agentflow.journal.protocol.admin import AdminVerbs
from agentflow.journal.protocol.payloads import COLUMNS, FIRST, Change
from agentflow.payloads.codec import as_part
from agentflow.payloads.envelopes import TEXT
from agentflow.payloads.opening import open_vault
from agentflow.payloads.vault import Vault, key_of
from agentflow.settings import Settings
from agentflow.stored_values import KEPT, holdings

_PAGE = 200
#: JSON that is no value of anybody's.
_EMPTY = frozenset({b"{}", b"null"})


class Rotated(NamedTuple):
    """What became of the values of a journal."""

    #: Encrypted anew.
    renewed: int = 0
    #: Why others could not be read, in words.
    unreadable: tuple[str, ...] = ()


def rotate(journal: AdminVerbs, settings: Settings) -> Rotated:
    """Encrypt every recorded value with the first key, also what was not encrypted at all.

    What people must be able to read stays readable, and stored values under other keys stay until they are swept.
    Raises `UsageError` where there is no key.
    """
    vault = open_vault(journal, settings)
    if not vault.encrypts:
        message = (
            "no key is set; name the keys in AGENTFLOW_ENCRYPTION_KEYS, the new one first: `agentflow "
            "encryption-keys generate ID` makes one"
        )
        raise UsageError(message)
    count, unreadable = 0, list[str]()
    for table, (_, columns) in COLUMNS.items():
        after = FIRST[table]
        while page := journal.holdings(table, after, _PAGE, every=True):
            changes: list[Change] = []
            for row, values in page:
                for column, before in zip(columns, values, strict=True):
                    try:
                        found = None if before is None else _renewed(vault, column, before)
                    except CorruptRecord as error:
                        unreadable.append(f"{table} {row}: {error}")
                        continue
                    if before is not None and found is not None and found != before:
                        changes.append(Change(row, column, before, found))
            count += journal.replace_holdings(table, changes) if changes else 0
            after = page[-1].row
    return Rotated(count, tuple(unreadable))


def keys_in_use(journal: AdminVerbs) -> Counter[str]:
    """By the id of a key, how many values are encrypted with it."""
    found: Counter[str] = Counter()
    for _, holding in holdings(journal):
        for data in holding.values:
            for part in (data or b"", *(b64decode(mark[1]) for mark in KEPT.finditer(data or b""))):
                key_id = key_of(part)
                if key_id:
                    found[key_id] += 1
    return found


def _renewed(vault: Vault, column: str, data: bytes) -> bytes:
    """What a column is to hold instead."""
    if column == "detail":
        return _detail(vault, data)
    if data and data[0] >= TEXT:
        if column == "decision" or KEPT.fullmatch(data):
            return KEPT.sub(lambda mark: as_part(vault.renewed(b64decode(mark[1]))), data)
        if KEPT.search(data):
            return b"[%b]" % b",".join(_part(vault, item) for item in orjson.loads(data))  # of a generator
        if data in _EMPTY:
            return data
    found = vault.renewed(data)
    return as_part(found) if column == "payload" else found


def _detail(vault: Vault, data: bytes) -> bytes:
    """What a step says beside its value: the values in it are items of a generator, or those of a transaction."""
    detail: dict[str, Any] = orjson.loads(data)
    found = dict(detail)
    if isinstance(detail.get("items"), list):
        found["items"] = [orjson.Fragment(_part(vault, item)) for item in detail["items"]]
    if isinstance(detail.get("values"), dict):
        found["values"] = {
            name: orjson.Fragment(_part(vault, item)) for name, item in detail["values"].items()
        }
    if "returned" in detail:
        found["returned"] = orjson.Fragment(_part(vault, detail["returned"]))
    return data if found == detail else orjson.dumps(found)


def _part(vault: Vault, value: Any) -> bytes:
    """A value within other JSON, encrypted anew."""
    data = orjson.dumps(value)
    kept = KEPT.fullmatch(data)
    return as_part(vault.renewed(data if kept is None else b64decode(kept[1])))
