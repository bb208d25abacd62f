"""A journal in a file, with a folder of values beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentflow.journal.sqlite import SqliteJournal
from tests.payloads.keeping import KEY


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal(tmp_path / "j.db", KEY)
    yield made
    made.close()
