"""The reference journal: plain dictionaries under one lock. For tests, and as the oracle of the other stores."""

from agentflow.journal.memory.cache import MemoryCache
from agentflow.journal.memory.deployments import MemoryDeployments
from agentflow.journal.memory.history import MemoryHistory
from agentflow.journal.memory.limits import MemoryLimits
from agentflow.journal.memory.retention import MemoryRetention
from agentflow.journal.memory.runs import MemoryRuns
from agentflow.journal.memory.steps import MemorySteps
from agentflow.journal.memory.waits import MemoryWaits


class MemoryJournal(
    MemoryHistory,
    MemoryRuns,
    MemorySteps,
    MemoryWaits,
    MemoryLimits,
    MemoryDeployments,
    MemoryCache,
    MemoryRetention,
):
    """See `agentflow.journal.protocol.Journal`. Dies with its process."""


__all__ = ["MemoryJournal"]
