"""Verbs of administration: size, wholeness, all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import Any, cast

import psycopg

from agentflow.journal import moving
from agentflow.journal.postgres.address import Address
from agentflow.journal.postgres.base import PostgresBase
from agentflow.journal.postgres.connections import Session, is_cut_off, unreadable
from agentflow.journal.postgres.statements import translated
from agentflow.journal.protocol.admin import TABLES, TableRow

_AT_ONCE = 2000
#: Columns of this store alone.
_OWN = frozenset({"keeper"})
_COLUMNS = b"""SELECT attname FROM pg_attribute
WHERE attrelid = CAST($1 AS regclass) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
_NUMBERED = {"run": "number", "event": "id", "log": "id"}
#: Seconds for which a connection that dumps may rest while its reader is busy.
_PATIENCE = 3600.0


class PostgresAdmin(PostgresBase):
    """See `agentflow.journal.protocol.admin.AdminVerbs`."""

    def facts(self) -> dict[str, Any]:
        def look(db: Session) -> dict[str, Any]:
            counts = {table: db.value(f"SELECT count(*) FROM {table}".encode()) for table in TABLES}  # noqa: S608 - our names
            sizes = [
                int(db.value(b"SELECT pg_total_relation_size(CAST($1 AS regclass))", (table,)))
                for table in TABLES
            ]
            schema = int(db.value(b"SELECT max(number) FROM migration"))
            return {"schema": schema, "bytes": sum(sizes), "rows": counts}

        return self._reader.read(look)

    def faults(self) -> list[str]:
        try:
            for _ in self._rows():
                pass
        except psycopg.Error as error:
            if is_cut_off(error):
                raise unreadable(error) from error
            return [str(error.diag.message_primary or error)]
        return []

    def dump(self) -> Iterator[TableRow]:
        try:
            yield from self._rows()
        except psycopg.Error as error:
            raise unreadable(error) from error

    def _rows(self) -> Iterator[TableRow]:
        address = Address(self.address)
        try:
            dialled = address.dial(_PATIENCE)
        except psycopg.Error as error:
            raise address.refusal(error) from None
        # In this order, for a cursor can always be closed once its connection is.
        with ExitStack() as cursors, closing(dialled) as connection:
            connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for table in TABLES:
                columns = [name for (name,) in connection.execute(_COLUMNS, (table,))]
                # A cursor for each table: psycopg 3.3.0 goes on at the old position when one is executed again.
                cursor = cursors.enter_context(closing(cast("Any", connection).cursor(table, binary=True)))
                cursor.itersize = _AT_ONCE
                cursor.execute(f"SELECT * FROM {table} ORDER BY 1".encode())  # noqa: S608 - our names
                for row in cursor:
                    found = dict(zip(columns, row, strict=True))
                    yield table, {name: value for name, value in found.items() if name not in _OWN}

    def load(self, rows: Callable[[], Iterable[TableRow]]) -> int:
        def work(db: Session) -> int:
            moving.check_emptiness(db.one(b"SELECT 1 FROM run LIMIT 1") is None, self.url)
            known = {table: {name for (name,) in db.all(_COLUMNS, (table,))} - _OWN for table in TABLES}
            count = 0
            for table, columns, batch in moving.batches(rows(), known, _AT_ONCE):
                names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
                db.each(
                    translated(f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({marks})"),  # noqa: S608 - checked names
                    batch,
                )
                count += len(batch)
            for table, column in _NUMBERED.items():
                db.do(
                    f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), "  # noqa: S608 - our names
                    f"coalesce(max({column}), 1), max({column}) IS NOT NULL) FROM {table}".encode()
                )
            return count

        return self._commit(work)
