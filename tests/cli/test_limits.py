"""`agentflow limits`: defining limits, and seeing who holds their slots."""

import re

from agentflow.model.limits import Claim
from tests.cli.conftest import FLOWS, Shell, ended


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


def test_a_run_that_waits_for_a_slot_says_for_what_and_goes_on(shell: Shell) -> None:
    """On stderr, in `runs ls` and in `runs show`: which limit, and who holds its slot."""
    shell.look("limits", "set", "flow:held", "1")
    first = shell.start("run", f"{FLOWS}:held")
    shell.until_world("hold 2", first)
    second = shell.start("run", f"{FLOWS}:held")
    assert second.stderr is not None
    said = next(line for line in second.stderr if "waits for" in line)
    waiting, running = shell.look("runs", "ls", "--json").json()
    reason = f"a slot of flow:held (limit 1, held by run {running['run_id']})"
    assert reason in said
    assert (running["state_name"], running["awaiting_slots"]) == (None, [])
    assert (waiting["state"], waiting["state_name"]) == ("PENDING", "AwaitingConcurrencySlot")
    assert [slot["text"] for slot in waiting["awaiting_slots"]] == [reason]
    assert "AwaitingConcurrencySlot" in shell.look("runs", "ls").out
    shown = shell.look("runs", "show", waiting["run_id"]).out
    assert "PENDING (AwaitingConcurrencySlot)" in shown
    assert reason in shown
    shell.open_the_gate()
    assert (ended(first).out.strip(), ended(second).out.strip()) == ("4", "4")


def test_blocks_that_held_slots_are_told_apart_from_steps(shell: Shell) -> None:
    """`runs show` has them where they ended, with what they did."""
    shell.look("limits", "set", "db", "1")
    assert shell("run", f"{FLOWS}:limited").code == 0
    (run,) = shell.look("runs", "ls", "--json").json()
    shown = shell.look("runs", "show", run["run_id"]).out
    assert re.search(r"concurrency:db  \w{8}  slots held", shown)
