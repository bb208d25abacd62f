"""``agentflow encryption-keys``: keys that values are encrypted with: made, listed, changed."""

from __future__ import annotations

from cyclopts import App

from agentflow.cli.db import lasting_journal
from agentflow.cli.output import COMPLETED, FAILED, print_json, print_line, print_table, say
from agentflow.cli.run import Flag
from agentflow.payloads.encryption import new_key
from agentflow.payloads.opening import keyring_of
from agentflow.reencryption import keys_in_use, rotate
from agentflow.settings import Settings

app = App(
    name="encryption-keys",
    help="Keys that arguments, results and values are encrypted with; only workers need them.",
)


@app.command
def generate(name: str, /) -> int:
    """Print a new key, as AGENTFLOW_ENCRYPTION_KEYS and the file of AGENTFLOW_ENCRYPTION_KEY_FILE name it.

    It is stored nowhere: keep it where your workers' secrets are. What is encrypted with a lost key is lost.

    Args:
        name: What it is to be called, in public.
    """
    print_line(new_key(name))
    return COMPLETED


@app.command
def ls(*, json: Flag = False) -> int:
    """List the keys that this process has or that values need, and how many values each of them has encrypted.

    Args:
        json: Print a JSON list.
    """
    keyring = keyring_of(Settings.from_environment())
    counts = keys_in_use(lasting_journal())
    first = keyring.first.id if keyring.first is not None else None
    views = [
        {"id": name, "here": name in keyring.ids, "encrypts": name == first, "values": counts[name]}
        for name in dict.fromkeys((*keyring.ids, *sorted(counts)))
    ]
    if json:
        print_json(views)
        return COMPLETED
    rows = [
        (
            str(view["id"]),
            "encrypts" if view["encrypts"] else "reads" if view["here"] else "is not here",
            f"{view['values']:,}",
        )
        for view in views
    ]
    print_table(("key", "does", "values"), rows, empty="no keys, and nothing is encrypted")
    return COMPLETED


@app.command(name="rotate")
def rotate_all(*, json: Flag = False) -> int:
    """Encrypt everything that is recorded with the first key: to change a key, put the new one in front, then rotate.

    It can be stopped and called again. Exit code 1 where values could not be read.

    Args:
        json: Print a JSON object.
    """
    done = rotate(lasting_journal(), Settings.from_environment())
    if json:
        print_json(done._asdict())
    else:
        for fault in done.unreadable:
            say(f"not read: {fault}", style="red")
        say(
            f"{done.renewed:,} values encrypted anew; `agentflow encryption-keys ls` says which are still needed"
        )
    return FAILED if done.unreadable else COMPLETED
