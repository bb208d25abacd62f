"""Verbs of administration: size, wholeness, all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apsw

from agentflow.journal import moving
from agentflow.journal.protocol.admin import TABLES, TableRow
from agentflow.journal.sqlite.base import SqliteBase, unreadable

_INSERTED_AT_ONCE = 5000
_COLUMNS = "SELECT name FROM pragma_table_info(?)"


class SqliteAdmin(SqliteBase):
    """See `agentflow.journal.protocol.admin.AdminVerbs`."""

    def facts(self) -> dict[str, Any]:
        with self._read_lock:
            pages, free, size = (
                int(self._reader.pragma(name)) for name in ("page_count", "freelist_count", "page_size")
            )
            schema = int(self._reader.pragma("user_version"))
        counts = {table: self._one(f"SELECT count(*) FROM {table}")[0] for table in TABLES}  # noqa: S608 - our names
        return {"schema": schema, "bytes": pages * size, "free_bytes": free * size, "rows": counts}

    def faults(self) -> list[str]:
        db, found = self._connect(), list[str]()
        try:
            found += [str(line) for (line,) in db.execute("PRAGMA integrity_check(20)")]
        except apsw.Error as error:
            found.append(str(error))
        finally:
            db.close()
        return [] if found == ["ok"] else found

    def dump(self) -> Iterator[TableRow]:
        db = self._connect()
        try:
            db.execute("BEGIN")
            for table in TABLES:
                columns = [column for (column,) in db.execute(_COLUMNS, (table,))]
                for row in db.execute(f"SELECT * FROM {table} ORDER BY 1"):  # noqa: S608 - our names
                    yield table, dict(zip(columns, row, strict=True))
        except apsw.Error as error:
            raise unreadable(error) from error
        finally:
            db.close()

    def load(self, rows: Callable[[], Iterable[TableRow]]) -> int:
        def work(db: apsw.Connection) -> int:
            moving.check_emptiness(db.execute("SELECT 1 FROM run LIMIT 1").get is None, self.url)
            known = {table: {column for (column,) in db.execute(_COLUMNS, (table,))} for table in TABLES}
            count = 0
            for table, columns, batch in moving.batches(rows(), known, _INSERTED_AT_ONCE):
                names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
                db.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", batch)  # noqa: S608 - checked names
                count += len(batch)
            return count

        return self._commit(work, durable=True)
