"""`agentflow deploy` and `agentflow deployments`: a flow under a name, runs asked for by name, executed by a server."""

from __future__ import annotations

import pytest

from tests.cli.conftest import FLOWS, Shell, ended

DEPLOY = ("deploy", f"{FLOWS}:doubled", "--name", "nightly")
RUN = ("deployments", "run", "doubled/nightly")


def test_a_deployment_is_made_listed_shown_and_deleted(shell: Shell) -> None:
    """What was given is listed and shown, as people and as programs read it."""
    made = shell.look(
        *DEPLOY, "-p", "numbers=1", "-p", "numbers=2", "--tag", "x", "--description", "every night", "--version",
        "3", "--concurrency-limit", "2", "--collision-strategy", "CANCEL_NEW", "--json",
    ).json()  # fmt: skip
    assert (made["name"], made["parameters"], made["tags"]) == ("doubled/nightly", {"numbers": [1, 2]}, ["x"])
    assert (made["version"], made["paused"], made["origins"]) == ("3", False, ["person"])
    assert made["parameters_schema"]["required"] == ["numbers"]
    listed = shell.look("deployments", "ls", "--json").json()
    assert [found["name"] for found in listed] == ["doubled/nightly"]
    assert "2 CANCEL_NEW" in shell.look("deployments", "ls").out
    assert shell.look("deployments", "ls", "--flow", "other", "--json").json() == []
    assert shell.look("deployments", "ls", "--tag", "x", "--json").json() == listed
    assert "deployment:doubled/nightly" in shell.look("limits", "ls").out
    shown = shell.look("deployments", "show", "doubled/nightly")
    assert "numbers=[1, 2]" in shown.out
    assert "at once, CANCEL_NEW" in shown.out
    assert "no runs yet" in shown.err
    assert shell.look("deployments", "delete", "doubled/nightly").code == 0
    assert shell.look("deployments", "show", "doubled/nightly").code == 2
    assert shell.look("limits", "ls", "--json").json() == []


def test_deploying_again_says_what_has_become_of_it(shell: Shell) -> None:
    """Deployed, unchanged, deployed anew - and with the version."""
    assert "doubled/nightly is deployed\n" in shell.look(*DEPLOY).err
    assert "doubled/nightly is unchanged" in shell.look(*DEPLOY).err
    assert "is deployed anew (version 2)" in shell.look(*DEPLOY, "--version", "2").err
    assert len(shell.look("deployments", "ls", "--json").json()) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("deploy", f"{FLOWS}:nothing", "--name", "a"), "has no flow 'nothing'"),
        (("deploy", "nowhere.py:flow", "--name", "a"), "no such file"),
        (("deploy", f"{FLOWS}:doubled", "--name", "a/b"), "no name for a deployment"),
        (("deploy", f"{FLOWS}:doubled", "--name", ""), "no name for a deployment"),
        ((*DEPLOY, "--concurrency-limit", "0"), "at least 1"),
        ((*DEPLOY, "--concurrency-limit", "-3"), "at least 1"),
        ((*DEPLOY, "--collision-strategy", "CANCEL_NEW"), "give --concurrency-limit"),
        ((*DEPLOY, "-p", "other=1"), "has no parameter 'other'"),
        ((*DEPLOY, "-p", "numbers=x"), "numbers.0"),
        ((*RUN, "-p", "numbers=x"), "numbers.0: 'x' is not of type 'integer'"),
        (RUN, "it needs the parameter 'numbers'"),
        ((*RUN, "-p", "numbers=[1]", "-p", "other=1"), "no parameter 'other'"),
        (("deployments", "run", "doubled/other"), "no deployment 'doubled/other'"),
        (("deployments", "pause", "doubled/other"), "no deployment"),
        (("deployments", "resume", "doubled/other"), "no deployment"),
        (("deployments", "delete", "doubled/other"), "no deployment"),
    ],
)
def test_wrong_use_is_one_line(shell: Shell, arguments: tuple[str, ...], problem: str) -> None:
    """And exit code 2; nothing is made."""
    assert shell.look(*DEPLOY).code == 0
    refused = shell.look(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert problem in refused.err
    assert refused.err.count("\n") == 1
    assert len(shell.look("deployments", "ls", "--json").json()) == 1
    assert shell.look("runs", "ls", "--json").json() == []


def test_a_paused_deployment_takes_no_runs(shell: Shell) -> None:
    """Until it is resumed; deploying again does not resume it, unless that is said."""
    shell.look(*DEPLOY, "--paused")
    refused = shell.look(*RUN, "-p", "numbers=[1]")
    assert (refused.code, "is paused and takes no new runs" in refused.err) == (2, True)
    shell.look(*DEPLOY, "--version", "2")
    assert shell.look(*RUN, "-p", "numbers=[1]").code == 2
    assert shell.look("deployments", "resume", "doubled/nightly").code == 0
    assert shell.look(*RUN, "-p", "numbers=[1]").code == 0
    assert shell.look("deployments", "pause", "doubled/nightly").code == 0
    assert shell.look(*RUN, "-p", "numbers=[1]").code == 2
    shell.look(*DEPLOY, "--no-paused")
    assert shell.look(*RUN, "-p", "numbers=[1]").code == 0


def test_a_server_executes_what_is_asked_for(shell: Shell) -> None:
    """Also what was asked for before it came; `--watch` follows a run to its result and exit code."""
    shell.look(*DEPLOY, "--version", "1")
    asked = shell.look(
        *RUN, "-p", "numbers=[1]", "--tag", "y", "--flow-run-name", "early", "--idempotency-key", "k"
    )
    early = asked.out.strip()
    assert f"agentflow runs watch {early}" in asked.err
    assert shell.look(*RUN, "-p", "numbers=[5]", "--idempotency-key", "k").out.strip() == early
    server = shell.start("serve", FLOWS, "--port", "0")
    try:
        watched = shell(*RUN, "-p", "numbers=2", "-p", "numbers=3", "--watch")
        assert (watched.code, watched.out) == (0, "10\n")
        assert shell("runs", "watch", early, "--json").json()["result"] == 2
        shell.look("deploy", f"{FLOWS}:broken", "--name", "a")
        failed = shell("deployments", "run", "broken/a", "--watch", "--json")
        assert (failed.code, failed.json()["state"]) == (1, "FAILED")
        runs = shell.look("runs", "ls", "--deployment", "doubled/nightly", "--json").json()
        assert {run["name"]: run["tags"] for run in runs}["early"] == ["y"]
        assert "deployment  doubled/nightly (1)" in shell.look("runs", "show", early).out
        assert {(run["deployment"], run["deployment_version"]) for run in runs} == {("doubled/nightly", "1")}
        assert len(runs) == 2
    finally:
        server.terminate()
        ended(server)


def test_in_an_agents_shell_a_model_defines_it(shell: Shell) -> None:
    """And is behind each of its runs, whoever asks for them; a person who deploys it again vouches for it."""
    assert shell(*DEPLOY, CLAUDECODE="1").code == 0
    assert shell.look(*RUN, "-p", "numbers=[1]", "--json").json()["origins"] == ["person", "model"]
    shell.look(*DEPLOY)
    assert shell.look(*RUN, "-p", "numbers=[1]", "--json").json()["origins"] == ["person"]
