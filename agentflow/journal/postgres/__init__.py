"""The shared journal: a PostgreSQL database through psycopg, many processes on many machines.

Each module holds the verbs of one part of the protocol; what they share is in `base`. Needs the extra
``agentflow[postgres]``, which `agentflow.journal.opening` asks for.
"""

from agentflow.journal.postgres.admin import PostgresAdmin
from agentflow.journal.postgres.cache import PostgresCache
from agentflow.journal.postgres.deployments import PostgresDeployments
from agentflow.journal.postgres.history import PostgresHistory
from agentflow.journal.postgres.limits import PostgresLimits
from agentflow.journal.postgres.payloads import PostgresPayloads
from agentflow.journal.postgres.retention import PostgresRetention
from agentflow.journal.postgres.runs import PostgresRuns
from agentflow.journal.postgres.serving import PostgresServing
from agentflow.journal.postgres.steps import PostgresSteps
from agentflow.journal.postgres.waits import PostgresWaits


class PostgresJournal(
    PostgresHistory,
    PostgresRuns,
    PostgresSteps,
    PostgresWaits,
    PostgresLimits,
    PostgresDeployments,
    PostgresCache,
    PostgresRetention,
    PostgresPayloads,
    PostgresAdmin,
    PostgresServing,
):
    """See `agentflow.journal.protocol.Journal`. Raises `JournalOpenError` where its address cannot be opened."""


__all__ = ["PostgresJournal"]
