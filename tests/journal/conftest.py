"""What most tests of verbs begin with: each store, empty, on a clock that the test moves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentflow.journal.protocol import Journal
from tests.fundamentals.lives import Clock
from tests.journal.stores import STORES, open_store


@pytest.fixture
def clock() -> Clock:
    """Moves when it is told to."""
    return Clock(1000.0)


@pytest.fixture(params=STORES)
def journal(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    """Each store, empty."""
    made = open_store(request, tmp_path, clock)
    yield made
    made.close()
