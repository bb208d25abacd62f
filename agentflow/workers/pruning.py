"""What a worker does beside its runs: payloads of runs that ended long ago are removed, stored values with them."""

from __future__ import annotations

from agentflow.engine.active import Options
from agentflow.journal.protocol import Journal
from agentflow.journal.protocol.admin import AdminVerbs
from agentflow.settings import DAY
from agentflow.stored_values import sweep

#: How many runs are looked at in one go.
_PAGE = 100
_HOUR = 3600.0


class Pruning:
    """Through all runs, then again after an hour."""

    def __init__(self, journal: Journal, options: Options) -> None:
        self._journal, self._options = journal, options
        self._next, self._after = 0.0, 0

    def go_on(self) -> None:
        """Remove some, if it is time to."""
        days, now = self._options.settings.retention_days, self._options.clock()
        if days <= 0 or now < self._next:
            return
        self._after = self._journal.prune_runs(now - days * DAY, after=self._after, limit=_PAGE).last
        self._next = now if self._after else now + _HOUR
        if not self._after and isinstance(self._journal, AdminVerbs):
            sweep(self._journal, self._options.settings)
