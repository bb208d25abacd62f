"""`agentflow cache`, and what `agentflow runs show` says of the cache."""

from tests.cli.conftest import FLOWS, Shell


def squares(shell: Shell, *numbers: int) -> str:
    """A run; returns its id."""
    return str(shell("run", f"{FLOWS}:squares", "-p", f"numbers={list(numbers)}", "--json").json()["run_id"])


def test_a_run_shows_what_was_cached_and_why_the_rest_was_not(shell: Shell) -> None:
    """Step by step, many steps of one name in one line; as JSON with the step."""
    first = squares(shell, 2)
    second = squares(shell, 2, 3)
    assert shell.world == ["squared 2", "squared 3"]
    assert "not from the cache: no earlier result of this task" in shell.look("runs", "show", first).out
    shown = shell.look("runs", "show", second).out
    assert f"from the cache: run …{first[-8:]}" in shown
    assert "not from the cache: argument 'number' differs" in shown
    hit, miss = (
        step["detail"]["cache"] for step in shell.look("runs", "show", second, "--json").json()["steps"]
    )
    assert (hit["result"], hit["from_run"]) == ("hit", first)
    assert (miss["result"], miss["compared_with"]) == ("miss", first)
    many = shell.look("runs", "show", squares(shell, 2, 3, 4, 5, 6)).out
    assert "2 from the cache; 3 not: argument 'number' differs" in many


def test_listing_and_clearing(shell: Shell) -> None:
    """By task, the expired ones only, or all."""
    assert shell.look("cache", "ls", "--json").json() == []
    assert shell.look("cache", "ls").err == "no cached results\n"
    run = squares(shell, 2, 3)
    listed = shell.look("cache", "ls", "--json").json()
    assert [(entry["name"], entry["run_id"], entry["looks_at"]) for entry in listed] == [
        ("squared", run, ["argument:number"])
    ] * 2
    assert (listed[0]["expired"], listed[0]["expires"], listed[0]["size"]) == (False, None, 1)
    heading, line, _ = shell.look("cache", "ls").out.splitlines()
    assert heading.split() == ["task", "age", "good", "size", "run", "identity"]
    assert "for ever" in line
    assert shell.look("cache", "ls", "--expired", "--json").json() == []
    assert shell.look("cache", "ls", "--task", "other", "--json").json() == []
    assert shell.look("cache", "clear", "--expired", "--json").json() == {"removed": 0}
    assert shell.look("cache", "clear", "--task", "squared").err == "2 cached results removed\n"
    squares(shell, 2)
    assert shell.world.count("squared 2") == 2
    assert shell.look("cache", "clear", "--json").json() == {"removed": 1}
