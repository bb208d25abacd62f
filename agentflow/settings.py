"""Settings: one frozen value, read from the environment once per use. No I/O beyond reading variables."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from agentflow.errors import UsageError

DAY = 86_400.0
"""Seconds of a day."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set. Each field is read from ``AGENTFLOW_<NAME>`` in the environment."""

    #: Folder of the embedded journal, the installation's key and the locks.
    home: Path = field(default_factory=lambda: Path.home() / ".agentflow")
    #: ``sqlite:///path``, ``postgresql://user@host/database``, ``https://server`` or ``memory:``; empty =
    #: ``<home>/agentflow.db``.
    database_url: str = ""
    #: ``https://server``, whose journal is used instead; the same as naming it in `database_url`.
    api_url: str = ""
    #: What lets this process in at that server: a key of ``agentflow keys create``.
    api_key: str = field(default="", repr=False)
    #: Seconds after which a process that is not heard of counts as dead: on PostgreSQL its runs go on elsewhere; in
    #: every journal the slots of limits that it held without a run are free again.
    lease: float = 30.0
    #: Seconds that a waiting run of a server stays in memory before it is evicted.
    suspend_after: float = 60.0
    #: Seconds between two looks at the journal for decisions made by other processes.
    poll_interval: float = 0.2
    #: Seconds over which nothing may move before a waiting run counts as quiet.
    quiet_grace: float = 0.03
    #: How many submitted tasks of one run execute at once.
    max_workers: int = 16
    #: How many calls of one ``map`` are in flight at once.
    map_concurrency: int = 256
    #: Whether values that only pickle can store are allowed (signed with the installation's key).
    allow_pickle: bool = True
    #: Where large values are kept: ``file:///folder``, ``s3://bucket/prefix``, ``gs://...``, ``az://...``; empty = a
    #: folder beside an embedded journal, in their rows on PostgreSQL.
    payloads_url: str = ""
    #: Bytes up to which a value stays in its row; -1 = all do.
    payload_inline_limit: int = 131_072
    #: Seconds for which a stored value that nothing refers to is kept: more than a process takes from storing a value
    #: to committing the row that refers to it.
    payload_grace: float = 3600.0
    #: ``ID:KEY,...``: keys that values are encrypted with, of which the first is used for new ones; empty = none are.
    encryption_keys: str = field(default="", repr=False)
    #: A file with more of them, one a line.
    encryption_key_file: str = ""
    #: Seconds for which an approval can be given; 0 = for ever.
    approval_expires: float = 7 * DAY
    #: Days after which a server removes the payloads and logs of runs that have ended; 0 = never.
    retention_days: float = 30.0
    #: Seconds that a process which is told to end (SIGTERM) gives to the steps that have begun.
    drain_patience: float = 5.0
    #: Seconds that a cancelled run with a process of its own has to stop before the process is killed.
    cancel_grace: float = 30.0
    #: How many lives of a run in a row may end in the death of their process before any step has ended; then the run
    #: is parked as CRASHED. 0 = no end to it.
    max_crashes: int = 5
    #: How many runs a server executes at once; others wait.
    max_runs: int = 64
    #: How many processes of their own runs have at once (``agentflow serve --isolate``); others wait.
    max_processes: int = 16
    #: Retries of tasks that say nothing of them (not of side effects), and the seconds before each, of tasks that say
    #: nothing of those; read where a task is declared.
    task_retries: int = 0
    task_retry_delay_seconds: float = 0.0
    #: The same for flows.
    flow_retries: int = 0
    flow_retry_delay_seconds: float = 0.0
    #: Level of what `get_run_logger` records.
    log_level: str = "INFO"
    #: Port of ``agentflow serve``.
    port: int = 4300

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings of this process. Raises `UsageError` for a value of the wrong type."""
        values: dict[str, Any] = {}
        hints = _hints()
        for item in fields(cls):
            name = f"AGENTFLOW_{item.name.upper()}"
            text = os.environ.get(name, "")
            if text:
                values[item.name] = _parse(name, text, hints[item.name])
        return cls(**values)

    def as_environment(self) -> dict[str, str]:
        """The variables from which another process reads these settings."""
        return {f"AGENTFLOW_{item.name.upper()}": str(getattr(self, item.name)) for item in fields(self)}


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def _parse(name: str, text: str, kind: type[Any]) -> Any:
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[
                text.lower()
            ]
        return Path(text).expanduser() if kind is Path else kind(text)
    except (KeyError, ValueError):
        wanted = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        message = f"{name}={text!r} is not {wanted}"
        raise UsageError(message) from None
