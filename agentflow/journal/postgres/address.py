"""Where a PostgreSQL journal is: its address taken apart, shown without secrets, dialled, and why it cannot be reached.

What belongs here: everything that is known before there is a connection. What does not: statements on one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import conninfo

from agentflow.errors import JournalOpenError
from agentflow.journal.postgres.patience import PatientConnection

SCHEMA = "agentflow"
#: As many statements as we have, in the forms that they take where values are missing.
_PREPARED = 500
#: Seconds for making a connection, at the most and at the least.
_DIALLING, _SHORTEST_DIALLING = 10.0, 2.0
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_NO_ADDRESS = (
    "AGENTFLOW_DATABASE_URL is no address that PostgreSQL understands; use postgresql://USER@HOST/DATABASE"
)
#: What a server says of itself that will be there in a moment; its errors at connecting have no number.
_STARTING = ("starting up", "not yet accepting connections", "in recovery mode", "shutting down")
_ADVICE = (
    *((said, "try again when it has started") for said in _STARTING),
    ("password", "check the user and the password of AGENTFLOW_DATABASE_URL (or PGPASSWORD, or ~/.pgpass)"),
    ("role ", "check the user of AGENTFLOW_DATABASE_URL"),
    ("pg_hba.conf", "allow this machine and user in the server's pg_hba.conf"),
    ("database ", "create it (createdb), or name another one in AGENTFLOW_DATABASE_URL"),
    ("resolve host", "check the host and the port of AGENTFLOW_DATABASE_URL"),
    ("SSL", "check sslmode of AGENTFLOW_DATABASE_URL"),
    ("clients already", "raise max_connections of the server, or run fewer processes"),
    ("connection slots", "raise max_connections of the server, or run fewer processes"),
)


def is_starting(error: BaseException) -> bool:
    """Whether the server that refused a connection will take some in a moment."""
    return any(said in str(error) for said in _STARTING)


class Address:
    """An address ``postgresql://user:password@host:port/database?schema=name``.

    All of libpq's parameters are understood, and `schema` besides: where the tables are (default ``agentflow``).
    Raises `JournalOpenError` for one that is none.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise JournalOpenError(_NO_ADDRESS) from None
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        self.schema = next((value for name, value in reversed(pairs) if name == "schema"), SCHEMA)
        rest = urlencode([pair for pair in pairs if pair[0] != "schema"], quote_via=quote)
        try:
            self._parameters: Mapping[str, Any] = conninfo.conninfo_to_dict(
                urlunsplit(parts._replace(query=rest))
            )
        except psycopg.ProgrammingError:  # its text may show the password
            raise JournalOpenError(_NO_ADDRESS) from None
        if not _NAME.fullmatch(self.schema):
            message = (
                f"schema={self.schema!r} in AGENTFLOW_DATABASE_URL: use lower-case letters, digits and _"
            )
            raise JournalOpenError(message)
        #: The address without its secrets, for people.
        self.url = self._shown()

    def _shown(self) -> str:
        known = self._parameters
        user = f"{quote(str(known['user']), safe='')}@" if known.get("user") else ""
        host = quote(str(known.get("host") or known.get("hostaddr") or ""), safe=",:[]")
        port = f":{known['port']}" if known.get("port") else ""
        schema = "" if self.schema == SCHEMA else f"?schema={self.schema}"
        return f"postgresql://{user}{host}{port}/{quote(str(known.get('dbname') or ''), safe='')}{schema}"

    def dial(
        self, lease: float, *, patience: float = float("inf"), seconds: float = _DIALLING
    ) -> PatientConnection:
        """A new connection, in autocommit. Raises `psycopg.Error`.

        `lease`: seconds after which a connection on which nothing moves must not hold anything any more.
        `patience`: seconds after which a server that says nothing is given up; `seconds`: for making the connection.
        """
        patient = {
            "connect_timeout": str(ceil(min(_DIALLING, max(_SHORTEST_DIALLING, seconds)))),
            "tcp_user_timeout": str(int(lease * 1000)),
            "keepalives_idle": "5",
        }
        connection = PatientConnection.connect(
            conninfo.make_conninfo(**{**patient, "application_name": "agentflow", **self._parameters}),
            autocommit=True,
            cursor_factory=psycopg.RawCursor[tuple[Any, ...]],
            prepare_threshold=0,
        )
        connection.prepared_max = _PREPARED
        connection.patience = min(patience, _DIALLING)
        try:
            connection.execute(
                f"SET search_path = {self.schema}; SET client_encoding = 'UTF8'; "
                f"SET idle_in_transaction_session_timeout = {int(lease * 1000)}".encode(),
                prepare=False,
            )
        except BaseException:
            connection.close()
            raise
        connection.patience = patience
        return connection

    def refusal(self, error: BaseException) -> JournalOpenError:
        """Why the journal cannot be opened, in one line that says what to do and shows no secret."""
        reason = self._reason(error)
        advice = next((text for part, text in _ADVICE if part in reason), "see that the server runs there")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            advice = (
                f"let a person with the right to do so run: CREATE SCHEMA {self.schema} AUTHORIZATION ..."
            )
        return JournalOpenError(f"cannot open the journal {self.url}: {reason}; {advice}")

    def _reason(self, error: BaseException) -> str:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = next(
            (line for line in lines if "FATAL" in line or "failed" in line), (lines or ["no answer"])[0]
        )
        text = text.rpartition("FATAL:")[2].strip()
        secret = self._parameters.get("password")
        return text.replace(str(secret), "***") if secret else text
