"""Keeping the store of large values: what rows refer to, what is missing, what nothing needs, what is carried along.

How values get there and back is the business of `agentflow.payloads`.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from agentflow.errors import CorruptRecord, UsageError
from agentflow.journal.protocol.admin import AdminVerbs
from agentflow.journal.protocol.payloads import COLUMNS, FIRST, Holding
from agentflow.payloads.blobs import Blob, BlobStore
from agentflow.payloads.envelopes import referred
from agentflow.payloads.opening import open_vault
from agentflow.payloads.vault import CONDEMNED, place_of
from agentflow.settings import Settings

KEPT = re.compile(rb'\{"\$":"kept","v":"([A-Za-z0-9+/=]*)"\}')
"""A value that is kept elsewhere, or encrypted, inside of other JSON."""
_PAGE = 500
_DRAFTS = "drafts/"


class Swept(NamedTuple):
    """What was removed from a store, and what will be unless something refers to it until then."""

    removed: int = 0
    removed_bytes: int = 0
    marked: int = 0
    marked_bytes: int = 0


def holdings(journal: AdminVerbs, *, every: bool = False) -> Iterator[tuple[str, Holding]]:
    """The rows of a journal that hold values which are kept elsewhere or encrypted, or `every` row with a value."""
    for table in COLUMNS:
        after = FIRST[table]
        while page := journal.holdings(table, after, _PAGE, every=every):
            for holding in page:
                yield table, holding
            after = page[-1].row


def references(journal: AdminVerbs) -> dict[str, int]:
    """Names and sizes of the stored values that a journal refers to."""
    found: dict[str, int] = {}
    for _, holding in holdings(journal):
        for data in holding.values:
            found.update(named_in(data or b""))
    return found


def named_in(data: bytes) -> Iterator[tuple[str, int]]:
    """Names and sizes of the stored values that a column refers to, itself or within other JSON."""
    inside = (b64decode(mark[1]) for mark in KEPT.finditer(data))
    for part in chain((data,), inside):
        name = referred(part)
        if name is not None:
            yield name


def named_in_row(table: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Names of the stored values that a row of a table refers to. Its other columns may hold any bytes: digests."""
    _, columns = COLUMNS.get(table, ("", ()))
    for column in columns:
        value = row.get(column)
        if isinstance(value, bytes):
            yield from (name for name, _ in named_in(value))


def sweep(journal: AdminVerbs, settings: Settings, *, dry_run: bool = False) -> Swept:
    """Remove stored values that nothing refers to any more; safe while others store and refer to the same content.

    In two steps: one that nothing refers to is marked, and removed by a later sweep, once the mark is older than
    ``payload_grace`` and still nothing refers to it. Who stores the content while it is marked, stores it anew.
    """
    store = open_vault(journal, settings).store
    if store is None:
        return Swept()
    blobs, marks, drafts = _sorted(store)
    if not (blobs or marks or drafts):
        return Swept()
    before = store.now() - settings.payload_grace
    used = references(journal)  # read after the marks were
    gone = [name for name, mark in marks.items() if name not in used and mark.written <= before]
    unused = [
        blob
        for name, blob in blobs.items()
        if name not in used and name not in marks and blob.written <= before
    ]
    if not dry_run:
        for blob in unused:
            store.put(CONDEMNED + blob.name, ())
        store.remove(CONDEMNED + name for name in marks if name in used)
        store.remove(name for name in gone if name in blobs)
        store.remove(CONDEMNED + name for name in gone)
        store.remove(draft.name for draft in drafts if draft.written <= before)
    waiting = [blobs[name] for name in marks if name in blobs and name not in used and name not in gone]
    removed = [blobs[name] for name in gone if name in blobs]
    marked = unused + waiting
    return Swept(
        len(removed), sum(blob.size for blob in removed), len(marked), sum(blob.size for blob in marked)
    )


def _sorted(store: BlobStore) -> tuple[dict[str, Blob], dict[str, Blob], list[Blob]]:
    """A store's blobs, marks (by the names of what they mark) and what was left half written."""
    blobs: dict[str, Blob] = {}
    marks: dict[str, Blob] = {}
    drafts: list[Blob] = []
    for blob in store.blobs():
        if blob.name.startswith(CONDEMNED):
            marks[blob.name.removeprefix(CONDEMNED)] = blob
        elif blob.name.startswith(_DRAFTS):
            drafts.append(blob)
        else:
            blobs[blob.name] = blob
    return blobs, marks, drafts


def missing_values(journal: AdminVerbs, settings: Settings, *, read: bool = False) -> list[str]:
    """What is wrong with a journal's stored values, in words; empty where each is there.

    `read`: and is what its name says; encrypted ones as far as this process has their keys.
    """
    vault, found = open_vault(journal, settings), list[str]()
    for name, size in sorted(references(journal).items()):
        try:
            encrypted = bool(place_of(name).key_id)
        except CorruptRecord as error:
            found.append(str(error))
            continue
        if vault.store is None:
            found.append(f"the value {name} is in a store, and AGENTFLOW_PAYLOADS_URL names none")
            continue
        there = vault.store.size(name)
        if there is None:
            found.append(f"the value {name} ({size:,} bytes) is missing in {vault.store.where}")
        elif there != size and not encrypted:
            found.append(f"the value {name} has {there:,} bytes in {vault.store.where}, not {size:,}")
        elif read:
            try:
                vault.verify(name, size)
            except CorruptRecord as error:
                found.append(str(error))
    return found


def stored_chunks(
    journal: AdminVerbs, settings: Settings, names: Iterable[str]
) -> Iterator[tuple[str, int, bytes]]:
    """Stored values of a journal, as they are stored: name, position, bytes.

    Raises `UsageError` where one is missing.
    """
    store = open_vault(journal, settings).store
    for name in names:
        if store is None:
            message = f"the value {name} is in a store: set AGENTFLOW_PAYLOADS_URL to it"
            raise UsageError(message)
        try:
            for number, chunk in enumerate(store.read(name)):
                yield name, number, chunk
        except CorruptRecord as error:
            raise UsageError(str(error)) from None


def store_chunks(journal: AdminVerbs, settings: Settings, chunks: Iterable[tuple[str, int, bytes]]) -> int:
    """Store what `stored_chunks` gave; returns how many values there were. Raises `UsageError`."""
    vault, count = open_vault(journal, settings), 0
    store = vault.store
    source = iter(chunks)
    following: Any = next(source, None)
    while following is not None:
        if store is None:
            message = "the file holds stored values: set AGENTFLOW_PAYLOADS_URL to where this journal is to keep them"
            raise UsageError(message)
        whole = _Whole(source, following)
        try:
            store.put(whole.name, vault.checked(whole.name, whole))
        except CorruptRecord as error:
            raise UsageError(str(error)) from None
        following, count = whole.following, count + 1
    return count


class _Whole:
    """The bytes of one value among the chunks of many."""

    def __init__(self, source: Iterator[tuple[str, int, bytes]], first: tuple[str, int, bytes]) -> None:
        self.name, self._source, self.following = first[0], source, first

    def __iter__(self) -> Iterator[bytes]:
        while self.following is not None and self.following[0] == self.name:
            yield self.following[2]
            self.following: Any = next(self._source, None)
