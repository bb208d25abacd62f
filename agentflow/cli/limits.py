"""``agentflow limits``: how much of something may happen at once, who holds the slots, and who waits for them."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from agentflow.cli.output import COMPLETED, print_json, print_line, print_table, say, when
from agentflow.cli.run import Flag
from agentflow.engine.limits import define
from agentflow.errors import LimitNotFoundError, UsageError
from agentflow.journal.opening import open_journal
from agentflow.limit_views import find_limit, limit_view, limit_views
from agentflow.model.limits import ConcurrencyLimitStrategy

app = App(
    name="limits",
    help="Global limits: of `concurrency` and `rate_limit` by name, of tasks by tag:NAME, of runs by flow:NAME and "
    "deployment:FLOW/NAME.",
)


@app.command
def ls(*, json: Flag = False) -> int:
    """List limits, with how many slots are taken and how many claims wait.

    Args:
        json: Print a JSON list.
    """
    journal = open_journal()
    views = limit_views(journal)
    if json:
        print_json(views)
        return COMPLETED
    rows = [
        (
            view["name"],
            str(view["limit"]) + ("" if view["active"] else " (off)"),
            f"{view['limit'] - view['free']:g}",
            str(len(view["waiting"])),
            ", ".join(dict.fromkeys(slot["holder"] for slot in view["holders"])),
        )
        for view in views
    ]
    print_table(
        ("limit", "slots", "taken", "waiting", "held by"),
        rows,
        empty="no limits; agentflow limits set NAME N",
    )
    return COMPLETED


@app.command
def show(name: str, /, *, json: Flag = False) -> int:
    """Show a limit: its slots, who holds them and who waits, in their order.

    Args:
        name: Name of the limit.
        json: Print a JSON object.
    """
    journal = open_journal()
    view = limit_view(journal, find_limit(journal, name))
    if json:
        print_json(view)
        return COMPLETED
    for key in ("name", "limit", "active", "free", "slot_decay_per_second", "collision_strategy"):
        print_line(f"{key:<22} {view[key]}")
    rows = [
        (
            what,
            slot["holder"],
            slot["step"],
            str(slot["slots"]),
            when(slot["granted"] or slot["since"]),
        )
        for what, slots in (("holds", view["holders"]), ("waits", view["waiting"]))
        for slot in slots
    ]
    print_table(("", "who", "step", "slots", "since"), rows, empty="nobody holds a slot, nobody waits")
    return COMPLETED


@app.command(name="set")
def set_limit(
    name: str,
    limit: int,
    /,
    *,
    slot_decay_per_second: float | None = None,
    strategy: ConcurrencyLimitStrategy | None = None,
    active: Annotated[bool | None, Parameter(negative="--inactive")] = None,
    json: Flag = False,
) -> int:
    """Define a limit, or change it; whoever fits in now goes on at once.

    Args:
        name: Its name: yours, tag:NAME (each task of the tag), flow:NAME or deployment:FLOW/NAME (each run).
        limit: How many slots there are; 0 holds everybody until it is raised.
        slot_decay_per_second: How many used slots come back each second, for rate_limit; default: as it was, else 0.
        strategy: For limits of runs: what becomes of a run for which no slot is free; default: as it was, else ENQUEUE.
        active: --inactive keeps the limit without limiting anything; default: as it was, else active.
        json: Print the limit as a JSON object.
    """
    journal = open_journal()
    made = define(
        journal,
        name,
        limit=limit,
        active=active,
        slot_decay_per_second=slot_decay_per_second,
        collision_strategy=strategy,
    )
    if json:
        print_json(limit_view(journal, made))
    else:
        say(f"{name} has {limit} slot{'' if limit == 1 else 's'}")
    return COMPLETED


@app.command
def rm(name: str, /) -> int:
    """Remove a limit; whoever waits for it goes on.

    Args:
        name: Name of the limit.
    """
    if not open_journal().delete_limit(name):
        raise LimitNotFoundError(name)
    say(f"{name} is removed")
    return COMPLETED


@app.command
def reset(name: str, /, *, yes: Flag = False) -> int:
    """Free all slots of a limit, though their holders go on. Slots of dead holders are free without this.

    Args:
        name: Name of the limit.
        yes: Do it.
    """
    journal = open_journal()
    find_limit(journal, name)
    if not yes:
        message = f"more than {name} allows may then happen at once; say so with --yes"
        raise UsageError(message)
    say(f"{journal.reset_limit(name)} slots of {name} are free again")
    return COMPLETED
