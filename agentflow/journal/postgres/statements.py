"""The named statements in PostgreSQL's dialect: those that all SQL stores share, and those that it adds or replaces."""

from __future__ import annotations

import re
from itertools import count

from agentflow.journal.sql import queries

FOLDER = "postgres"
"""Where its own statements and migrations stand."""


def translated(statement: str) -> bytes:
    """A statement with SQLite's parameter marks (``?``, ``?2``) as PostgreSQL's (``$1``, ``$2``).

    No statement of ours has a question mark anywhere else.
    """
    numbers = count(1)
    return re.sub(r"\?(\d*)", lambda mark: f"${mark[1] or next(numbers)}", statement).encode()


SQL = {name: translated(statement) for name, statement in (queries() | queries(FOLDER)).items()}
