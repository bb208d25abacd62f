"""``agentflow runs retry`` and ``fork``: an ended run goes on; a new run begins where another one stood."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from agentflow.cli import persons
from agentflow.cli.execution import execute, present
from agentflow.cli.finding import find_run
from agentflow.cli.output import result_stream, say
from agentflow.cli.parameters import read_object, read_pairs
from agentflow.cli.run import Flag
from agentflow.cli.runs import load_recorded
from agentflow.engine.forks import cut_at, in_words
from agentflow.flows import default_options
from agentflow.journal.opening import open_journal
from agentflow.model.runs import Origin


def retry(run: str, /, *, json: Flag = False) -> int:
    """Have a run that failed, crashed or was cancelled go on. Output and exit codes are those of `run`.

    The steps through which it failed run again, and what follows them; everything else is reused. Side effects that
    happened stay; one that certainly did not happen runs again; you are asked about one in doubt.

    Args:
        run: Id of the run, or an end of it.
        json: Print one JSON object on stdout instead of the result.
    """
    journal = open_journal()
    found = find_run(journal, run)
    with result_stream(alone=json) as stream:
        flow = load_recorded(found, "retry")
        who = persons.origin()
        flow.reopen(found.id, journal, origin=None if who is Origin.PERSON else who)
        return present(execute(journal, flow, found.id), json=json, stream=stream)


def fork(
    run: str,
    /,
    *,
    from_step: Annotated[str, Parameter(name="--from")],
    param: Annotated[tuple[str, ...], Parameter(name=["--param", "-p"], negative=())] = (),
    params: str | None = None,
    json: Flag = False,
) -> int:
    """Begin a new run where another one stood before a step, and run the rest anew. Output and exit codes as of `run`.

    First it lists which side effects the other run began from that step on. The new run asks you before each of its
    own, whatever its policy says.

    Args:
        run: Id of the run to begin with, or an end of it.
        from_step: The step: its id as `runs show` prints it, or its name; name#2 is the second one of that name.
        param: An argument that is to differ, name=value; repeatable.
        params: Arguments that are to differ as one JSON object.
        json: Print one JSON object on stdout instead of the result.
    """
    journal = open_journal()
    found = find_run(journal, run)
    with result_stream(alone=json) as stream:
        cut = cut_at(journal, found, from_step)
        flow = load_recorded(found, "fork")
        changes = {**read_object(params, "--params"), **read_pairs(param, flow.parameters_schema, "--param")}
        made = flow.forked(
            found.id, cut, changes, journal, default_options(suspend_after=0), persons.origin()
        )
        say(f"run {made.id} of {flow.name}, forked from {found.id} at {cut.name} ({cut.step[-8:]})")
        if cut.happened:
            say(f"From {cut.name} on, that run began these side effects; you are asked before each one here:")
        for effect in cut.happened:
            say(f"  {in_words(effect)}")
        return present(execute(journal, flow, made.id), json=json, stream=stream)
