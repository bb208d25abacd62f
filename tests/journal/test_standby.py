"""Failover: the server of a journal is gone for good, a standby that had every durable commit takes its place."""

from __future__ import annotations

import time

import pytest

from agentflow.journal.postgres import PostgresJournal
from tests.faults import Measured
from tests.journal.postgres_driver import KEY
from tests.journal.postgres_server import running_pair
from tests.journal.test_outages import Load

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]


@pytest.mark.fault(6, "failover to a synchronous standby")
def test_a_standby_takes_over_under_load(fault: Measured) -> None:
    """Writers wait for it; what they were told is there, once, what was not durable included."""
    with running_pair() as (primary, standby):
        first, second = primary.url().partition("?")[0], standby.port
        address = first.replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{second}/")
        journal = PostgresJournal(
            f"{address}?schema=moved&target_session_attrs=read-write", KEY, patience=60.0
        )
        load = Load(journal, 4)
        load.progress(60)
        primary.stop("immediate")
        began = time.monotonic()
        standby.promote()
        load.progress(1)
        seconds = time.monotonic() - began
        load.progress(60)
        load.end()
        print(f"all four writers were back {seconds:.1f} s after the standby was asked to take over")
        fault(1, lost=load.lost, doubled=load.doubled)
        journal.close()
