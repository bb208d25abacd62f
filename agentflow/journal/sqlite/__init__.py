"""The embedded journal: one SQLite file through apsw, many processes, one write connection each.

Each module holds the verbs of one part of the protocol; what they share is in `base`.
"""

from agentflow.journal.sqlite.admin import SqliteAdmin
from agentflow.journal.sqlite.cache import SqliteCache
from agentflow.journal.sqlite.deployments import SqliteDeployments
from agentflow.journal.sqlite.history import SqliteHistory
from agentflow.journal.sqlite.limits import SqliteLimits
from agentflow.journal.sqlite.payloads import SqlitePayloads
from agentflow.journal.sqlite.retention import SqliteRetention
from agentflow.journal.sqlite.runs import SqliteRuns
from agentflow.journal.sqlite.serving import SqliteServing
from agentflow.journal.sqlite.steps import SqliteSteps
from agentflow.journal.sqlite.waits import SqliteWaits


class SqliteJournal(
    SqliteHistory,
    SqliteRuns,
    SqliteSteps,
    SqliteWaits,
    SqliteLimits,
    SqliteDeployments,
    SqliteCache,
    SqliteRetention,
    SqlitePayloads,
    SqliteAdmin,
    SqliteServing,
):
    """See `agentflow.journal.protocol.Journal`. Raises `JournalOpenError` where its path cannot be a journal."""


__all__ = ["SqliteJournal"]
