"""Pausing a run for a person, and having it go on, under Prefect's names; it is a durable wait like `request_input`.

Nothing is polled: the run may leave memory, survive its process, and goes on wherever somebody sees the answer.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from pydantic import BaseModel

from agentflow.approvals.decisions import decide
from agentflow.engine.away import ABROAD
from agentflow.engine.context import CURRENT, current_frame
from agentflow.engine.logs import HOOK_OF
from agentflow.engine.runtime import running_loop
from agentflow.errors import ApprovalDenied, DecisionRefusedError, RunNotFoundError, RunStateError
from agentflow.input import RunInput
from agentflow.journal.opening import open_journal
from agentflow.model.runs import Origin
from agentflow.model.waits import Assurance, Channel, Verdict, Wait, WaitKind
from agentflow.shells import person, shell_origin
from agentflow.signatures import adapter_schema, make_adapter
from agentflow.waits import Seconds, pause

__all__ = ["RunInput", "pause_flow_run", "resume_flow_run", "suspend_flow_run"]

#: In a question: it only asks whether the run goes on.
_MARK = "goes_on"


def pause_flow_run(
    wait_for_input: type[Any] | None = None,
    timeout: Seconds | None = 3600,
    poll_interval: float = 10,
    key: str | None = None,
) -> Any:
    """Wait until a person lets the run go on: in a sync flow it blocks, in an async one it is awaited.

    Args:
        wait_for_input: What the person has to give: a `RunInput`, any pydantic model, or a type such as ``str``; this
            call then gives it. None: the person says whether the run goes on.
        timeout: Seconds, or a timedelta; None = as long as it takes.
        poll_interval: Not used, as nothing is polled; Prefect's.
        key: Asked once in the run under this name: another pause with the same key, also of a retry, gives the same
            answer at once.

    Raises:
        ApprovalDenied: The person declined.
        WaitTimeoutError: Nobody answered in time. Prefect's ``FlowPauseTimeout``.
    """
    del poll_interval
    flow = current_frame("pause_flow_run()").run.run.flow
    adapter = make_adapter(bool if wait_for_input is None else wait_for_input)
    told = getattr(wait_for_input, "run_input_description", None)
    if wait_for_input is None:
        told = f"{flow} is paused. Is it to go on?"
    elif told is None:
        told = f"{flow} is paused, and wants {getattr(wait_for_input, '__name__', wait_for_input)}."

    def read(answer: Any) -> Any:
        value: Any = adapter.validate_python(answer)
        if wait_for_input is not None:
            return value.as_declared() if isinstance(value, RunInput) else value
        if not value:
            raise ApprovalDenied(flow)
        return None

    question = {"message": told, _MARK: wait_for_input is None}
    schema = adapter_schema(adapter)
    waiting = pause(key or f"{flow} is paused", schema, read, timeout, key=key, question=question)
    return waiting if running_loop() is not None else waiting.result()


def suspend_flow_run(
    wait_for_input: type[Any] | None = None, *, timeout: Seconds | None = 3600, key: str | None = None
) -> Any:
    """`pause_flow_run`. A run that waits leaves memory by itself, wherever nobody in the process waits for its result.

    What has run is not run again when it comes back, so there is nothing else to know of it.
    """
    return pause_flow_run(wait_for_input, timeout, key=key)


def resume_flow_run(flow_run_id: str | uuid.UUID, run_input: Any = None) -> Any:
    """Answer, as a person, what a paused run asks for; it goes on where it is, or where it is served.

    On a running event loop this is a coroutine. It answers questions (`pause_flow_run`, `request_input`), never
    approvals of side effects; without a terminal or a page behind it, it counts least.

    Args:
        flow_run_id: Id of the run.
        run_input: What it wants: JSON, or a model; None where it only asks whether it goes on.

    Raises:
        RunNotFoundError: There is no such run.
        RunStateError: It does not ask for anything, or for several things.
        DecisionRefusedError: The answer does not fit; or no person calls this: a flow does, a worker, a coding agent.
    """
    around = CURRENT.get() is not None or ABROAD.get() is not None or HOOK_OF.get() is not None
    if around or shell_origin() is not Origin.PERSON:
        message = (
            f"refused: {flow_run_id} waits for a person, and this is code of a flow, a worker or a coding agent; "
            "answer on the page of the run, or in a terminal: agentflow approvals ls"
        )
        raise DecisionRefusedError(message)
    answer = partial(_answer, str(flow_run_id), run_input)
    return answer() if running_loop() is None else asyncio.to_thread(answer)


def _answer(run_id: str, given: Any) -> None:
    journal = open_journal()
    run = journal.get_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    waits = journal.list_waits(number=run.number, open_only=True, kinds=frozenset({WaitKind.INPUT}))
    if len(waits) != 1:
        asked = f"asks for {len(waits)} things at once" if waits else "does not ask for anything"
        message = f"run {run_id} {asked} ({run.state}); agentflow approvals ls --run {run_id}"
        raise RunStateError(message)
    decide(
        journal,
        waits[0].id,
        Verdict.ANSWERED,
        answer=_as_json(given, waits[0]),
        actor=person(),
        channel=Channel.CODE,
        assurance=Assurance.NONE,
    )


def _as_json(given: Any, wait: Wait) -> Any:
    if given is None:
        return True if wait.question.get(_MARK) else {}
    if isinstance(given, BaseModel):
        return given.model_dump(mode="json")
    named: dict[str, Any] = {**given} if isinstance(given, Mapping) else {}
    if [*named] == ["value"] and "properties" not in wait.schema:
        return named["value"]  # so Prefect calls the input of a builtin type
    return cast("Any", given)
