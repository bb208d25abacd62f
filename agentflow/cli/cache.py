"""``agentflow cache``: the results that later runs may use."""

from __future__ import annotations

import time
from typing import Any

from cyclopts import App

from agentflow.cli.output import COMPLETED, age, at_most, print_json, print_table, say
from agentflow.cli.run import Flag
from agentflow.engine.cache_misses import run_name
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import CacheFilter
from agentflow.views import cache_view

app = App(name="cache", help="Results of tasks that later runs may use.")


@app.command
def ls(*, task: str = "", expired: Flag = False, limit: int = 50, json: Flag = False) -> int:
    """List cached results, newest first.

    Args:
        task: Only of tasks with this name.
        expired: Only those that have expired.
        limit: At most so many; default: 50.
        json: Print a JSON list.
    """
    now = time.time()
    wanted = CacheFilter(name=task, expired_by=now if expired else None, limit=at_most(limit))
    views = [cache_view(entry, now) for entry in open_journal().cache_entries(wanted)]
    if json:
        print_json(views)
        return COMPLETED
    rows = [
        (
            view["name"],
            age(view["created"]),
            _until(view),
            f"{view['size']} B",
            run_name(view["run_id"]),
            view["task"],
        )
        for view in views
    ]
    print_table(("task", "age", "good", "size", "run", "identity"), rows, empty="no cached results")
    return COMPLETED


def _until(view: dict[str, Any]) -> str:
    if view["private"]:
        return "in its run"
    if view["expires"] is None:
        return "for ever"
    return "expired" if view["expired"] else f"until {view['expires'][:16].replace('T', ' ')}"


@app.command
def clear(*, task: str = "", expired: Flag = False, json: Flag = False) -> int:
    """Remove cached results: all of them, or those of a task, or those that have expired. Runs keep what they took.

    Args:
        task: Only of tasks with this name.
        expired: Only those that have expired.
        json: Print a JSON object.
    """
    wanted = CacheFilter(name=task, expired_by=time.time() if expired else None)
    removed = open_journal().clear_cache(wanted)
    if json:
        print_json({"removed": removed})
    else:
        say(f"{removed} cached result{'s' * (removed != 1)} removed")
    return COMPLETED
