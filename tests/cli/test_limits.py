"""`agentflow limits`: defining limits, and seeing who holds their slots."""

from agentflow.model.limits import Claim
from tests.cli.conftest import Shell


def test_limits_are_set_listed_and_removed(shell: Shell) -> None:
    """What is set is listed, changed and removed; an unknown name is wrong use."""
    assert shell.look("limits", "ls", "--json").json() == []
    assert shell.look("limits", "set", "db", "2").code == 0
    made = shell.look("limits", "set", "api", "5", "--slot-decay-per-second", "0.5", "--json").json()
    assert (made["limit"], made["slot_decay_per_second"], made["free"]) == (5, 0.5, 5)
    assert [limit["name"] for limit in shell.look("limits", "ls", "--json").json()] == ["api", "db"]
    assert (
        shell.look("limits", "set", "api", "3", "--inactive", "--json").json()["slot_decay_per_second"] == 0.5
    )
    assert shell.look("limits", "rm", "api").code == 0
    for command in (("rm", "api"), ("show", "api"), ("reset", "api", "--yes"), ("set", "db", "-1")):
        assert shell.look("limits", *command).code == 2


def test_holders_and_waiters_are_named(shell: Shell) -> None:
    """Ls and show say who holds the slots and who waits; reset frees them, if it is meant."""
    shell.look("limits", "set", "db", "1")
    journal = shell.journal
    assert journal is not None
    journal.claim_slots(Claim("a", ("db",), step="fetch", keeper="k"))
    journal.claim_slots(Claim("b", ("db",), step="store", keeper="k"))
    view = shell.look("limits", "show", "db", "--json").json()
    assert [slot["step"] for slot in view["holders"]] == ["fetch"]
    assert [slot["step"] for slot in view["waiting"]] == ["store"]
    assert view["free"] == 0
    line = shell.look("limits", "ls").out.splitlines()[1].split()
    assert line[:4] == ["db", "1", "1", "1"]
    assert shell.look("limits", "reset", "db").code == 2
    assert shell.look("limits", "reset", "db", "--yes").code == 0
    assert [slot.claim for slot in journal.list_slots(limit="db")] == ["b"]
