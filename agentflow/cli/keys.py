"""``agentflow keys``: by which workers on other machines are let in; each is shown once, when it is made."""

from __future__ import annotations

import time
from typing import Any

from cyclopts import App

from agentflow.cli.output import COMPLETED, print_json, print_line, print_table, say, when
from agentflow.cli.run import Flag
from agentflow.errors import UsageError
from agentflow.journal.api_keys import digest_of, new_api_key
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol.serving import ApiKey, ServingVerbs
from agentflow.views import stamp

app = App(
    name="keys",
    help="Keys of workers that reach this journal through `agentflow serve`. They decide nothing, and open no page.",
)


@app.command
def create(name: str, /, *, json: Flag = False) -> int:
    """Make a key and print it. It is not stored: who loses it makes another one.

    Args:
        name: What people call it: the machine, or the team.
        json: Print a JSON object.
    """
    journal = _journal()
    key, text = new_api_key(name)
    journal.add_api_key(key, digest_of(text))
    if json:
        print_json(_view(key) | {"key": text})
    else:
        print_line(text)
        say("Give it to the worker as AGENTFLOW_API_KEY; it is not shown again.", style="dim")
    return COMPLETED


@app.command
def ls(*, json: Flag = False) -> int:
    """List keys, oldest first, with those that were revoked.

    Args:
        json: Print a JSON list.
    """
    views = [_view(key) for key in _journal().api_keys()]
    if json:
        print_json(views)
        return COMPLETED
    rows = [
        (view["id"], view["name"], when(view["created"]), when(view["revoked"]) if view["revoked"] else "")
        for view in views
    ]
    print_table(("id", "name", "created", "revoked"), rows, empty="no keys; agentflow keys create NAME")
    return COMPLETED


@app.command
def revoke(key_id: str, /) -> int:
    """Let nobody in with a key any more. What its workers own is free for others a lease later.

    Args:
        key_id: Its id, as `agentflow keys ls` shows it.
    """
    if not _journal().revoke_api_key(key_id, time.time()):
        message = f"no key {key_id!r} that is good; agentflow keys ls lists them"
        raise UsageError(message)
    say(f"key {key_id} is revoked")
    return COMPLETED


def _journal() -> ServingVerbs:
    journal = open_journal()
    if not isinstance(journal, ServingVerbs):
        message = f"keys are made where the server has its journal, not through {journal.url}"
        raise UsageError(message)
    return journal


def _view(key: ApiKey) -> dict[str, Any]:
    return {"id": key.id, "name": key.name, "created": stamp(key.created), "revoked": stamp(key.revoked)}
